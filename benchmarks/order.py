"""Cost of the order: rows a second, resume deep in a run, share of a training step; beside other loaders.

    python benchmarks/order.py [--rivals PYTHON] [--rows 20000]
    python benchmarks/order.py --scale 100000000    # only a simulated store of so many documents in 1,000 buckets

`--rivals` is the interpreter of an environment with datasets, torchdata and mosaicml-streaming (their requirements
clash with ours); without it the rivals that this interpreter has are measured. All loaders deliver rows of the same
text from 40 buckets in batches of 16, each in a process of its own; the rivals read rows that were cut and stored
beforehand, Reprise cuts them from the token store as it goes. The last line is JSON.
"""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEQ_LEN, BATCH_ROWS = 2048, 16
BUCKETS = (1, 40, 400)
RIVAL_BUCKETS = 40
TOKENS_PER_BUCKET = 160 * SEQ_LEN
DEPTH = 0.9
"""Where in the run the resume is measured."""
VALIDATE_EVERY, HELD_OUT_TOKENS = 4_000_000_000, 65_536
"""Tokens between validations near by the paper (arXiv 2412.17743), and tokens per bucket in one of ours."""


def shares(buckets: int) -> list[float]:
    """Uneven shares that sum to 1."""
    drawn = np.random.default_rng(0).dirichlet(np.full(buckets, 2.0))
    return [float(share) for share in drawn]


def build(folder: Path, buckets: int) -> None:
    """A token store of random documents of 20 to 4000 tokens."""
    from reprise.model.tokenizer import Tokenizer
    from reprise.tokens.builder import StoreBuilder

    tokenizer = Tokenizer(
        "random", lambda texts: [np.frombuffer(t.encode("latin-1"), np.uint8) for t in texts], 50_000, 1, None, ""
    )
    builder = StoreBuilder(folder, tokenizer, [])
    rng = np.random.default_rng(buckets)
    for bucket in range(buckets):
        left = max(TOKENS_PER_BUCKET * RIVAL_BUCKETS // max(buckets, RIVAL_BUCKETS), 4 * SEQ_LEN)
        documents: list[dict[str, Any]] = []
        while left > 0:
            length = min(left, int(np.clip(rng.lognormal(6.0, 1.0), 20, 4000)))
            text = rng.integers(2, 256, length, dtype=np.uint8).tobytes().decode("latin-1")
            fields = {"lang": "en", "source": f"s{bucket:03d}", "topic": None, "split": "train", "ppl": 10.0}
            documents.append({"id": f"{bucket}-{len(documents)}", "text": text, **fields})
            left -= length
        builder.add(documents)
    builder.finish()


def open_sampler(folder: Path, buckets: int, max_epochs: float = 1e12, policy: str = "static") -> Any:
    """A sampler over the store that never runs out."""
    from reprise.mixture.sampler import Sampler
    from reprise.recipe.mixture import Stage
    from reprise.recipe.tokens import Rows
    from reprise.tokens.store import TokenStore

    mixture = {"en": {"share": 1.0, "sources": {f"s{i:03d}": share for i, share in enumerate(shares(buckets))}}}
    stage = Stage.model_validate({"name": "bench", "tokens": 10**13, "mixture": mixture, "max_epochs": max_epochs})
    return Sampler(TokenStore.open(folder), stage, Rows(seq_len=SEQ_LEN), 17)


def timed(batches: Iterator[Any], rows: int) -> dict[str, float]:
    """Rows a second, and rows a second of CPU time (which another load on the machine hardly moves)."""
    for _ in range(8):
        next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(rows // BATCH_ROWS):
        touch(next(batches))
    return {"rows_per_s": rows / (time.perf_counter() - start), "rows_per_cpu_s": rows / (time.process_time() - cpu)}


def resumed(start: tuple[float, float]) -> dict[str, float]:
    """Time from the start of a resume to its first batch."""
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"first_row_s": seconds, "first_row_cpu_s": cpu}


def touch(batch: Any) -> None:
    """Make sure that a batch of int64 ids is really there."""
    assert batch.shape == (BATCH_ROWS, SEQ_LEN)
    assert batch.dtype == np.int64


def measure_reprise(folder: Path, rows: int) -> dict[str, float]:
    """Throughput; then a new sampler that goes on at DEPTH."""
    sampler = open_sampler(folder / "store-40", RIVAL_BUCKETS)
    speed = timed((sampler.next_batch(BATCH_ROWS).ids for _ in iter(int, 1)), rows)
    sampler.skip(int(rows * DEPTH))
    state = json.loads(json.dumps(sampler.state()))
    start = time.perf_counter(), time.process_time()
    fresh = open_sampler(folder / "store-40", RIVAL_BUCKETS)
    fresh.load_state(state)
    touch(fresh.next_batch(BATCH_ROWS).ids)
    return {**speed, **resumed(start)}


def stored_rows(folder: Path) -> list[np.ndarray]:
    """The rows of each bucket, as the rivals get them."""
    return [np.load(path, mmap_mode="r") for path in sorted((folder / "rows").glob("*.npy"))]


def store_rows(folder: Path) -> None:
    """Cut the rows of each bucket once."""
    from reprise.tokens.store import TokenStore

    (folder / "rows").mkdir()
    for key, bucket in TokenStore.open(folder / "store-40").train.items():
        count = bucket.num_tokens // SEQ_LEN
        np.save(folder / "rows" / f"{key.source}.npy", bucket.tokens[: count * SEQ_LEN].reshape(count, SEQ_LEN))


def arrow_parts(folder: Path) -> list[Any]:
    """The stored rows as datasets that give NumPy arrays."""
    import datasets

    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("uint16"), length=SEQ_LEN)})
    parts = stored_rows(folder)
    return [datasets.Dataset.from_dict({"ids": part}, features=features).with_format("numpy") for part in parts]


