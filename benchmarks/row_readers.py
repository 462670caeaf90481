"""Readers of training rows: rows a second, seconds to the first row of a deep resume, memory; beside other loaders.

    python benchmarks/row_readers.py [--python NAME=PYTHON ...] [--documents 200000] [--tokens 52000000]
                                     [--seq-len 512] [--batch-rows 16] [--workers 0 2] [--store FOLDER]

NAME is mosaicml-streaming, litdata, torchdata or grain, PYTHON an interpreter that has it; the others are listed under
`not_run`. The token store is made of random ids in BUCKETS buckets of uneven size, or is the one in FOLDER (only read).

Reprise does more: it reads documents from the token store, deals the buckets by the exact shares of the mixture, packs
documents into rows and knows their boundaries (`reprise, labels` also computes the labels and positions for training).
The others read finished rows, which Reprise has dealt and written once in the format of each (`prepare_s`), and shuffle
them. They are set up as their own pages show: MDS shards and StreamingDataLoader; `optimize` with TokensLoader and
litdata's StreamingDataLoader; StatefulDataLoader, whose random sampler is stateful, over a memory-mapped array;
ArrayRecord with `group_size:1` and MapDataset. Reprise reads in the training process, the others in each of the given
numbers of workers (0: in the process itself). Batches are int64, arrays from grain, which alone does not import torch,
and tensors from the others.

Every measurement is a process of its own, on files in the page cache. A pass reads all rows once: 5 % warm up, then
rows a second in STRETCHES stretches up to DEPTH of the rows, where the state is saved. `missing` and `repeated` count
rows that were left out and delivered too often. A resume is a new process that loads the state: seconds from its start
to the first batch (`first_row_s`), and without imports (`resume_s`), median of --rounds; `right_rows` says whether its
first CHECKED_BATCHES batches are those of the pass, token for token. Memory is the peak of all processes of the pass,
libraries included: proportional set size, and what of it is not pages of files. Linux only. The last line is JSON;
`..._vs_peers` are Reprise's figures divided by the best of the others.
"""

import argparse
import functools
import importlib
import json
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

SEED = 17
BUCKETS = 40
VOCAB_SIZE, EOS_ID = 50_000, 1
DEPTH = 0.9
STRETCHES = 7
CHECKED_BATCHES = 8
WHOLE_BATCHES = 8
"""The rows are a multiple of so many batches: so many workers get whole ones."""
ARRAY_RECORD = "rows.array_record"
HEAD = 8
"""Tokens by which a row of random ids is recognised."""
CHUNK_ROWS = 8_192
"""Rows of a chunk of litdata, about as many as on its page on pre-training."""
TIMEOUT_S = 1_800
Opened = tuple[Iterator[Any], Callable[[], Any]]
"""Batches, int64[batch_rows, seq_len]; and the function that returns the state after those taken so far."""


def build_store(folder: Path, documents: int, tokens: int) -> None:
    """A token store of random ids in documents of log-normal length."""
    from reprise.model.tokenizer import Tokenizer
    from reprise.tokens.builder import StoreBuilder

    builder = StoreBuilder(folder, Tokenizer("random", lambda texts: [], VOCAB_SIZE, EOS_ID, None, ""), [])
    rng = np.random.default_rng(SEED)
    buckets = rng.choice(BUCKETS, documents, p=rng.dirichlet(np.full(BUCKETS, 2.0)))
    drawn = rng.lognormal(0.0, 1.0, documents)
    lengths = np.maximum(1, drawn * (tokens / drawn.sum()) - 1).astype(np.int64)  # an EOS is added to each
    common = {"lang": "en", "topic": None, "split": "train", "ppl": None}
    for first in range(0, documents, 5_000):
        rows, ids = [], []
        for index in range(first, min(first + 5_000, documents)):
            text = "x" * int(lengths[index])
            rows.append({"id": f"{index:09}", "text": text, "source": f"s{buckets[index]:02}", **common})
            ids.append(rng.integers(2, VOCAB_SIZE, lengths[index], dtype=np.uint32))
        builder.add(rows, ids)
    builder.finish()


