import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.mixture.runs import BATCH_ROWS, losses_at, make_stages, make_store, steps
from tests.tokens.stores import EOS, build_store, document, random_documents

from reprise.errors import UserError
from reprise.mixture.batch import NO_LOSS, Batch
from reprise.mixture.sampler import Sampler
from reprise.mixture.shares import MixtureBucket
from reprise.recipe.mixture import Stage
from reprise.recipe.tokens import Rows
from reprise.tokens.store import BucketKey, TokenStore

ROWS = Rows(seq_len=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("store"))


def sampler(store: TokenStore, rows: Rows = ROWS, seed: int = 17, **first: object) -> Sampler:
    return Sampler(store, make_stages(**first)[0], rows, seed)


def small_stage(**settings: object) -> Stage:
    base = {"name": "s", "tokens": 64, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}
    return Stage.model_validate({**base, **settings})


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_every_prefix_is_on_ratio_through_policy_updates(store: TokenStore, packing: str) -> None:
    """Counts against the sum of the shares that were in force, until the first bucket runs out."""
    it = sampler(store, Rows(seq_len=16, packing=packing))
    due = dict.fromkeys(it.buckets, Fraction(0))
    count = dict.fromkeys(it.buckets, 0)
    for step in range(30):
        if step % 3 == 0:
            it.observe(losses_at(step, it))
        shares = it.shares()
        batch = it.next_batch(BATCH_ROWS)
        if batch.changes:
            break
        for row, bucket in enumerate(batch.buckets, start=1):
            count[bucket] += 1
            for other, share in shares.items():
                off = count[other] - due[other] - row * Fraction(share)
                assert abs(off) <= 1, (step, other)
        for other, share in shares.items():
            due[other] += BATCH_ROWS * Fraction(share)
    assert sum(count.values()) >= 200


def test_rows_hold_the_text_of_their_buckets(store: TokenStore) -> None:
    """With no share change, each bucket's rows joined are its documents in its order, epoch after epoch."""
    it = sampler(store, policy="static")
    read: dict[MixtureBucket, list[int]] = {bucket: [] for bucket in it.buckets}
    while not it.finished:
        batch = it.next_batch(BATCH_ROWS)
        for ids, documents, bucket in zip(batch.ids, batch.documents, batch.buckets, strict=True):
            read[bucket] += ids[documents >= 0].tolist()
    for bucket, tokens in read.items():
        stored = store.train[BucketKey(*bucket)]
        once = sorted(stored.tokens[a:b].tolist() for a, b in itertools.pairwise(stored.offsets))
        ends = [at + 1 for at, token in enumerate(tokens) if token == EOS]
        texts = [tokens[start:stop] for start, stop in itertools.pairwise([0, *ends])]
        for epoch in range(len(texts) // len(once)):
            assert sorted(texts[epoch * len(once) : (epoch + 1) * len(once)]) == once, (bucket, epoch)
        assert len(texts) > len(once), "at least one epoch was read whole"


def test_ascending_is_easy_to_hard(store: TokenStore) -> None:
    it = sampler(store)
    law = store.train[BucketKey("zh", "web", "Law")]
    seen: list[float] = []
    for _ in range(8):
        batch = it.next_batch(BATCH_ROWS)
        seen += [law.ppl[p.document] for row, bucket in zip(batch.pieces, batch.buckets, strict=True)
                 if bucket == MixtureBucket("zh", "web", "Law") for p in row]  # fmt: skip
    assert len(seen) > 10
    assert seen == sorted(seen)


def reference(batches: list[list[Batch]]) -> list[np.ndarray]:
    return [np.concatenate([batch.ids for batch in ranks]) for ranks in batches]


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_the_number_of_processes_does_not_change_the_batches(store: TokenStore, tmp_path: Path, packing: str) -> None:
    """1 -> 2 -> 4 -> 3 processes, each going on from the checkpoint of the one before."""
    stages, rows = make_stages(), Rows(seq_len=16, packing=packing)
    whole = reference([batches for _, batches in steps(store, stages, rows)])
    checkpoint = tmp_path / "state.json"
    seen: dict[int, np.ndarray] = {}
    for world, limit in ((1, 10), (2, 25), (4, 40), (3, 10_000)):
        for step, batches in steps(store, stages, rows, checkpoint, world=world):
            (ids,) = reference([batches])
            assert step not in seen or np.array_equal(seen[step], ids)
            seen[step] = ids
            if step >= limit:
                break
    assert sorted(seen) == list(range(len(whole)))
    assert all(np.array_equal(seen[step], ids) for step, ids in enumerate(whole))


def test_a_batch_that_does_not_divide_names_the_sizes_that_do(store: TokenStore) -> None:
    with pytest.raises(UserError, match="1, 2, 3, 4, 6, 12"):
        sampler(store).next_batch(12, rank=0, world=5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 18}, "seed: 17 -> 18"),
        ({"rows": Rows(seq_len=32)}, "rows.seq_len: 16 -> 32"),
        ({"max_epochs": 3}, "stage.max_epochs: 4.0 -> 3.0"),
        ({"curriculum": {}}, "curriculum"),
        ({"policy": "static"}, "topics.policy.name"),
    ],
)
def test_other_settings_are_refused_and_named(store: TokenStore, change: dict, named: str) -> None:
    it = sampler(store)
    it.next_batch(BATCH_ROWS)
    with pytest.raises(UserError, match=named) as caught:
        sampler(store, **change).load_state(it.state())
    assert "--adopt" in str(caught.value)
    sampler(store, **change).load_state(it.state(), adopt=True)


