import json
import re
from collections.abc import Callable

import plotly.graph_objects as go
import pytest

from reprise.recipe import Recipe
from reprise.report import charts, retention
from reprise.report.chart import MAX_TABLE_ROWS, Chart, log_ticks, plot_text, thin
from reprise.report.facts import changes_so_far, gather
from reprise.report.page import count, duration, fixed, percent
from reprise.report.records import Report
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]


def colored(value: object) -> object:
    """The page's script puts colours in the places of the variables."""
    if isinstance(value, dict):
        return {key: colored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [colored(item) for item in value]
    return "#123456" if isinstance(value, str) and value.startswith("var(") else value


def all_charts(facts: Report) -> list[Chart]:
    plane = retention.plane_chart({"run": facts}, ["en"])
    return [*charts.course_charts(facts), *charts.perplexity_charts(facts), *([plane] if plane else [])]


def test_every_chart_is_a_figure_that_plotly_knows(unchanged: Run) -> None:
    drawn = all_charts(gather(*unchanged))
    for chart in drawn:
        go.Figure(data=colored(chart["traces"]), layout=colored(chart["layout"]))  # raises on an unknown property
    assert len({chart["id"] for chart in drawn}) == len(drawn)
    assert all(re.fullmatch(r"[\w-]+", chart["id"]) for chart in drawn)
    titles = [chart["title"] for chart in drawn]
    for part in (
        "Training loss",
        "Held-out text",
        "zh, by source",
        "zh web, by topic",
        "Shares inside zh web",
        "Learning",
    ):
        assert any(part in title for title in titles), part
    assert any(title.startswith("Perplexity of zh") for title in titles)


def test_every_chart_has_its_numbers_in_a_table(unchanged: Run) -> None:
    for chart in all_charts(gather(*unchanged)):
        table = chart["table"]
        assert table["rows"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        assert len(table["rows"]) <= MAX_TABLE_ROWS


def test_the_second_stage_goes_on_where_the_first_ended(unchanged: Run) -> None:
    facts = gather(*unchanged)
    (loss,) = (chart for chart in charts.course_charts(facts) if chart["id"] == "chart-loss")
    xs = loss["traces"][0]["x"]
    assert xs == sorted(xs)
    assert xs[-1] == sum(stage["tokens"] for stage in facts["training"])
    assert loss["layout"]["shapes"][0]["x0"] == facts["training"][0]["tokens"]
    assert [entry["name"] for entry in loss["legend"]] == ["training loss", "restart", "guard's event"]


def test_the_change_of_the_held_out_loss_is_what_the_metrics_say(unchanged: Run) -> None:
    facts = gather(*unchanged)
    (chart,) = (chart for chart in charts.course_charts(facts) if chart["id"] == "chart-entries")
    measured = [v for stage in facts["training"] for v in stage["validations"]]
    (tolerance,) = (trace for trace in chart["traces"] if trace["name"] == "tolerance of en")
    assert tolerance["y"] == [2.0, 2.0]
    for trace in chart["traces"][:2]:
        values = [
            entry["value"]
            for validation in measured
            for entry in validation["bits_per_byte"]
            if entry["entry"] == trace["name"] and entry["source"] is None
        ]
        assert trace["y"] == pytest.approx([100 * (value / values[0] - 1) for value in values])
        assert trace["customdata"] == values


def test_the_plane_joins_the_validations_of_each_run(unchanged: Run) -> None:
    facts = gather(*unchanged) | {"curve": []}
    alone = retention.plane_chart({"run": facts}, ["en"])
    both = retention.plane_chart({"one": facts, "two": facts}, ["en"])
    assert alone and both
    assert [trace["name"] for trace in alone["traces"]] == ["zh against en"]
    assert [trace["name"] for trace in both["traces"]] == ["one: zh against en", "two: zh against en"]
    first, last = alone["table"]["rows"][0], alone["table"]["rows"][-1]
    assert first == ["zh against en", "after 0 tokens", 0.0, 0.0]
    changes = {change["path"]: 100 * change["change"] for change in changes_so_far(facts["training"], {})}
    assert last[2:] == pytest.approx([-changes["zh"], changes["en"]])
    assert retention.plane_chart({"run": facts}, ["fr"]) is None  # nothing to keep
    assert retention.plane_chart({"run": facts}, ["zh", "en"]) is None  # nothing new


def test_merges_with_a_chat_model_are_drawn_over_their_factor(unchanged: Run) -> None:
    facts = json.loads(json.dumps(gather(*unchanged)))
    end = next(row for row in reversed(facts["curve"]) if row["kind"] == "checkpoint")
    assert retention.chat_charts(facts) == []
    for factor, change, score in ((1.0, 0.04, 0.5), (0.5, 0.02, 0.25)):
        changes = dict.fromkeys(end["change"], change)
        facts["curve"].append(
            end | {"kind": "chat", "factor": factor, "tokens": None, "change": changes, "scores": {"probe": score}}
        )
    bits, scores = retention.chat_charts(facts)
    for trace, entry in zip(bits["traces"], end["change"], strict=True):
        assert trace["x"] == [0.0, 0.5, 1.0]
        assert trace["y"] == pytest.approx([100 * end["change"][entry], 2, 4])
    assert [(trace["x"], trace["y"]) for trace in scores["traces"]] == [([0.5, 1.0], [25, 50])]
    assert scores["table"]["rows"] == [[0.5, 25], [1.0, 50]]
    plane = retention.plane_chart({"run": facts}, list(facts["tolerance"]))
    assert plane is not None
    run, merges, chats = plane["traces"]
    assert chats["customdata"] == [run["customdata"][-1], "chat 0.5", "chat 1"]
    assert chats["text"] == ["", "chat 0.5", "chat 1"] and merges["text"][1] == "merge 0.5"


def test_the_plane_has_a_point_per_checkpoint_and_per_merge_factor(unchanged: Run) -> None:
    facts = gather(*unchanged)
    plane = retention.plane_chart({"run": facts}, ["en"])
    assert plane and [trace["name"] for trace in plane["traces"]] == [
        "zh against en checkpoints",
        "zh against en merges",
    ]
    run, merges = plane["traces"]
    assert run["y"] == pytest.approx([0, 10, 20]) and run["x"] == pytest.approx([0, 2, 5])
    assert merges["customdata"] == ["after 0 tokens", "merge 0.5", "merge 0.75", "after 1,000 tokens"]
    assert merges["y"] == pytest.approx([0, 12.5, 17.5, 20]) and merges["x"] == pytest.approx([0, -1, 1, 5])
    both = retention.plane_chart({"one": facts, "two": facts | {"curve": []}}, ["en"])
    assert both and len(both["traces"]) == 3
    for chart in (plane, both):
        go.Figure(data=colored(chart["traces"]), layout=colored(chart["layout"]))


def test_forgetting_and_scores_over_checkpoints(unchanged: Run) -> None:
    forgetting, scores = retention.curve_charts(gather(*unchanged))
    assert [(trace["name"], trace["y"]) for trace in forgetting["traces"][:2]] == [
        ("zh", pytest.approx([0, -10, -20])),
        ("en", pytest.approx([0, 2, 5])),
    ]
    assert forgetting["traces"][2]["name"] == "tolerance of en"
    assert scores["traces"][0]["y"] == pytest.approx([40, 39.8, 39.5]) and scores["table"]["rows"][2][0] == 1000
    for chart in (forgetting, scores):
        go.Figure(data=colored(chart["traces"]), layout=colored(chart["layout"]))
    facts = gather(*unchanged)
    ends = [facts["curve"][0], facts["curve"][2]]
    assert retention.curve_charts(facts | {"curve": ends}) == []


def test_benchmarks_while_training_are_one_curve_over_the_stages(unchanged: Run) -> None:
    facts = gather(*unchanged)
    assert "chart-benchmarks" not in [chart["id"] for chart in charts.course_charts(facts)]
    for stage, scores in zip(facts["training"], ((0.25, 0.3), (0.35, 0.2)), strict=True):
        stage["benchmarks"] = [
            {"tokens": tokens, "scores": {"sciq": score}} for tokens, score in zip((100, 200), scores, strict=True)
        ]
    (chart,) = [chart for chart in charts.course_charts(facts) if chart["id"] == "chart-benchmarks"]
    first = facts["training"][0]["tokens"]
    assert chart["traces"][0]["x"] == [100, 200, first + 100, first + 200]
    assert chart["traces"][0]["y"] == pytest.approx([25, 30, 35, 20])


def test_a_topic_has_one_colour_in_every_chart(unchanged: Run) -> None:
    colours: dict[str, set[str]] = {}
    for chart in charts.course_charts(gather(*unchanged)):
        if chart["title"] in ("zh web, by topic", "Shares inside zh web"):
            for trace in chart["traces"]:
                colours.setdefault(trace["name"], set()).add(trace["line"]["color"])
    assert len(colours) == 11
    assert all(len(found) == 1 for found in colours.values())


def test_topics_without_held_out_text_change_no_colour(unchanged: Run) -> None:
    facts = gather(*unchanged)
    topics = facts["topics"]["zh"]
    assert charts.topic_colors(facts, "zh", topics) == list(range(11))
    assert charts.topic_colors(facts, "zh", [*topics[3:5], "(no topic)"]) == [3, 4, 11]
    assert charts.topic_colors(facts, "zh", ["web", "book"]) == [0, 1]


def test_a_part_that_changes_later_begins_with_what_it_had(unchanged: Run) -> None:
    facts = gather(*unchanged)
    change = {"cause": "read 4 times", "path": ""}
    facts["training"][0]["shares"] = [
        change | {"tokens": 100, "old": {"a": 0.5, "b": 0.2}, "new": {"a": 0.0, "b": 0.7}},
        change | {"tokens": 300, "old": {"b": 0.7, "c": 0.3}, "new": {"b": 0.0, "c": 1.0}},
    ]
    facts["training"][1]["shares"] = []
    (chart,) = (chart for chart in charts.course_charts(facts) if chart["id"] == "chart-shares-stage")
    end = facts["training"][0]["tokens"]
    points = {trace["name"]: list(zip(trace["x"], trace["y"], strict=True))[:4] for trace in chart["traces"]}
    assert points["a"][:3] == [(0, 50), (100, 0), (end, 0)]
    assert points["b"] == [(0, 20), (100, 70), (300, 0), (end, 0)]
    assert points["c"][:3] == [(0, 30), (300, 100), (end, 100)]


def test_inherited_shares_hold_through_the_next_stage(unchanged: Run) -> None:
    facts = gather(*unchanged)
    facts["training"][1] |= {"shares": []}
    (chart,) = (chart for chart in charts.course_charts(facts) if chart["id"] == "chart-shares-zh-web")
    total = sum(stage["tokens"] for stage in facts["training"])
    assert all(trace["x"][-1] == total and trace["y"][-1] == trace["y"][-2] for trace in chart["traces"])


def test_a_stage_that_has_just_begun(run_until: Callable[..., Run]) -> None:
    workspace, recipe = run_until("train-1")
    path = workspace.folder("train-1") / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(lines[0], encoding="utf-8")  # the record `start` alone
    assert charts.course_charts(gather(workspace, recipe)) == []
    path.write_text("".join(lines[:2]), encoding="utf-8")  # and the first validation
    assert charts.course_charts(gather(workspace, recipe))


def test_thinning_keeps_both_ends() -> None:
    rows = thin([[i] for i in range(1000)])
    assert len(rows) == MAX_TABLE_ROWS
    assert (rows[0], rows[-1]) == ([0], [999])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (9, 110, ["10", "20", "50", "100"]),
        (1.1, 4e5, ["1", "10", "100", "1,000", "10,000", "100,000"]),
        (570, 640, [f"{x}" for x in range(570, 641, 10)]),
        (17, 17.1, ["17", "17.05", "17.1"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, expected: list[str]) -> None:
    assert log_ticks(low, high)["ticktext"] == expected


def test_plotlys_tags_are_taken_literally() -> None:
    assert plot_text('<a href="x">&</a>') == '&lt;a href="x"&gt;&amp;&lt;/a&gt;'


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (9_999_999, "9,999,999"), (92_500_000_000, "92.5\u202fB")]
)
def test_counts(value: int | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.2\u202f%"), (-0.1, "\u221210.0\u202f%"), (-0.0001, "0.0\u202f%"), (None, "–")]
)
def test_percentages(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_durations_and_numbers() -> None:
    assert [duration(s) for s in (None, 4.25, 200, 3725)] == [
        "–",
        "4.2\u202fs",
        "3\u202fmin 20\u202fs",
        "1\u202fh 02\u202fmin",
    ]
    assert fixed(-1.5) == "\u22121.500"


@pytest.mark.parametrize(("counts", "step"), [([1, 0, 4], 1), ([1, 0, 9], None)])
def test_few_documents_are_counted_in_whole_ones(counts: list[int], step: int | None) -> None:
    found = {"language": "zh", "source": "web", "documents": sum(counts), "quantiles": {"0.5": 20.0}}
    found |= {"bin_edges": [10.0, 20.0, 40.0, 80.0], "bin_documents": counts}
    (chart,) = charts.perplexity_charts({"corpus": {"perplexity": [found]}})
    assert chart["layout"]["yaxis"].get("dtick") == step
