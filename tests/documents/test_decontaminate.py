import json

import pytest
from benchmarks.decontamination import measure_recall
from benchmarks.disguises import DISGUISES, apart
from hypothesis import given
from hypothesis import strategies as st

from reprise.benchmark_files import Question, question_files, read_questions
from reprise.documents.decontaminate import stage as decontaminate
from reprise.documents.decontaminate.index import build_index
from reprise.documents.decontaminate.reveal import changed_parts, reveal
from reprise.documents.decontaminate.search import find_questions
from reprise.documents.table import DOCUMENTS, DROPPED, read_table, write_part
from reprise.errors import UserError
from reprise.recipe.documents import Decontaminate

QUESTIONS = [
    Question("mmlu", "long", "A 24-year-old woman comes to the clinic after three days of well-known fever, "
             "a dry cough and pain in both of her knees. What is the most likely cause?", ("Flu", "Measles"), "en"),
    Question("mmlu", "short", "What's the half-life of radioactive carbon-14?", ("5,730 years", "12 days"), "en"),
    Question("cmmlu", "zh-long", "在农业生产中被当作极其重要的劳动对象发挥作用，最主要的不可替代的基本生产资料是",
             ("土地", "资金"), "zh"),
    Question("cmmlu", "zh-short", "大熊猫最喜欢吃的食物是什么？", ("竹子", "苹果"), "zh"),
]  # fmt: skip
GENERIC = [
    Question("mmlu", "g1", "Which of the following is true?",
             ("All prime numbers are odd.", "The number two is prime.", "Zero is a prime number.",
              "No prime is even."), "en"),
    Question("mmlu", "g2", "Which of the following is true?",
             ("Mercury is a gas at room temperature.", "Gold rusts in moist air.", "Iron does not rust."), "en"),
    Question("mmlu", "vague", "−4 + (−3) =", ("−7", "−1", "1", "7"), "en"),
]  # fmt: skip
ENGLISH = "The old mill stood by the river, and every morning the miller opened its gates to let the water in. "
CHINESE = "清晨的集市上人来人往，卖菜的老人把新鲜的青菜摆得整整齐齐，价格写在一块小木板上。"


@pytest.fixture(scope="module")
def index():
    return build_index([*QUESTIONS, *GENERIC], Decontaminate())


SHORT_ONES_MISSED = {"letter in each tenth word", "letters strewn", "no spaces", "space in each tenth word"}
"""Of questions under 7 words or 10 characters: docs/documents.md has the figures."""


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_a_planted_question_is_found_in_every_disguise(index, disguise, number):
    if apart(disguise, QUESTIONS[number].lang) or (number % 2 and disguise in SHORT_ONES_MISSED):
        pytest.skip("says nothing of this question, or is known to hide a short one")
    hidden = DISGUISES[disguise](QUESTIONS[number].text)
    for around in (ENGLISH, CHINESE):
        text = f"{around * 5}\n{hidden}\n{around * 5}"
        assert list(find_questions(index, [around * 10, text, ""], 0.5)[1]) == [number]
    # Of a long text only what `reveal` changed is searched again; other things are changed before and behind it.
    pages = "\n".join([ENGLISH * 2, "12", "caf\\u00e9 and a bro-\nken word", CHINESE * 2] * 30)
    assert list(find_questions(index, [f"{pages}\n{hidden}\n{pages}"], 0.5)[0]) == [number]


def test_parts_of_a_revealed_text_hold_every_change():
    lines = [f"line {number} of a text that nobody changed anywhere" for number in range(2000)]
    plain = "\n".join(lines)
    for number in (0, 3, 999, 1000, 1999):
        lines[number] = f"changed {number}"
    del lines[500:503]  # dropped lines
    lines[700:702] = ["".join(lines[700:702])]  # joined ones
    revealed = "\n".join(lines)
    parts = changed_parts(plain, revealed)
    assert sum(map(len, parts)) < len(revealed) / 2 and all(part in revealed for part in parts)
    for changed in ["changed 0\n", "changed 3\n", "changed 999\nchanged 1000\n", "changed 1999", lines[697],
                    f"{lines[499]}\n{lines[500]}"]:  # fmt: skip
        assert any(changed in part for part in parts), changed
    assert changed_parts(plain, plain[:3000]) == [plain[:3000]]


def test_clean_text_is_not_taken_for_a_question(index):
    texts = [ENGLISH * 3, CHINESE * 3, "", "Which of the following is true? Nobody can say.",
             "−4 + (−3) = −7, −1, 1, 7",
             "A 24-year-old woman comes to the clinic.", "大熊猫最喜欢吃的食物"]  # fmt: skip
    assert find_questions(index, texts, 0.5) == [{}] * len(texts)


def test_a_generic_question_is_known_by_its_options(index):
    listing = (
        "(A) The number two is prime. (B) No prime is even. (C) All prime numbers are odd (D) zero is a prime number"
    )
    found = find_questions(index, [f"{ENGLISH} Which of the following is TRUE?\n{listing}. {ENGLISH}"], 0.5)
    assert found == [{4: 1.0}]
    assert index.vague == [6]


