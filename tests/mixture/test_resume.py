"""Kill at any moment, go on, kill again: the rows are those of the run that was never stopped."""

import json
import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tests.mixture.runs import BATCH_ROWS, digest_batch, make_stages, make_store, steps

from reprise.errors import UserError
from reprise.mixture.sampler import Sampler
from reprise.mixture.shares_file import CAUSE, SharesFile
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.tokens.store import TokenStore

KILLS = 200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_cut_at_random_points(store: TokenStore, tmp_path: Path, packing: str) -> None:
    """Leave the run at 200 random steps, each time going on from its last checkpoint."""
    stages, rows = make_stages(), Rows(seq_len=16, packing=packing)
    whole = [digest_batch(batch) for _, (batch,) in steps(store, stages, rows)]
    assert len(whole) > 80
    chance = random.Random(packing)
    kills = 0
    while kills < KILLS:
        checkpoint = tmp_path / f"state-{kills}.json"
        every = chance.randint(1, 9)
        seen: dict[int, str] = {}
        while len(seen) < len(whole) or not _is_last(seen, whole):
            left = chance.randint(1, 40)
            for step, (batch,) in steps(store, stages, rows, checkpoint, every):
                assert whole[step] == digest_batch(batch), f"step {step} after {kills} kills"
                seen[step] = whole[step]
                left -= 1
                if left == 0:
                    break
            kills += 1


def _is_last(seen: dict[int, str], whole: list[str]) -> bool:
    return len(whole) - 1 in seen


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_random_moments(store: TokenStore, tmp_path: Path) -> None:
    """200 real kills of a process that trains, writes checkpoints and logs what it trained on."""
    stages, rows = make_stages(), Rows(seq_len=16)
    whole = [digest_batch(batch) for _, (batch,) in steps(store, stages, rows)]
    chance = random.Random(0)
    kills = finished = 0
    run = tmp_path / "run-0"
    while kills < KILLS:
        run.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            _train(store, stages, rows, run)
        time.sleep(chance.uniform(0.005, 0.12))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):  # it was done before the kill came
            assert os.WEXITSTATUS(status) == 0
            _check_log(run / "log", whole)
            finished += 1
            run = tmp_path / f"run-{finished}"
        else:
            kills += 1
    # However slow the machine, the last run is left in peace to its end.
    child = os.fork()
    if child == 0:
        _train(store, stages, rows, run)
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 0
    _check_log(run / "log", whole)


def _train(store: TokenStore, stages: list[Stage], rows: Rows, run: Path) -> None:
    code = 1
    try:
        with (run / "log").open("a", buffering=1) as log:
            for step, (batch,) in steps(store, stages, rows, run / "state.json", every=3):
                log.write(f"{step} {digest_batch(batch)}\n")
        code = 0
    finally:
        os._exit(code)


def _check_log(log: Path, whole: list[str]) -> None:
    """Every step that was ever trained on had its rows, in every life of the run, and none was left out."""
    lines = log.read_text().splitlines()
    seen = set()
    at = -1
    for number, line in enumerate(lines):
        step, _, got = line.partition(" ")
        if len(got) != 64:  # the kill came while the line was written
            assert number + 1 == len(lines) or lines[number + 1] != line
            continue
        assert got == whole[int(step)]
        assert int(step) <= at + 1, "no step is skipped"
        at = max(at, int(step)) if int(step) > at else int(step)
        seen.add(int(step))
    assert seen == set(range(len(whole)))


def test_shares_of_the_user_come_at_the_same_row_after_a_kill(store: TokenStore, tmp_path: Path) -> None:
    """The file appears at step 6, the last checkpoint was at step 4, the kill comes at step 9."""
    stage = make_stages(policy="static")[0]

    def train(folder: Path, file_at: int | None, state: dict | None, first: int, last: int) -> tuple[list[str], dict]:
        sampler, control, kept, seen = Sampler(store, stage, Rows(seq_len=16), 17), SharesFile(folder), {}, []
        if state is not None:
            sampler.load_state(state)
        for step in range(first, last):
            if step == file_at:
                (folder / "shares.json").write_text('{"zh": 0.8}')
            for wanted in control.poll(sampler):
                changes = sampler.set_shares(wanted, CAUSE)
                assert [(change.rows, change.cause) for change in changes] == [(6 * BATCH_ROWS, "shares.json")]
            seen.append(digest_batch(sampler.next_batch(BATCH_ROWS)))
            if step + 1 == 4:
                kept = json.loads(json.dumps(sampler.state()))
        return seen, kept

    (tmp_path / "whole").mkdir()
    whole, _ = train(tmp_path / "whole", 6, None, 0, 20)
    (tmp_path / "killed").mkdir()
    before, kept = train(tmp_path / "killed", 6, None, 0, 9)
    after, _ = train(tmp_path / "killed", None, kept, 4, 20)
    assert before == whole[:9]
    assert after == whole[4:]
    plain, _ = train(tmp_path / "whole", None, None, 0, 5)
    assert plain == whole[:5]