def open_sampler(options: argparse.Namespace) -> Any:
    """The sampler of a stage that reads 97 % of the tokens of every bucket, rounded to whole batches."""
    from reprise.mixture.sampler import Sampler
    from reprise.recipe.mixture import Stage
    from reprise.recipe.tokens import Rows
    from reprise.tokens.store import TokenStore

    store = TokenStore.open(options.store)
    sizes: dict[str, Counter[str]] = {}
    for key, bucket in store.train.items():
        sizes.setdefault(key.language, Counter())[key.source] += bucket.num_tokens
    total = sum(sources.total() for sources in sizes.values())
    mixture = {}
    for language, sources in sizes.items():
        shares = {name: size / sources.total() for name, size in sources.items()}
        mixture[language] = {"share": sources.total() / total, "sources": shares}
    step = options.batch_rows * WHOLE_BATCHES
    tokens = int(0.97 * total) // (options.seq_len * step) * options.seq_len * step
    stage = Stage.model_validate({"name": "main", "tokens": tokens, "mixture": mixture, "max_epochs": 1})
    return Sampler(store, stage, Rows(seq_len=options.seq_len), SEED)


def write_rows(options: argparse.Namespace) -> int:
    """Deal all rows into one array, in the order of training; return how many."""
    sampler = open_sampler(options)
    num_rows, step = sampler.total_rows, options.batch_rows * WHOLE_BATCHES
    if num_rows * (1 - DEPTH) < CHECKED_BATCHES * options.batch_rows:
        raise SystemExit(f"{num_rows} rows are too few: give more --tokens, or a smaller --batch-rows or --seq-len")
    dtype = sampler.opened[0].documents.buckets[0].tokens.dtype
    rows = np.lib.format.open_memmap(options.folder / "rows.npy", "w+", dtype, (num_rows, options.seq_len))
    for first in range(0, num_rows, step):
        rows[first : first + step] = sampler.next_batch(step).ids
    rows.flush()
    return int(num_rows)


def open_reprise(options: argparse.Namespace, state: Any, *, labels: bool = False) -> Opened:
    import torch

    sampler = open_sampler(options)
    if state is not None:
        sampler.load_state(state)

    def batches() -> Iterator[Any]:
        while not sampler.finished:
            batch = sampler.next_batch(options.batch_rows)
            if labels:
                _ = batch.labels, batch.position_ids
            yield torch.from_numpy(batch.ids)

    return batches(), sampler.state


def stored_rows(options: argparse.Namespace) -> Any:
    return np.load(options.folder / "rows.npy", mmap_mode="r")


def to_int64(rows: Sequence[Any]) -> Any:
    """The batch of the torch loaders."""
    import torch

    ids = [row["ids"] for row in rows] if isinstance(rows[0], dict) else rows
    return torch.from_numpy(np.asarray(ids).astype(np.int64))


def open_loader(loader: Any, state: Any) -> Opened:
    if state is not None:
        loader.load_state_dict(state)
    return iter(loader), loader.state_dict


def prepare_streaming(streaming: Any, options: argparse.Namespace) -> None:
    columns = {"ids": f"ndarray:{stored_rows(options).dtype}:{options.seq_len}"}
    with streaming.MDSWriter(out=str(options.folder / "mds"), columns=columns) as writer:
        for row in stored_rows(options):
            writer.write({"ids": np.array(row)})


def open_streaming(streaming: Any, options: argparse.Namespace, state: Any, **loading: Any) -> Opened:
    settings = {"shuffle": True, "shuffle_seed": SEED, "batch_size": options.batch_rows}
    dataset = streaming.StreamingDataset(local=str(options.folder / "mds"), **settings)
    return open_loader(streaming.StreamingDataLoader(dataset, collate_fn=to_int64, **loading), state)


def rows_from(path: str, first: int) -> Iterator[Any]:
    yield from map(np.array, np.load(path, mmap_mode="r")[first : first + CHUNK_ROWS])


def prepare_litdata(litdata: Any, options: argparse.Namespace) -> None:
    read = functools.partial(rows_from, str(options.folder / "rows.npy"))
    chunks = {"chunk_size": CHUNK_ROWS * options.seq_len, "item_loader": litdata.TokensLoader(options.seq_len)}
    starts = list(range(0, options.rows, CHUNK_ROWS))
    litdata.optimize(read, starts, str(options.folder / "litdata"), num_workers=1, **chunks)


def open_litdata(litdata: Any, options: argparse.Namespace, state: Any, **loading: Any) -> Opened:
    settings = {"item_loader": litdata.TokensLoader(options.seq_len), "shuffle": True, "drop_last": True, "seed": SEED}
    dataset = litdata.StreamingDataset(str(options.folder / "litdata"), **settings)
    return open_loader(litdata.StreamingDataLoader(dataset, collate_fn=to_int64, **loading), state)


