import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.tokens.stores import EOS, build_store, document, number_tokenizer, random_documents

from reprise.errors import UserError
from reprise.tokens import builder
from reprise.tokens.builder import StoreBuilder
from reprise.tokens.store import BucketKey, TokenStore


def mixed_documents() -> list[dict]:
    return [
        *random_documents(1, 40, 30, "en-", lang="en", source="book"),
        *random_documents(2, 30, 20, "zh-", lang="zh", source="web", topic="Law"),
        *random_documents(3, 20, 20, "zo-", lang="zh", source="web", topic="Others"),
        *random_documents(4, 5, 20, "va-", lang="zh", source="web", topic="Others", split="valid"),
    ]


@pytest.mark.parametrize("held_bytes", [1000, 0])
def test_store_is_the_same_whatever_the_order_of_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    documents = mixed_documents()
    shuffled = [documents[i] for i in np.random.default_rng(0).permutation(len(documents))]
    first = build_store(tmp_path / "a", documents)
    monkeypatch.setattr(builder, "HELD_BYTES", held_bytes)  # the second one goes by way of the disk
    second = build_store(tmp_path / "b", shuffled)
    assert not list((tmp_path / "b").glob("runs*"))
    assert first.fingerprint == second.fingerprint
    names = [path.relative_to(first.root) for path in sorted(first.root.rglob("*")) if path.is_file()]
    assert len(names) == 4 * 7 + 1
    for name in names:
        assert (first.root / name).read_bytes() == (second.root / name).read_bytes(), name


def test_documents_with_one_id_do_not_go_by_arrival(tmp_path: Path) -> None:
    twins = [document("x", [5, 6]), document("x", [7, 8, 9]), document("x", [10])]
    stores = [
        build_store(tmp_path / str(i), [twins[j] for j in order]) for i, order in enumerate([(0, 1, 2), (2, 1, 0)])
    ]
    assert stores[0].fingerprint == stores[1].fingerprint


def test_buckets_hold_every_document_with_its_numbers(tmp_path: Path) -> None:
    documents = mixed_documents()
    store = build_store(tmp_path, documents)
    assert list(store.train) == [
        BucketKey("en", "book", None),
        BucketKey("zh", "web", "Law"),
        BucketKey("zh", "web", "Others"),
    ]
    assert list(store.valid) == [BucketKey("zh", "web", "Others")]
    found = 0
    for split in ("train", "valid"):
        for key, bucket in getattr(store, split).items():
            topic = key.topic
            expected = sorted(
                (d for d in documents if (d["split"], d["lang"], d["topic"]) == (split, key.language, topic)),
                key=lambda d: d["id"],
            )
            assert bucket.doc_ids[:] == [d["id"] for d in expected]
            assert bucket.doc_ids[-1] == expected[-1]["id"]
            assert bucket.ppl.tolist() == [d["ppl"] for d in expected]
            assert bucket.num_bytes.tolist() == [len(d["text"]) for d in expected]
            for i, d in enumerate(expected):
                ids = bucket.tokens[bucket.offsets[i] : bucket.offsets[i + 1]].tolist()
                assert ids == [*map(int, d["text"].split()), EOS]
            found += len(expected)
    assert found == len(documents)


def test_topic_counts_only_where_the_source_is_split(tmp_path: Path) -> None:
    store = build_store(tmp_path, random_documents(1, 5, 4, source="book", topic="Law"))
    assert list(store.train) == [BucketKey("en", "book", None)]


def test_five_lines_of_numpy_read_a_document(tmp_path: Path) -> None:
    build_store(tmp_path, [document("b", [7, 8]), document("a", [5, 6, 9])])
    folder = tmp_path / "train" / "0000"
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    offsets = np.load(folder / "offsets.npy")
    id_bytes, id_offsets = np.load(folder / "id_bytes.npy"), np.load(folder / "id_offsets.npy")
    i = 0
    assert tokens[offsets[i] : offsets[i + 1]].tolist() == [5, 6, 9, EOS]
    assert id_bytes[id_offsets[i] : id_offsets[i + 1]].tobytes().decode() == "a"


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_smallest_type_that_holds_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    builder = StoreBuilder(tmp_path, number_tokenizer(vocab_size), [])
    builder.add([document("a", [vocab_size - 1])])
    tokens = builder.finish().train[BucketKey("en", "web", None)].tokens
    assert tokens.dtype == dtype
    assert tokens.tolist() == [vocab_size - 1, EOS]


def test_bos_and_eos_once_per_document(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path, number_tokenizer(bos_id=0), [])
    builder.add([document("a", [5, 6]), document("b", [7])])
    assert builder.finish().train[BucketKey("en", "web", None)].tokens.tolist() == [0, 5, 6, EOS, 0, 7, EOS]


@pytest.mark.parametrize("name", ["tokens", "offsets", "ppl", "grade", "num_bytes", "id_bytes", "id_offsets"])
def test_a_flipped_byte_is_found_and_named(tmp_path: Path, name: str) -> None:
    store = build_store(tmp_path, mixed_documents())
    store.verify()
    path = tmp_path / "train" / "0001" / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="changed") as caught:
        TokenStore.open(tmp_path).verify()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [None, 0, 0.5, 0.999])
def test_a_cut_or_missing_file_is_found_at_open(tmp_path: Path, keep: float | None) -> None:
    build_store(tmp_path, mixed_documents())
    path = tmp_path / "train" / "0000" / "tokens.npy"
    data = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError) as caught:
        TokenStore.open(tmp_path)
    assert str(path) in str(caught.value)


def test_another_version_and_a_broken_description_are_refused(tmp_path: Path) -> None:
    build_store(tmp_path, mixed_documents())
    description = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**description, "version": 99}))
    with pytest.raises(UserError, match="version 99"):
        TokenStore.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(UserError, match=r"store\.json"):
        TokenStore.open(tmp_path)
    with pytest.raises(UserError, match="no token store"):
        TokenStore.open(tmp_path / "nowhere")


def test_more_buckets_than_files_that_may_be_open(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    documents = [document(f"d{i}", [5, i % 7], source=f"source-{i}") for i in range(150)]
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(1000)]  # by other stores, for example
    already_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (already_open + 40, limits[1]))
    try:
        store = build_store(tmp_path, documents)
        store.verify()
        assert {bucket.doc_ids[0] for bucket in store.train.values()} == {f"d{i}" for i in range(150)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for other in others:
            os.close(other)


def test_the_lines_of_the_manual_read_a_document_without_reprise(tmp_path: Path) -> None:
    store = build_store(tmp_path, random_documents(1, 20, 9, "en-", lang="en", source="book"))
    manual = (Path(__file__).parents[2] / "docs" / "order.md").read_text(encoding="utf-8")
    lines = [line[4:] for line in manual.splitlines() if line.startswith("    ")]
    first = lines.index("import numpy as np")
    code = lines[first : first + 5]
    assert code[4].startswith("print(") and "reprise" not in "".join(code)
    code[1] = f"folder = {str(tmp_path / 'train' / '0000') + '/'!r}"
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=True)
    (bucket,) = store.train.values()
    tokens = bucket.tokens[bucket.offsets[7] : bucket.offsets[8]]
    assert done.stdout.strip() == f"{bucket.doc_ids[7]} {tokens}"


def test_a_store_is_read_without_the_model_libraries() -> None:
    code = "import sys, reprise.tokens.store; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