def test_a_shares_file_that_cannot_be_used_is_refused_once(
    store: TokenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler, control = Sampler(store, make_stages()[0], Rows(seq_len=16), 17), SharesFile(tmp_path)
    assert control.poll(sampler) == []
    for number, text in enumerate(["{", "[1]", '{"fr": 0.5}', '{"zh": 2}']):
        (tmp_path / "shares.json").write_text(text)
        os.utime(tmp_path / "shares.json", ns=(number, number))
        assert control.poll(sampler) == control.poll(sampler) == []
        assert len(caplog.records) == number + 1
        assert "the shares stay" in caplog.text
    (tmp_path / "shares.json").write_text('{"zh": 0.5}')
    assert control.poll(sampler) == [{"zh": 0.5}]
    assert control.poll(sampler) == []


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_row_of_a_thousand_million_costs_no_more(store: TokenStore, packing: str) -> None:
    """The state says row 10^9, hundreds of thousands of epochs in; no row before it is looked at."""
    stage = make_stages(policy="static", max_epochs=10.0**9, tokens=10**12)[0]
    rows = Rows(seq_len=16, packing=packing)
    state = Sampler(store, stage, rows, 17).state()
    deep = 10**9
    state["rows"], state["tokens"] = deep, deep * 16
    for bucket, entry in zip(state["buckets"], Sampler(store, stage, rows, 17).opened, strict=True):
        bucket["tokens"] = deep * 16 // len(state["buckets"])
        epoch, token = divmod(bucket["tokens"], entry.epoch_tokens)
        bucket["cursor"] = [epoch, token] if packing == "concat" else [epoch, 0, 0]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    sampler = Sampler(store, stage, rows, 17)
    sampler.load_state(state)
    batch = sampler.next_batch(BATCH_ROWS)
    seconds = time.perf_counter() - start
    assert sampler.rows_done == deep + BATCH_ROWS
    assert seconds < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 10_000  # KiB
    assert (batch.documents >= 0).any()


def test_deep_cursor_is_where_walking_there_would_lead(store: TokenStore) -> None:
    """The row after 20,000 others, reached by walking and by the cursor."""
    stage = make_stages(policy="static", max_epochs=10.0**9, tokens=10**9)[0]
    walker = Sampler(store, stage, Rows(seq_len=16), 17)
    for _ in range(20):
        walker.next_batch(1000)
    jumper = Sampler(store, stage, Rows(seq_len=16), 17)
    jumper.load_state(walker.state())
    assert np.array_equal(walker.next_batch(100).ids, jumper.next_batch(100).ids)
    assert min(bucket["epoch"] for bucket in walker.state()["buckets"]) > 20


def adopted(
    store: TokenStore, old: Rows, new: Rows, steps_before: int = 5, **changes: object
) -> tuple[Sampler, Sampler]:
    """A sampler after some steps, and one with other settings that adopted its state."""
    stage = make_stages(policy="static")[0]
    first = Sampler(store, stage, old, 17)
    for _ in range(steps_before):
        first.next_batch(BATCH_ROWS)
    if changes:  # so few tokens that the documents suffice
        stage = stage.model_copy(update={"tokens": 960, **changes})
    second = Sampler(store, stage, new, 17)
    second.load_state(json.loads(json.dumps(first.state())), adopt=True)
    return first, second


@pytest.mark.parametrize("seq_len", [8, 16, 24, 64])
def test_rows_of_another_length_go_on_at_the_next_token(store: TokenStore, seq_len: int) -> None:
    """Over both lengths: every token of a bucket in its order, none twice, and the stage ends at its tokens."""
    stage = make_stages(policy="static")[0]
    whole = Sampler(store, stage, Rows(seq_len=16), 17)
    before: dict = {bucket: [] for bucket in whole.buckets}
    first, second = adopted(store, Rows(seq_len=16), Rows(seq_len=seq_len))
    assert second.tokens_done == first.tokens_done == 5 * BATCH_ROWS * 16
    reread = Sampler(store, stage, Rows(seq_len=16), 17)
    for it, count in ((reread, 5), (second, None)):
        while not it.finished and count != 0:
            batch = it.next_batch(BATCH_ROWS)
            for ids, numbers, bucket in zip(batch.ids, batch.documents, batch.buckets, strict=True):
                before[bucket] += ids[numbers >= 0].tolist()
            count = None if count is None else count - 1
    assert stage.tokens <= second.tokens_done < stage.tokens + BATCH_ROWS * seq_len
    assert sum(bucket["tokens"] for bucket in second.state()["buckets"]) == second.tokens_done
    expected: dict = {bucket: [] for bucket in whole.buckets}
    for _ in range(3 * stage.tokens // (16 * BATCH_ROWS) + 40):
        batch = whole.next_batch(BATCH_ROWS) if len(whole._ended) < len(whole.opened) - 1 else None
        if batch is None:
            break
        for ids, numbers, bucket in zip(batch.ids, batch.documents, batch.buckets, strict=True):
            expected[bucket] += ids[numbers >= 0].tolist()
    for bucket, tokens in before.items():
        shared = min(len(tokens), len(expected[bucket]))
        assert shared > 100
        assert tokens[:shared] == expected[bucket][:shared]
    for one, share in zip(second.opened, second._shares.of_buckets(), strict=True):
        if not second._ended:
            assert abs(one.tokens - share * second.tokens_done) < 2 * max(16, seq_len)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ({"packing": "best_fit"}, {"packing": "best_fit", "seq_len": 64}, "rows.seq_len: 16 -> 64"),
        ({"packing": "best_fit"}, {"packing": "best_fit", "max_padding": 0.5}, "rows.max_padding: 0.01 -> 0.5"),
        ({"packing": "concat"}, {"packing": "best_fit"}, "rows.packing: concat -> best_fit"),
        ({"packing": "best_fit"}, {"packing": "concat"}, "rows.packing: best_fit -> concat"),
    ],
)
def test_rows_that_cannot_be_resumed_exactly_are_refused(store: TokenStore, old: dict, new: dict, named: str) -> None:
    with pytest.raises(UserError, match="cannot be resumed in another") as refused:
        adopted(store, Rows(**{"seq_len": 16, **old}), Rows(**{"seq_len": 16, **new}))
    assert named in str(refused.value) and "--restart" in str(refused.value)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("max_epochs", [0.3, 1.5, 9.0])