def test_a_part_of_a_question_counts_from_the_wanted_share_on(index):
    words = QUESTIONS[0].text.split()
    for share, expected in ((0.9, True), (0.3, False)):
        text = ENGLISH + " ".join(words[: round(share * len(words))]) + ENGLISH
        assert bool(find_questions(index, [text], 0.5)[0]) == expected


def test_the_stage_drops_and_reports(make_work, tmp_path):
    (tmp_path / "data" / "mmlu").mkdir(parents=True)
    with (tmp_path / "data" / "mmlu" / "test.jsonl").open("w", encoding="utf-8") as file:
        for question in [*QUESTIONS[:2], *GENERIC]:
            file.write(json.dumps({"id": question.id, "question": question.text, "choices": question.choices}) + "\n")
    extra = tmp_path / "mine.jsonl"
    extra.write_text(json.dumps({"question": QUESTIONS[3].text}), encoding="utf-8")
    texts = [ENGLISH * 3, ENGLISH + QUESTIONS[0].text, CHINESE + QUESTIONS[3].text + QUESTIONS[0].text, CHINESE]
    rows = [
        {"id": str(n), "text": text, "lang": "en", "source": "web", "split": "train", "origin": f"a.jsonl:{n}"}
        for n, text in enumerate(texts)
    ]
    write_part(tmp_path / "before" / DOCUMENTS / "part-00000.parquet", rows)
    work = make_work("decontaminate", deduplicate=tmp_path / "before")
    settings = Decontaminate(extra_benchmarks=[str(extra)])
    decontaminate.run(work, decontaminate=settings, benchmarks=["mmlu"], data=str(tmp_path / "data"), engine="native")
    kept = [row["id"] for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
    dropped = [row for batch in read_table(work.output / DROPPED) for row in batch.to_pylist()]
    assert kept == ["0", "3"]
    assert [(drop["id"], drop["reason"]) for drop in dropped] == [
        ("1", "benchmark_question"),
        ("2", "benchmark_question"),
    ]
    assert dropped[0]["detail"] == "mmlu long (100%)"
    assert work.counts["benchmarks"] == [
        {"benchmark": "mmlu", "questions": 5, "questions_found": 1, "finds": 2, "questions_too_vague": 1},
        {"benchmark": "mine", "questions": 1, "questions_found": 1, "finds": 1, "questions_too_vague": 0},
    ]
    assert work.counts["dropped"] == 2
    assert not list(work.output.glob("index*"))


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path):
    (tmp_path / "sciq").mkdir()
    paths = [tmp_path / "sciq" / "test.jsonl", tmp_path / "sciq.jsonl", tmp_path / "one.jsonl", tmp_path / "test.jsonl"]
    for path in paths:
        path.write_text('{"question": "?"}')
    names = question_files(["sciq"], str(tmp_path), [str(path) for path in paths[1:]])
    assert list(names.values()) == ["sciq", str(tmp_path / "sciq.jsonl"), "one", "test"]
    extra = [str(paths[0]), str(paths[3])]
    assert list(question_files([], None, extra).values()) == extra