def open_torchdata(dataloader: Any, options: argparse.Namespace, state: Any, **loading: Any) -> Opened:
    import torch

    rows = np.asarray(stored_rows(options))
    settings = {"shuffle": True, "generator": torch.Generator().manual_seed(SEED), "collate_fn": to_int64}
    return open_loader(dataloader.StatefulDataLoader(rows, **settings, **loading), state)


def prepare_grain(array_record: Any, options: argparse.Namespace) -> None:
    writer = array_record.ArrayRecordWriter(str(options.folder / ARRAY_RECORD), "group_size:1")
    for row in stored_rows(options):
        writer.write(row.tobytes())
    writer.close()


def open_grain(grain: Any, options: argparse.Namespace, state: Any, batch_size: int, num_workers: int) -> Opened:
    source, dtype = grain.sources.ArrayRecordDataSource(str(options.folder / ARRAY_RECORD)), stored_rows(options).dtype
    rows = grain.MapDataset.source(source).shuffle(seed=SEED)
    arrays = rows.map(lambda row: np.frombuffer(row, dtype).astype(np.int64))
    batches = arrays.batch(batch_size).to_iter_dataset()
    if num_workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(batches)
    if state is not None:
        iterator.set_state(state)
    return iterator, iterator.get_state


OURS = {"reprise": open_reprise, "reprise, labels": functools.partial(open_reprise, labels=True)}
PEERS: dict[str, tuple[str, Any, str, Any]] = {
    "mosaicml-streaming": ("streaming", prepare_streaming, "streaming", open_streaming),
    "litdata": ("litdata", prepare_litdata, "litdata", open_litdata),
    "torchdata": ("", None, "torchdata.stateful_dataloader", open_torchdata),
    "grain": ("array_record.python.array_record_module", prepare_grain, "grain", open_grain),
}
"""Name -> the module and the function that write its rows (torchdata reads the array), and those that read them."""


def work(options: argparse.Namespace) -> dict[str, Any]:
    """A step of a side, in this process."""
    writing, write, reading, read = PEERS.get(options.side, ("", None, "torch", None))
    module = importlib.import_module(writing if options.step == "prepare" else reading)
    if options.side in OURS:
        importlib.import_module("reprise.mixture.sampler")
    start = time.monotonic()
    if options.step == "prepare":
        write(module, options)
        return {"prepare_s": round(time.monotonic() - start, 1)}
    state = pickle.loads((options.folder / "state").read_bytes()) if options.step == "resume" else None
    loading = {"batch_size": options.batch_rows, "num_workers": options.workers[0]}
    batches, state_now = read(module, options, state, **loading) if read else OURS[options.side](options, state)
    if options.step == "pass":
        return read_all(options, batches, state_now)
    first = np.array(next(batches))
    end = time.monotonic()
    ahead = np.concatenate([first, *map(np.array, islice(batches, CHECKED_BATCHES - 1))])
    right = np.array_equal(ahead, np.load(options.folder / "ahead.npy"))
    return {"first_row_s": end - options.started, "resume_s": end - start, "right_rows": right}


