import json
from itertools import islice
from pathlib import Path

import pytest
from tests.mixture.runs import make_stages, make_store

from reprise.errors import UserError
from reprise.mixture.forecast import forecast
from reprise.mixture.preview import packing, preview
from reprise.mixture.sampler import Sampler
from reprise.mixture.shares import MixtureBucket
from reprise.recipe import Recipe
from reprise.report.order_table import draw_mixture, order_json, plan_order, show_order, write_picture
from reprise.tokens.store import TokenStore

SEQ_LEN = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("store"))


def recipe(packing: str = "concat", **first: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "workspace": "nowhere",
            "model": {"path": "none/none"},
            "documents": {"topics": {"lists": {"en": ["Law", "Arts", "Medicine"], "zh": ["Law", "Others"]}}},
            "rows": {"seq_len": SEQ_LEN, "packing": packing},
            "training": {"batch_rows": 4},
            "stages": [stage.model_dump() for stage in make_stages(policy="static", **first)],
        }
    )


def test_forecast_is_what_the_sampler_does(store: TokenStore) -> None:
    """Both stages dealt to the end: tokens of each bucket, epochs, and where buckets run out."""
    run = recipe()
    found = forecast(run, store)
    previous = None
    for number, stage in enumerate(run.stages, 1):
        sampler = Sampler(store, stage, run.rows, run.seed, previous)
        ran_out: dict[str, int] = {}
        while not sampler.finished:
            for change in sampler.next_batch(1).changes:
                ran_out[change.cause.split(" has ")[0]] = change.rows * SEQ_LEN
        supplies = {MixtureBucket(*supply[1:4]): supply for supply in found.supplies if supply.stage == number}
        assert list(supplies) == sampler.buckets
        for entry in sampler.opened:
            supply = supplies[entry.bucket]
            assert abs(supply.tokens - entry.tokens) <= 2 * SEQ_LEN, entry.bucket
            assert supply.epochs == pytest.approx(entry.stream.tokens_read / entry.epoch_tokens, abs=0.1)
            assert (supply.runs_out_after is None) == (entry.bucket.path not in ran_out)
            if supply.runs_out_after:
                # A bucket is within a row of its share: it may run out a row of its own early or late.
                slack = 2 * SEQ_LEN / (supply.tokens / supply.runs_out_after) + SEQ_LEN
                assert abs(supply.runs_out_after - ran_out[entry.bucket.path]) <= slack
        assert sum(supply.tokens for supply in supplies.values()) == stage.tokens
        previous = sampler.state()
    assert any(supply.runs_out_after for supply in found.supplies)


def test_forecast_warns_of_what_runs_out_and_what_is_missing(store: TokenStore) -> None:
    warnings = "\n".join(forecast(recipe(), store).warnings)
    assert "stage 1: en/web/Arts will have been read 4 times after" in warnings
    assert "stage 1: en/web has no text on Medicine: the other topics get more" in warnings
    short = forecast(recipe(max_epochs=1.0), store)
    assert any("training will refuse to start" in warning for warning in short.warnings)
    with pytest.raises(UserError, match="at most"):
        Sampler(store, recipe(max_epochs=1.0).stages[0], recipe().rows, 17)


def test_segments_cover_each_stage_and_sum_to_one(store: TokenStore) -> None:
    run = recipe()
    segments = forecast(run, store).segments
    for number, stage in enumerate(run.stages, 1):
        mine = [segment for segment in segments if segment.stage == number]
        assert [segment.start for segment in mine] == [0, *(segment.stop for segment in mine[:-1])]
        assert mine[-1].stop == stage.tokens
        assert all(sum(segment.shares.values()) == pytest.approx(1.0) for segment in mine)


@pytest.mark.parametrize("stage", [1, 2])
def test_preview_is_what_training_gets(store: TokenStore, stage: int) -> None:
    run = recipe()
    rows = list(islice(preview(run, store, lambda ids: " ".join(map(str, ids)), stage=stage), 60))
    previous = None
    for number in range(stage):
        sampler = Sampler(store, run.stages[number], run.rows, run.seed, previous)
        if number + 1 < stage:
            while not sampler.finished:
                sampler.next_batch(run.training.batch_rows)
            previous = sampler.state()
    for step in range(15):
        batch = sampler.next_batch(4)
        for i in range(4):
            row = rows[4 * step + i]
            assert (row.step, row.row, row.bucket) == (step + 1, 4 * step + i + 1, batch.buckets[i].path)
            assert row.words == " ".join(map(str, batch.ids[i, :24].tolist()))
            assert row.ppl is not None
            assert 5 <= row.ppl < 40


def test_packing_counts_padding_and_cuts(store: TokenStore) -> None:
    concat = {entry.bucket: entry for entry in packing(recipe(), store)}
    best_fit = {entry.bucket: entry for entry in packing(recipe("best_fit"), store)}
    documents = {"en/book": 60, "en/web/Arts": 20, "en/web/Law": 50, "zh/web/Law": 40, "zh/web/Others": 15}
    assert {name: entry.documents for name, entry in concat.items()} == documents
    assert {name: entry.documents for name, entry in best_fit.items()} == documents
    assert all(entry.padding == pytest.approx(0) for entry in concat.values())
    assert all(0 <= entry.padding < 0.2 for entry in best_fit.values())
    assert sum(e.cut_though_short for e in best_fit.values()) < sum(e.cut_though_short for e in concat.values())


def test_picture_opens_offline_and_has_every_source(store: TokenStore, tmp_path: Path) -> None:
    run = recipe()
    segments = forecast(run, store).segments
    figure = draw_mixture(segments, "mixture")
    assert [trace.name for trace in figure.data] == ["zh/web", "en/book", "en/web", "synthetic/synthetic"]
    for column in zip(*(trace.y for trace in figure.data), strict=True):
        assert sum(column) == pytest.approx(100)
    assert max(figure.data[0].x) == sum(stage.tokens for stage in run.stages)
    write_picture(segments, "mixture", tmp_path / "order.html")
    page = (tmp_path / "order.html").read_text(encoding="utf-8")
    assert "zh\\u002fweb" in page
    assert 'src="http' not in page


def test_show_order_prints_rows_packing_and_warnings(
    store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Decoder:
        def decode(self, ids: list[int]) -> str:
            return f"[b]{ids[0]}"

    monkeypatch.setattr("reprise.report.order_table.load_tokenizer", lambda model: Decoder())
    monkeypatch.setenv("COLUMNS", "200")
    order = plan_order(recipe(), store, rows=5, picture=tmp_path / "order.html")
    show_order(order)
    printed = capsys.readouterr().out
    assert "[b]" in printed
    assert "rows of the first epoch" in printed
    assert "en/web/Arts will have been read 4 times" in printed
    assert (tmp_path / "order.html").exists()
    written = json.loads(json.dumps(order_json(order)))
    assert [row["row"] for row in written["rows"]] == [1, 2, 3, 4, 5]
    assert {entry["bucket"] for entry in written["packing"]} == {entry.bucket for entry in order["packing"]}