def measure_datasets(folder: Path, rows: int) -> dict[str, float]:
    """interleave_datasets of map-style datasets; a resume skips the rows that were read."""
    import datasets

    parts = arrow_parts(folder)

    def make(skip: int) -> Iterator[np.ndarray]:
        mixed = datasets.interleave_datasets(
            parts, probabilities=shares(RIVAL_BUCKETS), seed=17, stopping_strategy="all_exhausted"
        )
        return (batch["ids"].astype(np.int64) for batch in mixed.skip(skip).iter(BATCH_ROWS))

    speed = timed(make(0), rows)
    start = time.perf_counter(), time.process_time()
    fresh = make(int(rows * DEPTH) // BATCH_ROWS * BATCH_ROWS)
    touch(next(fresh))
    return {**speed, **resumed(start)}


def measure_iterable_datasets(folder: Path, rows: int) -> dict[str, float]:
    """interleave_datasets of iterable datasets; a resume loads its state_dict."""
    import datasets

    parts = arrow_parts(folder)

    def make() -> Any:
        endless = [part.to_iterable_dataset().repeat(None) for part in parts]
        return datasets.interleave_datasets(
            endless, probabilities=shares(RIVAL_BUCKETS), seed=17, stopping_strategy="all_exhausted"
        ).batch(BATCH_ROWS)

    dataset = make()
    speed = timed((np.asarray(batch["ids"]).astype(np.int64) for batch in dataset), rows)
    state = dataset.state_dict()
    start = time.perf_counter(), time.process_time()
    fresh = make()
    fresh.load_state_dict(state)
    touch(np.asarray(next(iter(fresh))["ids"]).astype(np.int64))
    return {**speed, **resumed(start)}


def measure_torchdata(folder: Path, rows: int) -> dict[str, float]:
    """torchdata.nodes: MultiNodeWeightedSampler over map-style sources, with state_dict."""
    from torch.utils.data import SequentialSampler
    from torchdata import nodes

    def make() -> Any:
        parts = stored_rows(folder)
        sources = {str(i): nodes.MapStyleWrapper(part, SequentialSampler(part)) for i, part in enumerate(parts)}
        weights = {str(i): share for i, share in enumerate(shares(RIVAL_BUCKETS))}
        mixed = nodes.MultiNodeWeightedSampler(sources, weights, stop_criteria="CYCLE_FOREVER", seed=17)
        batched = nodes.Mapper(nodes.Batcher(mixed, BATCH_ROWS), lambda batch: np.stack(batch).astype(np.int64))
        return nodes.Loader(batched)

    loader = make()
    speed = timed(iter(loader), rows)
    state = loader.state_dict()
    start = time.perf_counter(), time.process_time()
    fresh = make()
    fresh.load_state_dict(state)
    touch(next(iter(fresh)))
    return {**speed, **resumed(start)}


def measure_streaming(folder: Path, rows: int) -> dict[str, float]:
    """mosaicml-streaming: one Stream per bucket with its proportion, MDS shards, resume by load_state_dict."""
    import streaming
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import default_convert  # noqa: F401 - torch is imported before the clock starts

    root = folder / "mds"
    if not root.exists():
        for i, part in enumerate(stored_rows(folder)):
            with streaming.MDSWriter(
                out=str(root / f"{i:03d}"), columns={"ids": f"ndarray:uint16:{SEQ_LEN}"}
            ) as writer:
                for row in part:
                    writer.write({"ids": np.array(row)})
    clean_stale_shared_memory()

    def make() -> Any:
        parts = [
            streaming.Stream(local=str(root / f"{i:03d}"), proportion=share)
            for i, share in enumerate(shares(RIVAL_BUCKETS))
        ]
        return streaming.StreamingDataset(
            streams=parts, epoch_size=rows * 2, batch_size=BATCH_ROWS, shuffle=False, num_canonical_nodes=1
        )

    def batched(samples: Iterator[Any]) -> Iterator[np.ndarray]:
        while True:
            yield np.stack([next(samples)["ids"] for _ in range(BATCH_ROWS)]).astype(np.int64)

    dataset = make()
    speed = timed(batched(iter(dataset)), rows)
    state = dataset.state_dict(num_samples=int(rows * DEPTH), from_beginning=True)
    del dataset
    clean_stale_shared_memory()
    start = time.perf_counter(), time.process_time()
    fresh = make()
    fresh.load_state_dict(state)
    touch(next(batched(iter(fresh))))
    return {**speed, **resumed(start)}


MEASURES: dict[str, tuple[str, Callable[[Path, int], dict[str, float]]]] = {
    "reprise": ("reprise.mixture.sampler", measure_reprise),
    "datasets.interleave_datasets": ("datasets", measure_datasets),
    "datasets.interleave_datasets, iterable": ("datasets", measure_iterable_datasets),
    "torchdata": ("torchdata.nodes", measure_torchdata),
    "mosaicml-streaming": ("streaming", measure_streaming),
}
"""Name -> the module that it needs, and how it is measured; memory is what comes on top of importing the module."""


def anonymous_mb() -> float:
    """Memory of this process that is its own: mapped files, which the system can drop, do not count (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure_alone(name: str, folder: Path, rows: int, python: str) -> dict[str, Any]:
    """A measurement in a process of its own, for its memory."""
    command = [python, __file__, "--measure", name, "--folder", str(folder), "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else "no message"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_deep(folder: Path) -> float:
    """Seconds from nothing to the first batch after row 10^9."""
    state = open_sampler(folder / "store-40", RIVAL_BUCKETS).state()
    deep = 10**9
    state["rows"], state["tokens"] = deep, deep * SEQ_LEN
    sampler = open_sampler(folder / "store-40", RIVAL_BUCKETS)
    for bucket, opened, share in zip(state["buckets"], sampler.opened, shares(RIVAL_BUCKETS), strict=True):
        bucket["tokens"] = int(deep * share) * SEQ_LEN
        bucket["cursor"] = list(divmod(bucket["tokens"], opened.epoch_tokens))
    start = time.perf_counter()
    sampler = open_sampler(folder / "store-40", RIVAL_BUCKETS)
    sampler.load_state(state)
    touch(sampler.next_batch(BATCH_ROWS).ids)
    return time.perf_counter() - start


def measure_model() -> tuple[float, float]:
    """CPU seconds of a training step and of a forward pass on one row: SmolLM2-135M's shape, one thread."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 49_152, (1, SEQ_LEN))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    start = time.process_time()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    step = time.process_time() - start
    start = time.process_time()
    with torch.no_grad():
        model(input_ids=ids, labels=ids, use_cache=False)
    return step, time.process_time() - start


def measure_policy() -> float:
    """CPU seconds of the slowest policy's update of 22 topics."""
    from reprise.mixture.policy import update
    from reprise.mixture.rules import RULES
    from reprise.recipe.mixture import Policy

    weights = {str(i): 1 / 22 for i in range(22)}
    slowest = 0.0
    for name in RULES:
        state: dict[str, Any] = {}
        for step in range(70):
            losses = {topic: 2 + 1 / (step + 1 + int(topic)) for topic in weights}
            start = time.process_time()
            state, weights = update(Policy.model_validate({"name": name}), state, weights, losses, step * 10**6)
            slowest = max(slowest, time.process_time() - start)
    return slowest


def simulate_store(folder: Path, documents: int, buckets: int) -> None:
    """A store of so many documents that has offsets and perplexities, and a sparse file for its tokens."""
    from reprise.tokens.store import STORE, VERSION

    entries = []
    for bucket in range(buckets):
        name, count = f"train/{bucket:04d}", documents // buckets
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(bucket)
        lengths = np.clip(rng.lognormal(6.5, 1.0, count), 20, 60_000).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        np.save(folder / name / "offsets.npy", offsets)
        np.save(folder / name / "ppl.npy", rng.lognormal(2.5, 0.6, count).astype(np.float32))
        np.lib.format.open_memmap(folder / name / "tokens.npy", "w+", np.uint16, (int(offsets[-1]),)).flush()
        files = {
            path.name: {"size": path.stat().st_size, "xxh128": f"simulated {bucket}"}
            for path in sorted((folder / name).iterdir())
        }
        key = {"split": "train", "language": "en", "source": f"s{bucket:03d}", "topic": None}
        entries.append(key | {"folder": name, "documents": count, "tokens": int(offsets[-1]), "files": files})
    description = {"version": VERSION, "fingerprint": f"simulated {documents}", "dtype": "uint16", "buckets": entries}
    description |= {"vocab_size": 50_000, "highest_id": 49_999, "encoder": "", "eos_id": 1, "bos_id": None}
    (folder / STORE).write_text(json.dumps(description), encoding="utf-8")


def measure_scale(folder: Path, packing: str, order: str) -> dict[str, float]:
    """Seconds to open, deal, gather and resume; anonymous memory on the way, in MB, beyond that of the imports."""
    from reprise.mixture.sampler import Sampler
    from reprise.recipe.mixture import Stage
    from reprise.recipe.tokens import Rows
    from reprise.tokens.store import TokenStore

    store = TokenStore.open(folder)
    parts = shares(len(store.train))
    mixture = {"en": {"share": 1.0, "sources": {f"s{i:03d}": share for i, share in enumerate(parts)}}}
    settings = {"name": "scale", "tokens": 10**11, "mixture": mixture, "max_epochs": 1e6}
    stage = Stage.model_validate({**settings, "curriculum": {"en": {"order": order}}})
    rows, before = Rows(seq_len=8192, packing=packing), anonymous_mb()
    seconds: dict[str, float] = {}

    def clock(name: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = action()
        seconds[name] = round(time.perf_counter() - start, 4)
        return result

    sampler = clock("open_s", lambda: Sampler(store, stage, rows, 17))
    opened = anonymous_mb() - before
    clock("first_batch_s", lambda: sampler.next_batch(1024))
    clock("every_bucket_once_s", lambda: sampler.next_batch(16_384, 0, 16_384))
    # What each of 1,024 processes does for a global batch of 1,024 rows: deal all of them, gather one.
    sampler.next_batch(1024, 5, 1024)
    for _ in range(8):
        start = time.perf_counter()
        sampler.next_batch(1024, 5, 1024)
        seconds["step_of_one_of_1024_s"] = min(
            seconds.get("step_of_one_of_1024_s", 1e9), round(time.perf_counter() - start, 4)
        )
    state = clock("state_s", sampler.state)
    size = len(json.dumps(state))
    fresh = Sampler(store, stage, rows, 17)
    clock("load_state_s", lambda: fresh.load_state(state))
    clock("first_batch_after_resume_s", lambda: fresh.next_batch(1024, 5, 1024))
    memory = {"memory_opened_mb": round(opened), "memory_mb": round(anonymous_mb() - before), "state_bytes": size}
    return {**seconds, **memory}


SCALE_CASES = (("concat", "random"), ("concat", "ascending"), ("best_fit", "ascending"))
"""Packing and order that the simulated store is read in."""


def measure_cases(folder: Path) -> dict[str, Any]:
    """Each case in a process of its own."""
    found = {}
    for packing, order in SCALE_CASES:
        command = [sys.executable, __file__, "--measure", f"scale:{packing}:{order}", "--folder", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"{packing}, {order}"] = json.loads(done.stdout.splitlines()[-1])
        print(f"{packing}, {order}: {found[f'{packing}, {order}']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rivals", default=sys.executable, help="interpreter with the other loaders")
    parser.add_argument("--scale", type=int, default=0, help="only this: a simulated store of so many documents")
    parser.add_argument("--buckets", type=int, default=1000, help="of the simulated store")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure and arguments.measure.startswith("scale:"):
        print(json.dumps(measure_scale(arguments.folder, *arguments.measure.split(":")[1:])))
        return
    if arguments.measure:
        module, measure = MEASURES[arguments.measure]
        if importlib.util.find_spec(module.split(".")[0]) is None:
            raise SystemExit(f"{module} is not installed")
        importlib.import_module(module)
        imported = anonymous_mb()
        found = measure(arguments.folder, arguments.rows)
        found["memory_mb"] = anonymous_mb() - imported
        print(json.dumps(found))
        return
    if arguments.scale:
        with tempfile.TemporaryDirectory() as name:
            simulate_store(Path(name), arguments.scale, arguments.buckets)
            print(json.dumps({"scale": measure_cases(Path(name)), "documents": arguments.scale}))
        return
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(compare(Path(name), arguments.rows, arguments.rivals)))


def compare(folder: Path, rows: int, rivals: str) -> dict[str, Any]:
    """All numbers; prints a table on the way."""
    speeds = {}
    for buckets in BUCKETS:
        build(folder / f"store-{buckets}", buckets)
        sampler = open_sampler(folder / f"store-{buckets}", buckets)
        speeds[buckets] = timed((sampler.next_batch(BATCH_ROWS).ids for _ in iter(int, 1)), rows)
        print(f"reprise, {buckets} buckets: {speeds[buckets]}", flush=True)
    store_rows(folder)
    loaders = {}
    for name in MEASURES:
        loaders[name] = measure_alone(name, folder, rows, sys.executable if name == "reprise" else rivals)
        print(f"{name}: {loaders[name]}", flush=True)
    step_s, forward_s = measure_model()
    update_s = measure_policy()
    validation_s = RIVAL_BUCKETS * HELD_OUT_TOKENS / SEQ_LEN * forward_s + update_s
    return {
        "rows_per_s": round(min(speed["rows_per_s"] for speed in speeds.values())),
        "rows_per_s_by_buckets": {str(buckets): round(speed["rows_per_s"]) for buckets, speed in speeds.items()},
        "rows_per_cpu_s_by_buckets": {
            str(buckets): round(speed["rows_per_cpu_s"]) for buckets, speed in speeds.items()
        },
        "share_of_step": 1 / speeds[RIVAL_BUCKETS]["rows_per_cpu_s"] / step_s,
        "resume_deep_s": round(measure_deep(folder), 4),
        "policy_share": validation_s / (VALIDATE_EVERY / SEQ_LEN * step_s),
        "step_cpu_s_per_row": round(step_s, 3),
        "forward_cpu_s_per_row": round(forward_s, 3),
        "policy_update_cpu_s": round(update_s, 6),
        "seq_len": SEQ_LEN,
        "loaders": loaders,
    }


if __name__ == "__main__":
    main()