def test_another_limit_of_epochs_reads_nothing_twice(store: TokenStore, packing: str, max_epochs: float) -> None:
    rows = Rows(seq_len=16, packing=packing)
    first, second = adopted(store, rows, rows, max_epochs=max_epochs)
    for old, new in zip(first.opened, second.opened, strict=True):
        assert new.stream.cursor == old.stream.cursor
        if not new.stream.exhausted:
            assert new.stream.take()() == old.stream.take()()


def test_a_bucket_of_the_same_documents_goes_on_in_another_store(
    store: TokenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store of today has further documents in one bucket: it alone begins again, and the log says so."""
    stage = make_stages(policy="static")[0]
    first = Sampler(store, stage, Rows(seq_len=16), 17)
    first.next_batch(BATCH_ROWS * 5)
    grown = make_store(tmp_path / "grown", more_books=7)
    second = Sampler(grown, stage, Rows(seq_len=16), 17)
    with pytest.raises(UserError, match="store"):
        second.load_state(first.state())
    second.load_state(first.state(), adopt=True)
    for old, new in zip(first.opened, second.opened, strict=True):
        begins_again = new.bucket.path == "en/book"
        assert new.stream.cursor == ([0, 0] if begins_again else old.stream.cursor)
    assert [record for record in caplog.text.splitlines() if "begins again" in record and "en/book" in record]
    assert caplog.text.count("begins again") == 1


def test_a_source_that_is_no_longer_split_by_topic_begins_again_and_says_so(
    store: TokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stages(policy="static")[0]
    first = Sampler(store, stage, Rows(seq_len=16), 17)
    for _ in range(5):
        first.next_batch(BATCH_ROWS)
    whole = stage.model_copy(update={"topics": stage.topics.model_copy(update={"sources": []})})
    second = Sampler(store, whole, Rows(seq_len=16), 17)
    second.load_state(first.state(), adopt=True)
    before = {one.bucket.path for one in first.opened}
    new = [one.bucket.path for one in second.opened if one.bucket.path not in before]
    assert new and all(
        f"{path} begins again from its first document, as its source is divided or named" in caplog.text for path in new
    )


def test_text_of_an_entry_that_was_renamed_begins_again_and_says_so(
    store: TokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stages(policy="static")[0]
    first = Sampler(store, stage, Rows(seq_len=16), 17)
    for _ in range(5):
        first.next_batch(BATCH_ROWS)
    state = json.loads(json.dumps(first.state()))
    for bucket in state["buckets"]:
        bucket["entry"] = {"zh": "chinese"}.get(bucket["entry"], bucket["entry"])
    mixture = state["settings"]["stage"]["mixture"]
    mixture["chinese"] = mixture.pop("zh") | {"language": "zh"}
    second = Sampler(store, stage, Rows(seq_len=16), 17)
    second.load_state(state, adopt=True)
    for one in second.opened:
        assert (f"{one.bucket.path} begins again" in caplog.text) == (one.bucket.entry == "zh")