def test_another_store_or_version_is_refused(store: TokenStore, tmp_path: Path) -> None:
    state = sampler(store).state()
    other = make_store(tmp_path / "same")
    sampler(other).load_state(state)  # the same content elsewhere is the same store
    changed = build_store(
        tmp_path / "other",
        [
            *random_documents(1, 60, 25, "xx-", lang="en", source="book"),
            document("a", [5], topic="Law", ppl=1.0),
            document("b", [5] * 20_000, lang="zh", topic="Law", ppl=1.0),
        ],
    )
    with pytest.raises(UserError, match="store: "):
        sampler(changed, tokens=100).load_state(state)
    with pytest.raises(UserError, match="version 99"):
        sampler(store).load_state({**state, "version": 99})


def test_the_state_is_small_json_and_counts_what_was_handed_out(store: TokenStore) -> None:
    it = sampler(store)
    for _ in range(3):
        it.next_batch(BATCH_ROWS)
    state = it.state()
    assert len(json.dumps(state)) < 5000
    assert json.loads(json.dumps(state)) == state
    assert state["tokens"] == 36 * 16 == sum(bucket["tokens"] for bucket in state["buckets"])
    assert state["shares"]["zh"] == 0.3
    assert it.tokens_done == 36 * 16


def test_a_bucket_that_runs_out_gives_its_share_to_its_siblings(
    store: TokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    it = sampler(store, policy="static")
    law, arts = MixtureBucket("en", "web", "Law"), MixtureBucket("en", "web", "Arts")
    changes = []
    while not changes:
        changes = it.next_batch(BATCH_ROWS).changes
    (change,) = changes
    assert change.cause == "en/web/Arts has been read 4 times"
    assert change.old == pytest.approx({law.path: 0.21, arts.path: 0.21})
    assert change.new == pytest.approx({law.path: 0.42, arts.path: 0.0})
    assert "en/web/Arts has been read 4 times; its share (0.21) goes to en/web/Law" in caplog.text
    assert it.shares()[law] == pytest.approx(0.42)
    assert arts not in it.next_batch(120).buckets


def test_an_empty_bucket_with_a_share_is_an_error(store: TokenStore) -> None:
    stage = small_stage(mixture={"en": {"share": 1.0, "sources": {"web": 0.5, "paper": 0.5}}})
    with pytest.raises(UserError, match=r"mixture\.en\.sources\.paper = 0\.5"):
        Sampler(store, stage, ROWS, 1)
    Sampler(store, small_stage(mixture={"en": {"share": 1.0, "sources": {"web": 1.0, "paper": 0.0}}}), ROWS, 1)


def test_too_few_documents_for_the_stage_are_an_error(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"at most .* tokens in 4 epochs"):
        Sampler(store, small_stage(tokens="1M"), ROWS, 1)
    it = Sampler(store, small_stage(), ROWS, 1)
    with pytest.raises(UserError, match="read 4 times"):
        while True:
            it.next_batch(BATCH_ROWS)


def test_a_source_that_a_stage_does_not_split_draws_from_all_its_topics(store: TokenStore) -> None:
    it = Sampler(store, small_stage(max_epochs=1.0), ROWS, 1)
    assert it.buckets == [MixtureBucket("en", "web", None)]
    expected: list[int] = []
    for topic in ("Law", "Arts"):
        expected += store.train[BucketKey("en", "web", topic)].tokens.tolist()
    read: list[int] = []
    with pytest.raises(UserError):
        while True:
            batch = it.next_batch(1)
            read += batch.ids[batch.documents >= 0].tolist()
    assert sorted(read) == sorted(expected)


def test_a_topic_with_held_out_text_only_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [document("a", range(5, 90), topic="Law"), document("v", [5, 6], topic="Arts", split="valid")]
    store = build_store(tmp_path, texts)
    it = Sampler(store, small_stage(topics={"sources": ["web"]}), ROWS, 1)
    assert it.shares() == {MixtureBucket("en", "web", "Law"): 1.0}
    assert "en/web has no text to train on about Arts: the other topics get more" in caplog.text


def test_first_topic_weights(store: TokenStore) -> None:
    topics = {"sources": ["web"]}
    law, arts = MixtureBucket("en", "web", "Law"), MixtureBucket("en", "web", "Arts")
    tokens = {bucket: store.train[BucketKey(*bucket)].num_tokens for bucket in (law, arts)}
    uniform = Sampler(store, small_stage(topics=topics), ROWS, 1)
    assert uniform.shares() == {arts: 0.5, law: 0.5}
    available = Sampler(store, small_stage(topics={**topics, "initial": "available"}), ROWS, 1)
    assert available.shares()[law] == pytest.approx(tokens[law] / sum(tokens.values()))
    uniform.set_shares({"en/web/Law": 0.8}, "user")
    inherit = small_stage(topics={**topics, "initial": "inherit"})
    assert Sampler(store, inherit, ROWS, 1, uniform.state()).shares() == pytest.approx({arts: 0.2, law: 0.8})
    with pytest.raises(UserError, match=r"topics\.initial = inherit"):
        Sampler(store, inherit, ROWS, 1)


def next_tokens(it: Sampler) -> set[tuple[int, int]]:
    """(document, token) of the next 30 rows."""
    rows = it.next_batch(30).pieces
    return {(p.document, p.start + i) for row in rows for p in row for i in range(p.length)}


def test_the_next_stage_reads_what_the_stage_before_did_not(store: TokenStore) -> None:
    stage = small_stage(tokens=480, max_epochs=1.0)
    first = Sampler(store, stage, ROWS, 1)
    read = next_tokens(first)
    second = Sampler(store, stage, ROWS, 1, first.state())
    more = next_tokens(second)
    assert len(read) == len(more) == 480
    assert not read & more
    anew = Sampler(store, small_stage(tokens=480, documents="restart"), ROWS, 1, first.state())
    assert np.array_equal(anew.next_batch(4).ids, Sampler(store, stage, ROWS, 1).next_batch(4).ids)


def test_labels_and_positions(tmp_path: Path) -> None:
    """Documents of 3, 2 and 4 tokens (EOS included) in one row of 12, by hand."""
    texts = [document("a", [5, 6]), document("b", [7]), document("c", [8, 9, 10])]
    store = build_store(tmp_path, texts, split_sources=())
    stage = small_stage(tokens=9, max_epochs=1.0, curriculum={"en": {"order": "random"}})
    for mask in (False, True):
        batch = Sampler(store, stage, Rows(seq_len=12, document_mask=mask), 3).next_batch(1)
        lengths = [piece.length for piece in batch.pieces[0]]
        at, second = lengths[0], lengths[0] + lengths[1]
        assert sorted(lengths) == [2, 3, 4]
        assert batch.starts == [[0, at, second]]
        assert batch.documents.tolist() == [[0] * at + [1] * lengths[1] + [2] * lengths[2] + [-1] * 3]
        assert batch.ids[0, 9:].tolist() == [EOS] * 3
        labels = batch.ids[0].tolist()
        labels[9:] = [NO_LOSS] * 3
        positions = list(range(12))
        if mask:
            for start in (0, at, second):
                labels[start] = NO_LOSS
            positions = [*range(at), *range(lengths[1]), *range(12 - second)]
        assert batch.labels[0].tolist() == labels
        assert batch.position_ids[0].tolist() == positions


def test_shares_that_the_recipe_changed_come_into_force_at_a_resume(store: TokenStore) -> None:
    it = sampler(store)
    it.observe(losses_at(0, it))
    it.next_batch(BATCH_ROWS)
    it.observe(losses_at(1, it))
    it.next_batch(BATCH_ROWS)
    topics = {path: share for path, share in it.state()["shares"].items() if path.count("/") == 2}
    mixture = {
        "zh": {"share": 0.5, "sources": {"web": 1.0}},
        "en": {"share": 0.5, "sources": {"book": 0.4, "web": 0.6}},
    }
    new = sampler(store, mixture=mixture)
    changes = new.load_state(it.state(), adopt=True)
    assert [(change.cause, change.path, change.new) for change in changes] == [("recipe", "", {"zh": 0.5, "en": 0.5})]
    shares = new.state()["shares"]
    assert {path: shares[path] for path in topics} == topics, "what the policy learned stays"
    assert [bucket["cursor"] for bucket in new.state()["buckets"]] == [
        bucket["cursor"] for bucket in it.state()["buckets"]
    ]
    assert new.rows_done == 2 * BATCH_ROWS


def test_a_policy_moves_shares_towards_the_topic_whose_perplexity_rose(store: TokenStore) -> None:
    it = sampler(store)
    key = BucketKey("zh", "web", "Law"), BucketKey("zh", "web", "Others")
    assert it.observe({key[0]: 3.0, key[1]: 3.0}) == []
    (change,) = it.observe({key[0]: 3.1, key[1]: 3.0})
    assert (change.cause, change.path) == ("topic_perplexity", "zh/web")
    assert change.new["zh/web/Law"] > 0.5 > change.new["zh/web/Others"]
    assert sum(change.new.values()) == pytest.approx(1.0)
