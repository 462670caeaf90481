"""Stage `tokenize`."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.model.test_tokenizer import TEXT, save_model

from reprise.documents import engine
from reprise.documents.table import write_part
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.tokens import stage
from reprise.tokens.stage import run
from reprise.tokens.store import BucketKey, TokenStore
from reprise.workspace import Work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_model(tmp_path_factory.mktemp("model"), eos_token="<|end|>", bos_token="<|begin|>")


def test_stage_reads_both_inputs_and_counts(model: Model, tmp_path: Path) -> None:
    def row(id: str, text: str, **fields: object) -> dict[str, object]:
        return {"id": id, "text": text, "lang": "en", "source": "web", "split": "train", "origin": "f:1", **fields}

    scored = [row(str(i), TEXT[i % 3], topic="Law", ppl=float(i)) for i in range(10)]
    write_part(tmp_path / "score" / "documents" / "part-00000.parquet", scored)
    made = [row("q", TEXT[0], source="synthetic")]
    write_part(tmp_path / "synthesize" / "documents" / "part-00000.parquet", made)
    output = tmp_path / "out"
    output.mkdir()
    inputs = {name: tmp_path / name for name in ("score", "synthesize")}
    work = Work(output=output, inputs=inputs, cache=tmp_path / "cache")
    run(work, model=model.model_copy(update={"bos": True}), tokens=Tokens(), split_sources=["web"])
    store = TokenStore.open(output)
    assert set(store.train) == {BucketKey("en", "web", "Law"), BucketKey("en", "synthetic", None)}
    assert work.counts["documents"] == 11
    synthetic = store.train[BucketKey("en", "synthetic", None)]
    reference = open_tokenizer(model, "tokenizers").encode_batch([TEXT[0]])[0]
    assert synthetic.tokens.tolist() == [store.bos_id, *reference, store.eos_id]
    assert np.isnan(synthetic.ppl).all()
    assert not list(output.glob("spool*"))


def write_table(folder: Path) -> None:
    """600 documents in six parts."""
    for part in range(6):
        rows = [
            {"id": f"{(7 * number + part) % 600:04d}-{part}", "text": f"{TEXT[number % 3]} {number} {part}",
             "lang": "en", "source": ["web", "book"][number % 2], "topic": ["Law", None][number % 3 == 0],
             "ppl": float(number),
             "split": "valid" if number % 9 == 0 else "train", "origin": "f:1"}
            for number in range(100)
        ]  # fmt: skip
        write_part(folder / "score" / "documents" / f"part-{part:05d}.parquet", rows)


def tokenize(root: Path, name: str, model: Model) -> Path:
    output = root / name
    output.mkdir()
    work = Work(output=output, inputs={"score": root / "score"}, cache=root / "cache")
    run(work, model=model, tokens=Tokens(memory_mb=16), split_sources=["web"])
    assert work.counts["documents"] == 600
    return output


def content(store: Path) -> dict[str, bytes]:
    files = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


def test_a_piece_that_is_repeated_writes_the_same_runs(model: Model, tmp_path: Path) -> None:
    write_table(tmp_path)
    parts = tuple(map(str, sorted((tmp_path / "score" / "documents").iterdir())))
    arguments = (model.model_dump_json(), "tokenizers", ("web",), 3000, os.getpid(), stage.EncodePiece(0, parts))
    first = stage.encode_piece(str(tmp_path / "a"), *arguments)
    once = content(tmp_path / "a")
    (tmp_path / "a" / "runs" / "000000-00001.partial").mkdir()  # what a killed worker leaves
    (tmp_path / "a" / "runs" / "000000-00001" / "tokens.npy").write_bytes(b"half")
    assert stage.encode_piece(str(tmp_path / "a"), *arguments) == first
    assert first.documents == 600
    assert len(list((tmp_path / "a" / "runs").iterdir())) > 3
    assert content(tmp_path / "a") == once


@pytest.mark.slow
def test_workers_write_the_bytes_of_one_process_though_one_is_killed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path)
    alone = content(tokenize(tmp_path, "alone", model))
    monkeypatch.setattr(engine, "IN_PROCESS_BYTES", 0)
    monkeypatch.setattr(engine, "num_workers", lambda: 2)
    monkeypatch.setattr(stage, "START_BYTES", 0)
    monkeypatch.setattr(stage, "PIECE_BYTES", 1)
    killed: list[int] = []

    def kill_one() -> None:
        for _ in range(600):
            for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                if "workers import serve" in Path(f"/proc/{pid}/cmdline").read_text():
                    time.sleep(1.0)
                    os.kill(int(pid), signal.SIGKILL)
                    killed.append(int(pid))
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    together = content(tokenize(tmp_path, "together", model))
    killer.join()
    assert killed
    assert together == alone


def test_tokenizing_imports_neither_daft_nor_ray() -> None:
    code = "import sys, reprise.tokens.stage; assert not {'daft', 'ray', 'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