def test_missing_questions_are_explained(tmp_path):
    with pytest.raises(UserError, match="no folder with the questions of mmlu"):
        question_files(["mmlu"], None, [])
    with pytest.raises(UserError, match="no questions of mmlu"):
        question_files(["mmlu"], str(tmp_path), [])
    with pytest.raises(UserError, match="does not exist"):
        question_files([], None, [str(tmp_path / "x.jsonl")])
    (tmp_path / "bad.jsonl").write_text('{"question": "fine"}\n{"q": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.jsonl:2: `question` is not a text"):
        read_questions(question_files([], None, [str(tmp_path / "bad.jsonl")]))


RECALL = {
    "page header inside": 0.95,
    "letter in each tenth word": 0.85,
    "letters strewn": 0.7,
    "no spaces": 0.8,
    "space in each tenth word": 0.8,
    "Greek letters": 0.92,
    "Traditional": 0.95,
    "Traditional (Taiwan)": 0.95,
    "Traditional (Hong Kong)": 0.95,
}
"""Least recall of a disguise, where it is not 0.97."""


@pytest.mark.slow
def test_real_questions_in_disguise(evalsets):
    names = sorted(folder.name for folder in evalsets.iterdir() if folder.is_dir())
    questions = read_questions(question_files(names, str(evalsets), []))[::4]
    index = build_index(questions, Decontaminate())
    assert len(index.vague) < 0.005 * len(questions)
    for name, by_language in measure_recall(questions, index, 200).items():
        for language, recall in by_language.items():
            assert recall >= RECALL.get(name, 0.97), (name, language)


@pytest.mark.parametrize(
    "text",
    [
        "Plain English, 5% of it: \\nabla \\theta \\times f(x) = a[i] + b.",
        "清晨的集市上人来人往，卖菜的老人把新鲜的青菜摆得整整齐齐。",
        "Старая мельница стояла у реки.",
        "über naïve façade, 2024-01-01\nnext line",
    ],
)
def test_text_without_a_disguise_is_left_as_it_is(text):
    assert reveal(text) == text


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\\ud83d\\ude00 \\u4f60\\u597d", "😀 你好"),
        ("%E4%BD%A0%E5%A5%BD", "你好"),
        ("What%20is%20%E4%BD%A0", "What is 你"),
        ("=E4=BD=A0=E5=\n=A5=BD", "你好"),
        ("inter-\nest", "interest"),
        ("one\n\n- 12 -\n\ntwo", "one\n\n\ntwo"),
        ("рrоblеm", "problem"),
        ("漢語", "汉语"),
        ("so**di**um *chlor*ide **is** 2*x*y", "sodium chloride **is** 2*x*y"),
        ("so<b>di</b>um chlo<!-- x -->ride", "sodium chloride"),
        ("12  What is\n13  the capital\n14  of France?", "12  What is\nthe capital\nof France?"),
        ("1. Wash it.\n2. Dry it.\n3. Eat it.", "1. Wash it.\n2. Dry it.\n3. Eat it."),
        ("1\tIt\n2\tis.\n3\tSo\n4\twhat", "1\tIt\nis.\nSo\nwhat"),
        ("w\u0301h\u0301a\u0301t\u0301s\u0301 café", "whats cafe"),
        ("ẃh́át́ś ít́", "whats it"),
        ("你\u0301好", "你好"),
        ("ты́ мо́й", "ты мой"),
        ("ä½\xa0å¥½", "你好"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("人エ智能ニ", "人工智能二"),
        ("エロい人エ", "エロい人エ"),
        ("[b]Wh[/b]at [color=red]is[/color]", "What is"),
        ("\x1b[1;31mWhat\x1b[0m", "\x1bWhat\x1b"),
        ("sodium² chloride m²", "sodium chloride m²"),
        ("see[3,4] there[citation needed] a[i]", "see there a[i]"),
        ("> soft-\n> ware", "> software"),
        ("so\\-di\\-um {\\bf What} \\textcolor{red}{is}", "sodium {What} {is}"),
        ("a\nfarmer has\n17\nsheep", "a\nfarmer has\nsheep"),
        ("1\ta\n2\tfarmer\n3\thas\n4\t17\n5\tsheep", "1\ta\nfarmer\nhas\n17\nsheep"),
        ("half of\n113 Exercises\n\nthe rest", "half of\nthe rest"),
        ("\\43f \\440 \\def x", "пр\\def x"),
        ("&amp;#20320;", "你"),
        ("\\uzzzz %zz =ZZ", "\\uzzzz %zz =ZZ"),
        ("\\U00110000 \\u4f60", "\\U00110000 你"),
        ("U+4F60 U+597D!", "你好!"),
        ("%u4F60%u597D", "你好"),
        ("\\x{4f60}\\x{597d}", "你好"),
        ("\\4f60 \\597d .", "你好."),
        ("\\1234 of 5678, \\dead", "\u1234of 5678, \\dead"),
        (r"\xe4\xbd\xa0\xe5\xa5\xbd", "你好"),
        (r"\344\275\240", "你"),
        (r"\xe4\xbd", "\u00e4\u00bd"),
        ("%25E4%25BD%25A0", "你"),
        ("What%2520is", "What is"),
        ("ᴡʜᴀᴛ ɪs ᴛʜɪs", "what is this"),
        ("🆆🅷🅰🆃 🅸🆂 🅾🅽", "what is on"),
        ("<ruby>你<rp>(</rp><rt>nǐ</rt><rp>)</rp></ruby>", " 你 "),
        ("一(yī)二(èr)三（sān）四(しゃん)", "一二三四"),
        ("水(water)", "水(water)"),
        (r"\text{What} \textbf{is} \nu", r"{What} {is} \nu"),
        ("a\n\n2\n00:00:01,000 --> 00:00:02,500\nb\n[12:07] c", "a\n\nb\nc"),
    ],
)
def test_a_disguise_is_undone(hidden, shown):
    assert reveal(hidden) == shown


@given(st.text(max_size=200))
def test_any_text_can_be_searched(text):
    reveal(text, strewn_letters=True).encode("utf-8", "surrogatepass")


def test_other_numbers_or_a_missing_end_are_no_insertion():
    question = Question(
        "own", "1", "A farmer has 17 sheep and buys 25 more before 9 of them run away at night.", (), "en"
    )
    index = build_index([question], Decontaminate(min_overlap=0.9))
    assert find_questions(index, [question.text.replace("buys", "gladly buys")], 0.9) == [{0: 1.0}]
    for text in (
        "A farmer has 17 sheep and buys 25 more.",
        "A farmer has cows and sells 2 more before 9 of them run away.",
    ):
        assert find_questions(index, [text], 0.9) == [{}]
