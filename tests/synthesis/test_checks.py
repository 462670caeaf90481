"""What a pair must pass, passages, corruption and the funnel."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.synthesis.serving import FaultyServer, Runner, corpus_rows, read_documents
from tests.synthesis.serving import settings as server_settings

from reprise import schemas
from reprise.recipe.documents import Deduplicate
from reprise.recipe.synthesis import DISCIPLINES, Checks, Passages, Synthesis
from reprise.synthesis.checks import (
    check_instructions,
    check_pair,
    content_words,
    longest_common_run,
    repetition,
    support,
)
from reprise.synthesis.parsing import Pair
from reprise.synthesis.passages import Disciplines, choose_passages, cut_passages, find_passages, share_out
from reprise.synthesis.prompts import load_prompt

FORMATS = {one.name: one for one in schemas.FORMATS}

GOOD = Pair(
    "Why does a lake freeze from the top rather than from the bottom?",
    "Water is densest at about four degrees Celsius, so colder water rises and turns to ice at the surface.",
)
GOOD_ZH = Pair(
    "湖水为什么从表面开始结冰而不是从湖底开始？",
    "水在约4摄氏度时密度最大，更冷的水会上升，于是在湖面先结成冰，下层仍保持液态。",
)


def reason(pair: Pair, language: str = "en", passage: str = "", tokens: int = 50, **more: Any) -> str | None:
    checks = Checks.model_validate(more)
    drop = check_pair(pair, language=language, passage=passage, answer_tokens=tokens, minimum=20, checks=checks)
    return drop[0] if drop else None


def test_good_pairs_pass() -> None:
    assert reason(GOOD) is None
    assert reason(GOOD_ZH, "zh") is None


@pytest.mark.parametrize(
    ("pair", "wanted"),
    [
        (Pair("Why?", GOOD.answer), "short_question"),
        (Pair(GOOD.question, "Here the young cell divides " * 4), "repetition"),
        (Pair(GOOD.question, GOOD_ZH.answer), "language"),
        (Pair("What does the text say about the ice on a lake?", GOOD.answer), "not_self_contained"),
        (Pair("What is meant by the quantity in Figure 3 of a lake?", GOOD.answer), "not_self_contained"),
        (Pair(GOOD.question, "As described above, water is densest at four degrees."), "not_self_contained"),
        (Pair(GOOD.question, "I'm sorry, but as an AI language model I cannot tell why lakes freeze."), "refusal"),
        (Pair(GOOD.question, "A lake does freeze from the top rather than from the bottom."), "echo"),
    ],
)  # fmt: skip
def test_bad_pairs_fail_with_their_reason(pair: Pair, wanted: str) -> None:
    assert reason(pair) == wanted


def test_bad_chinese_pairs() -> None:
    assert reason(Pair("根据上述文章，湖水为什么从表面开始结冰？", GOOD_ZH.answer), "zh") == "not_self_contained"
    assert (
        reason(
            Pair(GOOD_ZH.question, "Water is densest at four degrees, so the ice forms at the top of the lake."), "zh"
        )
        == "language"
    )


@pytest.mark.parametrize("kind", ["problem", "question"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_prompt_said_again_is_no_answer(kind: str, language: str) -> None:
    prompt = load_prompt(kind, language)
    instructions = "\n".join(text for _, text in prompt.messages)
    lines = [line for line in instructions.splitlines() if len(content_words(line, language)) > 14 and "{" not in line]
    assert lines
    for line in lines:
        dropped = check_instructions(Pair("What is asked here?", line), instructions, language)
        assert dropped is not None and dropped[0] == "copied_prompt"
    own = {"en": "Sodium gives its outer electron to chlorine.", "zh": "钠把最外层的电子交给氯，于是成为离子。"}[
        language
    ]
    assert check_instructions(Pair("Why?", own), instructions, language) is None


def test_how_much_an_answer_must_add_is_a_setting() -> None:
    pair = Pair("Why is the Caspian Sea a lake?", "The Caspian Sea is a lake since no ocean touches any coast there.")
    assert reason(pair) is None
    assert reason(pair, min_new_words=8) == "echo"


def test_length_in_tokens() -> None:
    assert reason(GOOD, tokens=19) == "short_answer"
    assert reason(GOOD, tokens=20) is None
    assert reason(GOOD, tokens=101, max_answer_tokens=100) == "long_answer"


def test_copying_and_support() -> None:
    passage = "Some words before. " + GOOD.answer + " And some words behind."
    assert reason(GOOD, passage=passage, max_copied_words=10) == "copied"
    assert reason(GOOD, passage=passage, max_copied_words=19) is None
    assert reason(GOOD, passage="Nothing of that sort at all.", min_support=0.5) == "unsupported"
    assert reason(GOOD, passage=passage + GOOD.question, min_support=0.99) is None
    assert 0 < support(GOOD, "Water freezes on lakes", "en") < 0.5


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_longest_common_run_is_that_of_the_plain_search(one: list[str], other: list[str]) -> None:
    runs = [end - start for start in range(len(one)) for end in range(start, len(one) + 1)
            if "".join(one[start:end]) in "".join(other)]  # fmt: skip
    assert longest_common_run(one, other) == max(runs, default=0)


@given(st.lists(st.text("ab", min_size=1, max_size=2), max_size=40))
def test_repetition_is_a_share(words: list[str]) -> None:
    assert 0 <= repetition(words) < 1
    if len(words) >= 4:
        assert repetition(words * 3) > 0.4


@settings(deadline=None)
@given(st.text("ab. \n。", max_size=400), st.integers(1, 30), st.integers(30, 90))
def test_passages_are_of_the_text_and_of_the_right_length(text: str, low: int, high: int) -> None:
    bare = "".join(text.split())
    at = 0
    for passage in cut_passages(text, low, high):
        assert low <= len(passage) <= high
        at = bare.index("".join(passage.split()), at)


@given(st.integers(0, 200), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_requests_are_shared_out_evenly(wanted: int, available: list[int]) -> None:
    parts = [str(number) for number in range(len(available))]
    given_ = share_out(wanted, parts, dict(zip(parts, available, strict=True)))
    assert sum(given_.values()) == min(wanted, sum(available))
    open_parts = [given_[part] for part, there in zip(parts, available, strict=True) if given_[part] < there]
    assert all(given_[part] <= there for part, there in zip(parts, available, strict=True))
    assert not open_parts or max(given_.values()) - min(open_parts) <= 1


def test_the_choice_of_passages_does_not_depend_on_the_order_of_the_documents() -> None:
    rows = corpus_rows(10)
    disciplines = Disciplines(["physics"], {})
    found = list(find_passages(rows, disciplines, ["en"], Passages(min_chars=50, max_chars=200)))
    chosen = choose_passages(found, 8, 0)
    assert chosen == choose_passages(found[::-1], 8, 0)
    files = [passage.origin.partition(":")[0] for passage in chosen]
    assert files.count("file0.jsonl") == files.count("file1.jsonl") == 4
    assert len({passage.document_id for passage in chosen}) == 8
    assert len(choose_passages(found, 8, 3)) == 6


def test_held_out_documents_other_languages_and_code_are_never_passages() -> None:
    rows = corpus_rows(1)
    for change in ({"split": "valid"}, {"lang": "fr"}, {"source": "code"}, {"source": "synthetic"}):
        passages = find_passages(
            [{**row, **change} for row in rows], Disciplines(list(DISCIPLINES), {}), ["en"], Passages()
        )
        assert list(passages) == []


def test_a_discipline_of_the_users_own() -> None:
    own = Disciplines(["law"], {"law": {"en": ["court", "judge", "statute"], "zh": ["法院", "法官"]}})
    assert own.of("The court heard the judge, who read the statute.", "en") == "law"
    assert own.of("法院的法官今天开庭。", "zh") == "law"
    assert own.of("The cell divides.", "en") is None


def test_the_topic_of_a_document_decides_which_disciplines_come_into_question() -> None:
    disciplines = Disciplines([*DISCIPLINES, "law"], {"law": {"en": ["court", "judge"]}}, {"astronomy": ["Sky"]})
    text = "The river carried stones into the delta while the ocean rose, and the planet warmed."
    assert disciplines.of(text, "en") == "earth science"
    assert disciplines.of(text, "en", "Others") == "earth science"
    assert disciplines.of(text, "en", "mathematics and physics") == "astronomy"
    assert disciplines.of(text, "en", "Sky") == "astronomy"
    assert disciplines.of(text, "en", "Law and Policy") == "general education"
    assert disciplines.of("Let x be less than two; then the sum grows.", "en") == "general education"
    assert (
        disciplines.of("Let x be less than two; then the sum grows.", "en", "Mathematics and Physics") == "mathematics"
    )
    assert disciplines.of("The court heard the judge.", "en", "Law and Policy") == "law"
    assert Disciplines(["physics"], {}).of("Cells have energy and momentum.", "en", "Biology and Chemistry") is None


def test_topics_take_turns_and_the_limit_of_a_file_holds_over_its_topics() -> None:
    rows = [{**row, "topic": "rare" if place == 7 else "common", "origin": f"one.jsonl:{place}"}
            for place, row in enumerate(corpus_rows(8)[:8])]  # fmt: skip
    found = list(find_passages(rows, Disciplines(["physics"], {}), ["en"], Passages(min_chars=50, max_chars=200)))
    assert {passage.topic for passage in choose_passages(found, 2, 0)} == {"rare", "common"}
    assert len(choose_passages(found, 9, 3)) == 3
    some = choose_passages(found[:9], 4, 3)
    assert choose_passages([*some, *found[9:]], 4, 3) == choose_passages(found, 4, 3)


def test_quality_prefers_prose() -> None:
    from reprise.synthesis.passages import quality_of

    prose = "The river carries sand to the sea. Where it slows down, the sand settles and a delta grows."
    assert quality_of(prose) > 2 * quality_of("- Home\n- About\n- Contact\n- 12345\n- News\n- 6789")


def test_error_rate_corrupts_that_share_of_the_final_answers(server: FaultyServer, run_stage: Runner) -> None:
    def answer(prompt: str, seed: int) -> str:
        import random

        words = [f"{random.Random(f'{seed}{place}').randrange(10**6)}" for place in range(24)]
        return (
            f"## Problem\nWhat number follows from {' and '.join(words[:9])} in the usual way?\n\n"
            f"## Solution\nWe add {' and '.join(words[9:])} step by step.\nThe result is \\boxed{{{seed}}}."
        )

    server.answer = answer
    base = server_settings(server, 20, max_tokens=200)
    recipe = {
        **base.model_dump(), "kinds": {"problem": 1.0}, "error_rate": 0.3, "disciplines": ["physics", "biology"],
        "passages": {"requests_per_passage": 2},
    }  # fmt: skip
    work = run_stage(Synthesis.model_validate(recipe))
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    texts = {row["id"]: row["text"] for row in read_documents(work)}
    corrupted = [line for line in lines if "corrupted" in line]
    assert len(texts) == 20
    assert len(corrupted) == 6
    for line in lines:
        right = line.get("corrupted", {}).get("right")
        assert right is None or f"\\boxed{{{right}}}" not in texts[line["id"]]
    clean = run_stage(Synthesis.model_validate({**recipe, "error_rate": 0.0}), name="clean")
    before = {row["id"]: row["text"] for row in read_documents(clean)}
    assert sum(before[name] != text for name, text in texts.items()) == 6


def test_provenance_funnel_and_samples(server: FaultyServer, run_stage: Runner) -> None:
    server.answer = lambda prompt, seed, good=server.answer: good(prompt, seed) if seed % 3 else "I cannot do that."
    work = run_stage(server_settings(server, 18))
    funnel = json.loads((work.output / "funnel.json").read_text())
    lines = [json.loads(line) for line in (work.output / "provenance.jsonl").read_text().splitlines()]
    FORMATS["funnel"].check(funnel)
    for line in lines:
        FORMATS["provenance"].check(line)
    documents = read_documents(work)
    assert {line["id"] for line in lines if line["kept"]} == {row["id"] for row in documents}
    assert funnel["total"]["requests"] == 18 == len(lines)
    assert funnel["total"]["dropped"] == {"does_not_parse": 18 - len(documents)}
    assert set(funnel["disciplines"]) == {"physics", "biology", "astronomy"}
    for part in funnel["disciplines"].values():
        assert part["requests"] == part["kept"] + sum(part["dropped"].values()) == 6
    assert {row["source"] for row in documents} == {"synthetic"}
    assert {(row["split"], row["lang"]) for row in documents} == {("train", "en")}
    line = lines[0]
    assert (line["prompt"], line["model"]) == ("question.en@1", {"name": "m"})
    assert line["passage"]["id"].split("-")[0] == line["discipline"]
    assert line["sampling"] == {"temperature": 0.7, "top_p": 1.0, "max_tokens": 60, "sample": 0}
    samples = json.loads((work.output / "samples.json").read_text())
    FORMATS["samples"].check(samples)
    assert all(sample["text"] and sample["reason"] for sample in samples["dropped"])
    assert len(samples["kept"]) == min(10, len(documents))
    forms = {line["form"] for line in lines if line["kept"]}
    assert len(forms) > 1


def test_duplicates_and_benchmark_questions_are_dropped(server: FaultyServer, run_stage: Runner, tmp_path: Any) -> None:
    leak = "A train leaves the town of Umbar at seven and meets a second train after ninety minutes; how far did it go?"
    folder = tmp_path / "data" / "trains"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(json.dumps({"question": leak, "answer": "90", "type": "gen", "id": "1"}) + "\n")
    good = server.answer
    order: dict[int, int] = {}

    def answer(prompt: str, seed: int) -> str:
        number = order.setdefault(seed, len(order))
        first, other = good("one", 1), good("two", 2)
        match number:
            case 0:
                return (
                    f"Question: {leak}\nAnswer: Both speeds added and multiplied by ninety minutes give the distance."
                )
            case 1:
                return first
            case 2:  # the same question, another answer
                return first.split("\n")[0] + "\n" + other.split("\n")[1]
            case 3:  # a near copy: one word is another one
                return first.replace("share ", "share also ").replace("What links", "What joins")
        return good(prompt, seed)

    server.answer = answer
    recipe = server_settings(server, 12, batch_size=1).model_copy(update={"templates": {"en": ["{question} {answer}"]}})
    work = run_stage(recipe, benchmarks=["trains"], data=str(tmp_path / "data"), deduplicate=Deduplicate(threshold=0.6))
    assert work.counts["dropped_by_reason"] == {"same_question": 1, "benchmark_question": 1, "near_duplicate": 1}
    assert work.counts["documents_out"] == 9


def test_a_near_copy_of_a_document_of_the_corpus_is_dropped(server: FaultyServer, run_stage: Runner) -> None:
    rows = corpus_rows()
    known = server.answer("known", 3)
    question, answer = (line.split(": ", 1)[1] for line in known.split("\n"))
    rows.append({**rows[0], "id": "known", "split": "valid", "text": f"{question} {answer}"})
    good, order = server.answer, {}  # type: ignore[var-annotated]
    server.answer = lambda prompt, seed: known if order.setdefault(seed, len(order)) == 2 else good(prompt, seed)
    recipe = server_settings(server, 6, batch_size=1).model_copy(update={"templates": {"en": ["{question}\n{answer}"]}})
    work = run_stage(recipe, rows=rows)
    assert work.counts["dropped_by_reason"] == {"near_copy_of_corpus": 1}
