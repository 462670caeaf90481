import pytest
from ftfy.badness import is_bad
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.clean import stage as clean
from reprise.documents.clean.measure import measure_stage, show_retention
from reprise.documents.table import DOCUMENTS, DROPPED, as_table, read_table, write_part
from reprise.recipe.documents import Clean

PROSE = (
    "The harbour was built in 1891 to give the fishing fleet a shelter from the winter storms that come out of the "
    "north. Two long walls of granite reach into the bay, and between them there is room for about forty boats. In the "
    "years before the railway came, most of the catch was salted and sent to the towns inland by cart. Today the boats "
    "are fewer, but the market on the quay still opens with the first light of the day."
)


def row(text, number=0, **more):
    values = {"id": str(number), "text": text, "lang": "en", "source": "web", "split": "train", "origin": f"a:{number}"}
    return {**values, **more}


@pytest.fixture
def run(make_work, tmp_path):
    """Clean rows; returns the work, the kept rows and the dropped ones."""

    def run(rows, **settings):
        write_part(tmp_path / "read" / DOCUMENTS / "part-00000.parquet", rows)
        work = make_work("clean", read=tmp_path / "read")
        clean.run(work, clean=Clean(**settings), engine="native")
        kept = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
        dropped = [row for batch in read_table(work.output / DROPPED) for row in batch.to_pylist()]
        return work, kept, dropped

    return run


def test_short_documents_are_dropped_with_a_reason(run):
    rows = [
        row("long enough " * 10, 1, source="book"),
        row("short", 2),
        row("  padded  " + " " * 200, 3, source="book", lang="zh"),
    ]
    work, kept, dropped = run(rows)
    assert [r["id"] for r in kept] == ["1"]
    assert [(d["id"], d["reason"], d["text"]) for d in dropped] == [(r["id"], "too_short", r["text"]) for r in rows[1:]]
    assert [flow for flow in work.counts["buckets"] if flow["dropped"]] == [
        {"language": lang, "source": source, "split": "train", "documents_in": 1, "dropped": {"too_short": 1}}
        for lang, source in (("en", "web"), ("zh", "book"))
    ]
    assert (work.counts["documents_in"], work.counts["documents_out"], work.counts["dropped"]) == (3, 1, 2)


def test_heuristics_look_at_their_sources_only(run):
    rows = [row("word " * 100, 1), row("word " * 100, 2, source="book")]
    _, kept, dropped = run(rows)
    assert [r["id"] for r in kept] == ["2"]
    assert [d["reason"] for d in dropped] == ["min_stop_words"]


def test_personal_data_is_masked_where_asked(run):
    rows = [row("Write to jane@example.com. " * 10, 1, source="book")]
    work, kept, _ = run(rows, mask_personal_data=True)
    assert kept[0]["text"] == ("Write to [mail]. " * 10).strip()
    assert work.counts["masked"]["mail"] == 10


def test_switched_off_it_changes_nothing(run):
    rows = [row("schÃ¶n", 1), row("", 2)]
    work, kept, dropped = run(rows, enabled=False)
    assert [r["text"] for r in kept] == ["schÃ¶n", ""]
    assert not dropped
    assert work.counts["documents_out"] == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schÃ¶n und gÃ¼nstig", "schön und günstig"),
        ("itâ€™s â€œquotedâ€\x9d", "it’s “quoted”"),
        ("fine — “quotes” ½ of café", "fine — “quotes” ½ of café"),
        ("全角：，。！ＡＢＣ　①", "全角：，。！ＡＢＣ　①"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("nul\x00 bell\x07 bom\ufeff\x7f", "nul bell bom"),
        ("  \n tab\tkept \n ", "tab\tkept"),
    ],
)
def test_repair(before, after):
    assert clean.repair(before) == after
    assert clean.repair(after) == after


@given(st.text(max_size=40), st.sampled_from(["latin-1", "windows-1252", "windows-1251", "macroman", "cp437"]))
def test_the_cheap_look_for_mojibake_misses_none(text, encoding):
    broken = text.encode().decode(encoding, "replace")
    for line in (text, broken):
        if is_bad(line):
            assert clean._MAY_BE_MOJIBAKE.search(line)


@given(st.lists(st.text(max_size=60), max_size=5))
def test_no_text_makes_it_fail_or_lose_a_row(texts):
    rows = [row(text.encode("utf-8", "replace").decode(), number) for number, text in enumerate(texts)]
    outcome = clean.clean_rows(Clean(min_chars=0, mask_personal_data=True), as_table(rows), clean.RowsOrigin("part", 0))
    assert len(outcome.columns["text"]) == len(texts)
    assert len({row for row, _, _ in outcome.drops}) == len(outcome.drops)


def test_measuring_shows_what_each_rule_costs_and_drops_nothing(tmp_path):
    menu = "\n".join(["Home", "News", "Products", "Contact us", "About", "Links", "Site map", "Log in"] * 8)
    rows = [row(f"{PROSE} Page {number}.", number) for number in range(6)] + [row(menu, 6), row("short", 7)]
    rows += [row(menu, 8, source="book"), row(PROSE, 9, lang="tlh")]
    write_part(tmp_path / "read" / DOCUMENTS / "part-00000.parquet", rows)
    settings = Clean()
    found = {(one["language"], one["source"]): one for one in measure_stage(tmp_path / "read", settings)}
    web = found["en", "web"]
    assert (web["documents"], web["kept"], web["judged"]) == (8, 6, True)
    assert found["en", "book"]["kept"] == found["tlh", "web"]["kept"] == 1
    assert not found["en", "book"]["judged"]
    losses = {loss["rule"]: loss for loss in web["rules"]}
    assert losses["min_chars"]["documents"] == 1
    assert losses["min_sentences"]["documents"] == 2
    assert losses["min_sentences"]["examples"][0]["origin"] in ("a:6", "a:7")
    for bucket in found.values():
        own = [one for one in rows if (one["lang"], one["source"]) == (bucket["language"], bucket["source"])]
        outcome = clean.clean_rows(settings, as_table(own), clean.RowsOrigin("part", 0))
        assert bucket["documents"] - bucket["kept"] == len(outcome.drops)
    show_retention(found.values())
