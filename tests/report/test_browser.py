"""The page in a real Chromium: a silent console, every chart drawn, narrow, dark, printed, by keyboard, hostile."""

import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reprise.recipe import Recipe
from reprise.report.build import HTML, compare_report, write_report
from reprise.report.study_page import render_study
from reprise.report.study_records import StudyResult
from reprise.report.watch import open_watch
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]
RunUntil = Callable[..., Run]

CHROMIUM = os.environ.get("REPRISE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install it (Debian: apt-get install chromium) or set REPRISE_CHROMIUM"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        # Containers run as root, where Chromium has no sandbox of its own; the pages are ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; the test fails on any message on the console, any error, any request that leaves the page."""
    complaints: list[str] = []
    contexts = []

    def make(address: str, width: int = 1280, height: int = 900, **settings: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        origin = address if address.startswith("http") else "file:"
        page.on("request", lambda request: None if allowed(request.url, origin) else complaints.append(request.url))
        page.goto(address)
        wait_until(lambda: page.evaluate("!document.querySelector('.plot:not(.js-plotly-plot)')"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


def wait_until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    """Playwright's own waiting evaluates text as script, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def allowed(url: str, origin: str) -> bool:
    return url.startswith((origin, "data:", "blob:"))


@pytest.fixture(scope="module")
def address(unchanged: Run) -> str:
    workspace, recipe = unchanged
    write_report(workspace, recipe, workspace.root / HTML)
    return (workspace.root / HTML).as_uri()


DRAWN = """() => [...document.querySelectorAll(".plot")].map((node) => ({
    id: node.id, width: node.querySelector(".main-svg")?.clientWidth,
    marks: node.querySelectorAll(".scatterlayer path.js-line, .scatterlayer path.point").length,
    wanted: node.clientWidth, ticks: node.querySelectorAll(".xtick").length}))"""


def test_every_chart_is_drawn(open_page: Callable[..., Any], address: str) -> None:
    charts = open_page(address).evaluate(DRAWN)
    assert len(charts) >= 12
    for chart in charts:
        assert chart["marks"] > 0, chart
        assert chart["ticks"] > 1, chart
        assert chart["width"] == chart["wanted"], chart


OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_a_phone_shows_the_page_without_scrolling_sideways(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address, width=360, height=740)
    assert page.evaluate(OVERFLOW) == 0
    scrolls = "nodes => nodes.filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.ariaLabel)"
    sideways = page.locator("#verdict .scroll, #gains > .scroll, .scroll:has(#verified)").evaluate_all(scrolls)
    assert sideways == []
    assert "answers of equal value" in page.locator("#gains").inner_text()
    assert page.locator("#verified tbody tr").first.inner_text().split() == ["read", "–", "not", "verified"]
    for details in page.query_selector_all("details"):
        details.evaluate("node => { node.open = true; }")
    assert page.evaluate(OVERFLOW) == 0
    assert all(chart["width"] == chart["wanted"] <= 360 for chart in page.evaluate(DRAWN))


CONTRAST = """() => {
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(channel);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m);
        return (x + 0.05) / (y + 0.05); };
    const ground = getComputedStyle(document.body).backgroundColor;
    const found = {text: contrast(getComputedStyle(document.body).color, ground)};
    document.querySelectorAll(".note, .badge, .contents a, td, .plot .xtick text").forEach((node) => {
        const style = getComputedStyle(node);
        const own = style.backgroundColor === "rgba(0, 0, 0, 0)" ? ground : style.backgroundColor;
        const color = node.tagName === "text" ? style.fill : style.color;
        found[node.className.baseVal ?? (node.className || node.tagName)] = contrast(color, own); });
    document.querySelectorAll(".plot path.js-line").forEach((node) => {
        found["line " + getComputedStyle(node).stroke] = contrast(getComputedStyle(node).stroke, ground); });
    return found; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_from_the_ground(open_page: Callable[..., Any], address: str, scheme: str) -> None:
    page = open_page(address, color_scheme=scheme)
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) > 10
    for what, ratio in contrasts.items():  # WCAG 2.2, 1.4.3 and 1.4.11
        assert ratio >= (3.0 if what.startswith("line") else 4.5), (what, ratio)


def test_checkpoints_and_merges_are_told_apart(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address)
    names = page.locator("#chart-plane ~ .legend button").all_text_contents()
    assert [name.strip() for name in names] == ["zh against en checkpoints", "zh against en merges"]
    page.locator("#chart-plane-numbers summary").click()
    assert "merge 0.75" in page.locator("#chart-plane-numbers tbody").text_content()
    assert page.locator("#chart-plane .textpoint").all_text_contents() == ["merge 0.5", "merge 0.75"]
    assert page.locator("#chart-curve").is_visible() and page.locator("#chart-scores").is_visible()


def test_charts_follow_the_scheme(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address, color_scheme="light")
    stroke = "() => getComputedStyle(document.querySelector('#chart-loss path.js-line')).stroke"
    before = page.evaluate(stroke)
    page.emulate_media(color_scheme="dark")
    wait_until(lambda: page.evaluate(stroke) != before)


def test_print_is_light_and_fits_the_paper(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address, color_scheme="dark")
    paper = page.pdf(format="A4", print_background=True)
    assert paper.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 25
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(chart["width"] <= 620 for chart in page.evaluate(DRAWN))  # A4 and Letter with their margins
    size = "name => parseFloat(getComputedStyle(document.querySelector(name)).fontSize)"
    assert page.evaluate(size, ".lead") > page.evaluate(size, ".note")
    page.evaluate("dispatchEvent(new Event('afterprint'))")


def test_the_keyboard_reaches_everything(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = set()
    for _ in range(250):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName + (document.activeElement.className || '')"))
    assert {"A", "SUMMARY", "BUTTON"} <= seen
    curve = page.locator("#chart-entries-curve-0")
    count = "() => document.querySelectorAll('#chart-entries path.js-line').length"
    before = page.evaluate(count)
    curve.focus()
    page.keyboard.press("Space")
    assert curve.get_attribute("aria-pressed") == "false"
    assert page.evaluate(count) == before - 1
    page.keyboard.press("Space")
    assert page.evaluate(count) == before
    summary = page.locator("#chart-entries-numbers summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#chart-entries-numbers table").is_visible()


def test_a_table_is_a_stop_of_the_keyboard_where_it_scrolls(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address, width=360, height=740)
    page.locator("#topics-1 summary").click()
    regions = """() => [...document.querySelectorAll(".scroll")].filter((node) => node.clientWidth).map((node) =>
        [node.tabIndex, node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight])"""
    wait_until(lambda: all((stop == 0) == scrolls for stop, scrolls in page.evaluate(regions)))
    assert any(scrolls for _, scrolls in page.evaluate(regions))


def test_headings_and_landmarks(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((node) => Number(node.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("main", "nav[aria-label]", "header", "footer.colophon"):
        assert page.locator(landmark).count() == 1, landmark
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    targets = page.evaluate("[...document.querySelectorAll('nav a')].map((node) => node.getAttribute('href').slice(1))")
    assert set(targets) <= set(ids)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}<b>bold</b>"


def test_hostile_text_stays_text(open_page: Callable[..., Any], run_until: RunUntil) -> None:
    workspace, recipe = run_until("evaluate")
    hostile = recipe.model_copy(update={"name": f"run {HOSTILE}"})
    part = workspace.folder("clean") / "dropped" / "part-00000.parquet"
    table = pq.read_table(part)
    for column in ("text", "detail", "reason", "origin", "lang", "source"):
        values = pa.array([f"{column} {HOSTILE}"] * table.num_rows)
        table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
    pq.write_table(table, part)
    for stage in ("train-1", "train-2"):
        metrics = workspace.folder(stage) / "metrics.jsonl"
        renamed = metrics.read_text(encoding="utf-8").replace("Medicine and Health", HOSTILE.replace('"', '\\"'))
        metrics.write_text(renamed, encoding="utf-8")
    results = workspace.folder("evaluate") / "results.json"
    renamed = results.read_text(encoding="utf-8").replace("Medicine and Health", HOSTILE)
    results.write_text(renamed, encoding="utf-8")
    write_report(workspace, hostile, workspace.root / HTML)
    page = open_page((workspace.root / HTML).as_uri())
    assert page.locator("h1").text_content() == f"run {HOSTILE}"
    assert page.locator("img").count() == 0
    assert page.locator("main b").count() == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 4
    assert page.evaluate("JSON.parse(document.getElementById('report').textContent).run.name") == f"run {HOSTILE}"
    assert HOSTILE in page.locator("#drop-1").text_content()
    assert HOSTILE in page.locator("#chart-topics-zh-web-curve-10").text_content()
    assert "49" not in page.locator("h1").text_content()
    plot = page.locator("#chart-topics-zh-web")
    plot.scroll_into_view_if_needed()
    plot.hover(position={"x": 500, "y": 150})
    wait_until(lambda: "<b>bold</b>" in (plot.locator(".hoverlayer").text_content() or ""))


def test_the_policy_stops_a_script_that_got_in(open_page: Callable[..., Any], address: str, tmp_path: Path) -> None:
    """The second line of defence, should the escaping ever fail."""
    text = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main", "<script>document.title = 'taken'</script><main", 1), encoding="utf-8")
    context = open_page(address).context
    page = context.new_page()
    page.goto(bad.as_uri())
    assert page.title() != "taken"


def test_runs_side_by_side(open_page: Callable[..., Any], run_until: RunUntil, tmp_path: Path) -> None:
    first, _ = run_until("evaluate", folder="one")
    second, _ = run_until("train-2", "name=hotter", "stages.0.schedule.peak_lr=3e-4", folder="two")
    compare_report([first.root, second.root], tmp_path / "compare.html")
    page = open_page((tmp_path / "compare.html").as_uri(), width=360, height=740)
    assert page.evaluate(OVERFLOW) == 0
    # A setting's name goes on after its dots, it is not cut into single letters.
    # Of the name alone: the row is as high as its longest value.
    heights = page.locator(".settings tbody th").evaluate_all(
        "nodes => nodes.map((node) => { const range = document.createRange(); range.selectNodeContents(node);"
        " return range.getBoundingClientRect().height; })"
    )
    assert len(heights) >= 3
    assert max(heights) < 120
    cells = page.locator("#result tr").filter(has_text="ceval").locator("th, td").all_text_contents()
    assert cells == ["ceval", "33.00", "+6.00", "200", "–", "–", "–"]
    charts = page.evaluate(DRAWN)
    assert [chart["id"] for chart in charts] == ["chart-compare-en", "chart-compare-zh", "chart-plane"]
    assert all(chart["marks"] > 0 for chart in charts)


def test_an_early_report(open_page: Callable[..., Any], run_until: RunUntil) -> None:
    workspace, recipe = run_until("clean")
    write_report(workspace, recipe, workspace.root / HTML)
    page = open_page((workspace.root / HTML).as_uri())
    assert "Nothing is measured yet" in page.locator("#verdict").text_content()
    assert "no guard had to act" not in page.locator("#course").text_content()  # nothing happened that it could act on
    assert "The evaluation writes them" in page.locator("#samples").text_content()
    parts = page.locator("#data h3, #data #buckets").evaluate_all(
        "nodes => nodes.map((node) => node.id || node.textContent)"
    )
    assert parts.index("buckets") == parts.index("The way of the documents") + 1


def test_the_live_page_follows_the_run(open_page: Callable[..., Any], run_until: RunUntil, live: Any) -> None:
    workspace, recipe = run_until("train-2")
    metrics = workspace.folder("train-2") / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    metrics.write_text("".join(lines[:4]), encoding="utf-8")
    page = open_page(live(workspace, recipe))
    page.locator("#chart-loss-numbers summary").click()
    points = "() => document.querySelectorAll('#chart-loss-numbers tbody tr').length"
    before = page.evaluate(points)
    metrics.write_text("".join(lines), encoding="utf-8")
    wait_until(lambda: page.evaluate(points) > before)
    assert page.locator("#chart-loss-numbers").get_attribute("open") is not None  # what was open stays open
    assert all(chart["marks"] > 0 for chart in page.evaluate(DRAWN))


@pytest.fixture
def live() -> Iterator[Callable[[Workspace, Recipe], str]]:
    import threading

    servers = []

    def serve(workspace: Workspace, recipe: Recipe) -> str:
        server = open_watch(workspace, recipe)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def study_result(seeds: int) -> StudyResult:
    """Two measures of three variants; one name would be markup, one is long."""
    variants = ("random", "ascending <b>", "descending_with_a_name_that_is_as_long_as_a_folder_name_may_be")

    def paired(size: float, unit: str) -> dict[str, Any]:
        values = [size + 0.002 * (seed - 1) for seed in range(seeds)]
        ci = (size - 0.004, size + 0.004) if seeds > 1 else None
        return {"values": values, "mean": size, "ci": ci, "unit": unit, "detectable": 0.008 if ci else None}

    def comparison(unit: str, higher: bool) -> Any:
        values = {"values": [1.25 + 0.01 * seed for seed in range(seeds)], "mean": 1.26, "ci": None}
        return {
            "higher_is_better": higher,
            "variants": {variant: dict(values) for variant in variants},
            "differences": {variants[1]: paired(-0.02, unit), variants[2]: paired(0.001, unit)},
            "sentences": [f"{variant} against random: -2.00 % in {seeds} seeds" for variant in variants[1:]],
        }

    return {
        "name": "Does the order matter? <script>alert(1)</script>",
        "question": "Do easy documents first help?",
        "recipe": "recipes/demo.yaml",
        "variants": {variant: [f"stages.0.curriculum.order={variant}"] for variant in variants},
        "baseline": "random",
        "seeds": list(range(1, seeds + 1)),
        "halving": None,
        "stopped": {},
        "measures": {
            "bits_per_byte/zh": comparison("relative", higher=False),
            "benchmark/cmmlu": comparison("difference", higher=True),
        },
    }


@pytest.mark.parametrize(("width", "seeds"), [(1280, 3), (390, 3), (390, 1)])
def test_a_study_looks_like_a_report(open_page: Callable[..., Any], tmp_path: Path, width: int, seeds: int) -> None:
    (tmp_path / "study.html").write_text(render_study(study_result(seeds)), encoding="utf-8")
    page = open_page((tmp_path / "study.html").as_uri(), width=width)
    charts = page.evaluate(DRAWN)
    assert len(charts) == 2
    for chart in charts:
        assert chart["marks"] >= 2 * (1 + seeds) and chart["width"] == chart["wanted"] <= width, chart
    assert page.evaluate(OVERFLOW) == 0
    assert page.locator("h1").inner_text().endswith("</script>")
    styles = [item.get_attribute("class") for item in page.locator("#result .headline li").all()]
    assert styles == (["gained", "undecided", "lost", "undecided"] if seeds > 1 else ["undecided"] * 4)
    row = page.locator("#measure-0 table").first.locator("tbody tr").first.inner_text()
    assert "\u22122.00\u202f%" in row and ("\u22122.40\u202f% to \u22121.60\u202f%" in row) == (seeds > 1)