def read_all(options: argparse.Namespace, batches: Iterator[Any], state: Callable[[], Any]) -> dict[str, Any]:
    """A pass over the rows; saves the state at DEPTH, the batches after it, and the first tokens of all rows."""
    heads: list[Any] = []

    def take(count: int | None) -> None:
        heads.extend(np.array(batch[:, :HEAD]) for batch in islice(batches, count))

    count = options.rows // options.batch_rows
    bounds = [int(bound) for bound in np.linspace(count // 20 + 1, int(count * DEPTH), STRETCHES + 1)]
    take(bounds[0])
    rates = []
    for begin, end in pairwise(bounds):
        start = time.perf_counter()
        take(end - begin)
        rates.append(round((end - begin) * options.batch_rows / (time.perf_counter() - start)))
    (options.folder / "state").write_bytes(pickle.dumps(state()))
    ahead = [np.array(batch) for batch in islice(batches, CHECKED_BATCHES)]
    np.save(options.folder / "ahead.npy", np.concatenate(ahead))
    heads += [batch[:, :HEAD] for batch in ahead]
    take(None)
    np.save(options.folder / "heads.npy", np.concatenate(heads))
    return {"rows_per_s": statistics.median(rates), "rows_per_s_range": [min(rates), max(rates)]}


def compare_rows(heads: Any, rows: Any) -> dict[str, int]:
    """How often rows were left out; how often some were delivered a second time, or without being in the array."""
    read, written = (Counter(head.tobytes() for head in each[:, :HEAD].astype(np.int64)) for each in (heads, rows))
    return {"missing": (written - read).total(), "repeated": (read - written).total()}


def memory_kb(pid: int) -> Counter[str]:
    """Proportional set size of a process and its parts, in kB; empty if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Counter()
    return Counter({name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)})


def run_step(python: str, options: argparse.Namespace, side: str, step: str, workers: int) -> dict[str, Any]:
    """A step in a process of its own, with the peak memory of all its processes; `failed` if it did not end well."""
    import growth

    result = options.folder / "result.json"
    result.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # modules of this folder must not hide those of a library
    if side in PEERS:
        environment.pop("PYTHONPATH", None)
    settings = {"side": side, "step": step, "workers": workers, "started": time.monotonic()}
    settings |= {name: getattr(options, name) for name in ("folder", "store", "rows", "seq_len", "batch_rows")}
    command = [python, __file__, *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())]
    peak = private = 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while process.poll() is None:
            sizes = [memory_kb(pid) for pid in growth.family(process.pid)]
            peak = max(peak, sum(size["Pss"] for size in sizes))
            private = max(private, sum(size["Pss"] - size["Pss_File"] for size in sizes))
            if time.monotonic() > settings["started"] + TIMEOUT_S:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.1)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode or not result.exists():
        if side in OURS:
            raise SystemExit("\n".join([f"{side}, {step}: exit code {process.returncode}", *lines[-20:]]))
        return {"failed": f"{step}: exit code {process.returncode}: {lines[-1][:300] if lines else 'no message'}"}
    values: dict[str, Any] = json.loads(result.read_text())
    if step == "pass":
        values["tokens_per_s"] = values["rows_per_s"] * options.seq_len
        values |= {"peak_mb": round(peak / 1000), "peak_private_mb": round(private / 1000)}
        values |= compare_rows(np.load(options.folder / "heads.npy"), stored_rows(options))
    return values


def measure_side(python: str, options: argparse.Namespace, side: str, workers: int) -> dict[str, Any]:
    """A pass, then the resumes."""
    values = run_step(python, options, side, "pass", workers)
    if "failed" in values:
        return values
    rounds = [run_step(python, options, side, "resume", workers) for _ in range(options.rounds)]
    if failed := [one for one in rounds if "failed" in one]:
        return values | failed[0]
    values |= {key: round(statistics.median(one[key] for one in rounds), 3) for key in ("first_row_s", "resume_s")}
    return values | {"right_rows": all(one["right_rows"] for one in rounds)}


def compare(options: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """All sides; prints each."""
    start = time.monotonic()
    if options.store is None:
        options.store = options.folder / "store"
        build_store(options.store, options.documents, options.tokens)
    options.rows = write_rows(options)
    print(f"store built and {options.rows} rows written in {time.monotonic() - start:.0f} s", flush=True)
    ours = {side: measure_side(sys.executable, options, side, 0) for side in OURS}
    print(ours, flush=True)
    peers: dict[str, dict[str, Any]] = {}
    for side, python in pythons.items():
        prepared = run_step(python, options, side, "prepare", 0) if PEERS[side][1] else {}
        for workers in options.workers:
            measured = {} if "failed" in prepared else measure_side(python, options, side, workers)
            peers[f"{side}, {workers} workers"] = prepared | measured
            print(f"{side}, {workers} workers: {prepared | measured}", flush=True)
    figures: dict[str, float | None] = {}
    for key, best in (("rows_per_s", max), ("resume_s", min)):
        theirs = [values[key] for values in peers.values() if key in values]
        figures[f"{key}_vs_peers"] = round(ours["reprise"][key] / best(theirs), 3) if theirs else None
    figures |= {name: getattr(options, name) for name in ("rows", "seq_len", "batch_rows")}
    return {**figures, "sides": ours | peers, "not_run": [name for name in PEERS if name not in pythons]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(PEERS))
    parser.add_argument("--store", type=Path, help="a token store; its train buckets are read")
    sizes = {"documents": 200_000, "tokens": 52_000_000, "seq-len": 512, "batch-rows": 16}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes that the other loaders start")
    parser.add_argument("--rounds", type=int, default=3, help="resumes of each side")
    for name, kind in (("folder", Path), ("side", str), ("step", str), ("rows", int), ("started", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        (options.folder / "result.json").write_text(json.dumps(work(options)))
        return
    pythons = dict(pair.partition("=")[::2] for pair in options.python)
    for name, python in pythons.items():
        if name not in PEERS or shutil.which(python) is None:
            parser.error(f"--python {name}={python}: expected one of {', '.join(PEERS)} and its interpreter")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        print(json.dumps(compare(options, pythons)))


if __name__ == "__main__":
    main()
