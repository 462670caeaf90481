"""Quality and speed of the topic classifier on documents whose origin fixes their topic.

    python benchmarks/topics.py --corpus CORPUS --evalsets EVALSETS

Fitted on: the questions of MMLU (English) and CMMLU (Chinese), by our map from subjects to topics; the passages of the
demo corpus; the terms that ship with Reprise. An origin fixes the topic where it is a textbook or site of one subject,
or (CSL) names the discipline of the article; the line that names it is cut out of the text. The origins are in three
parts: `choice`, half of them, and `further`, were looked at while the settings were chosen and the terms written, and
`choice` is fitted on in the last row; `test`, the other half, is for the figure alone. Ends with one line of JSON:
language, what was fitted on, with or without the terms, part -> macro-F1.
"""

import argparse
import io
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from reprise.documents.label.calibration import measure
from reprise.documents.label.stage import fit_classifier
from reprise.documents.label.subjects import CMMLU, MMLU
from reprise.documents.label.training_set import Labelled
from reprise.recipe.documents import Topics

MATHEMATICS, COMPUTERS, BIOLOGY = "Mathematics and Physics", "Computer Science and Engineering", "Biology and Chemistry"
HISTORY, LAW, ECONOMICS = "History and Geography", "Law and Policy", "Economics and Business"
MEDICINE, PHILOSOPHY, PSYCHOLOGY = "Medicine and Health", "Philosophy and Logic", "Psychology and Sociology"
CULTURE, SOCIETY = "Philosophy, Arts and Culture", "Psychology, Sociology and Education"
PRACTICE, OTHERS = "Project and Practical Management", "Others"

ORIGINS = {
    "en": {
        MATHEMATICS: "osbooks-physics osbooks-university-physics osbooks-calculus osbooks-college-algebra "
        "osbooks-astronomy osbooks-introductory-statistics jirilebl/ra oscarlevin/discrete-book "
        "An-Introduction-to-Mathematics",
        COMPUTERS: "d2l-ai/d2l-en python/peps huggingface/course rust-lang/book build-web-application "
        "osbooks-introduction-python javascript-questions",
        BIOLOGY: "osbooks-chemistry osbooks-microbiology charles-darwin_the-origin greenelab/deep-review",
        HISTORY: "osbooks-us-history osbooks-world-history factbook charles-darwin_the-voyage",
        LAW: "osbooks-american-government osbooks-business-law osbooks-introduction-political-science "
        "rousseau_the-social-contract john-stuart-mill_on-liberty",
        ECONOMICS: "osbooks-principles-economics osbooks-introduction-business adam-smith osbooks-principles-finance "
        "john-maynard-keynes",
        MEDICINE: "MedQuAD osbooks-anatomy",
        PHILOSOPHY: "osbooks-introduction-philosophy OpenLogicProject david-hume nietzsche plato bertrand-russell",
        PSYCHOLOGY: "osbooks-psychology osbooks-introduction-sociology osbooks-introduction-anthropology",
    },
    "zh": {
        MATHEMATICS: "math-eval/TAL-SCQ5K",
        COMPUTERS: "d2l-ai/d2l-zh trpl-zh-cn build-web-application reactjs huggingface/course pingcap LCTT",
        LAW: "LawRefBook chinese-political-corpora",
        CULTURE: "chinese-poetry tennessine/corpus",
        MEDICINE: "Chinese-medical-dialogue",
        SOCIETY: "EmoLLM",
    },
}
"""Topic -> parts of the origins whose documents it is."""

FURTHER = {
    "en": {
        MATHEMATICS: "HoTT/book stacks/stacks-project openai/grade-school-math",
        COMPUTERS: "rust-by-example tldr-pages alexeygrigorev allenai/scitldr",
        LAW: "machiavelli thomas-hobbes",
        PHILOSOPHY: "marcus-aurelius",
        ECONOMICS: "thorstein-veblen",
        PSYCHOLOGY: "john-dewey william-james w-e-b-du-bois",
        OTHERS: "arthur-conan-doyle charles-dickens jane-austen mary-shelley h-g-wells",
    },
    "zh": {COMPUTERS: "tldr-pages github/opensource.guide", CULTURE: "ymcui/cmrc2019", OTHERS: "HowToCook"},
}

DISCIPLINES = {
    MATHEMATICS: "数学 物理学 天文学 力学 光学工程 大气科学 地球物理学",
    COMPUTERS: "计算机科学与技术 信息与通信工程 电子科学与技术 控制科学与工程 电气工程 机械工程 材料科学与工程 "
    "土木工程 水利工程 船舶与海洋工程 航空宇航科学与技术 动力工程及工程热物理 石油与天然气工程 矿业工程 冶金工程 "
    "纺织科学与工程 交通运输工程 测绘科学与技术 核科学与技术 兵器科学与技术 环境科学与工程",
    BIOLOGY: "化学/化学工程与技术 生物学/生物科学与工程 作物学 园艺学 植物保护 林学/林业工程 畜牧学/兽医学 水产 "
    "食品科学与工程 农业资源利用 海洋科学",
    HISTORY: "地理学 历史学 民族学 地质学/地质资源与地质工程",
    LAW: "法学 政治学",
    CULTURE: "哲学 中国语言文学 艺术学",
    ECONOMICS: "理论经济学 应用经济学 工商管理 农林经济管理",
    SOCIETY: "教育学 心理学 社会学 新闻传播学",
    MEDICINE: "基础医学/临床医学 中医学/中药学 公共卫生与预防医学 药学 口腔医学 体育学",
}
"""Topic -> disciplines of CSL; military science, architecture, public administration and archives fit none well."""

_DISCIPLINE = re.compile(r"学科：(\S+)\s*")
_MOST_PER_ORIGIN = 150


def read_corpus(corpus: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(corpus.rglob("*.jsonl.zst")):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            yield from map(json.loads, io.TextIOWrapper(stream, encoding="utf-8"))


def labelled_documents(corpus: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Language -> (origin, topic, text)."""
    topic_of = {name: topic for topic, names in DISCIPLINES.items() for name in names.split()}
    found: dict[str, list[tuple[str, str, str]]] = {"en": [], "zh": []}
    per_origin: dict[str, int] = {}
    for document in read_corpus(corpus):
        lang, origin, text = document["lang"], document["origin"], document["text"]
        if match := _DISCIPLINE.search(text):
            if match.group(1) in topic_of:
                found["zh"].append((match.group(1), topic_of[match.group(1)], _DISCIPLINE.sub("", text)))
            continue
        for topic, names in [*ORIGINS[lang].items(), *FURTHER[lang].items()]:
            for name in names.split():
                if name in origin and per_origin.setdefault(f"{lang} {name}", 0) < _MOST_PER_ORIGIN:
                    per_origin[f"{lang} {name}"] += 1
                    found[lang].append((name, topic, text))
    return found


def questions(evalsets: Path, benchmark: str, topic_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    for path in sorted((evalsets / benchmark).glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            question = json.loads(line)
            yield "\n".join([question["question"], *question["choices"]]), topic_of[question["subject"]]


def demo(lang: str) -> Iterator[tuple[str, str]]:
    import reprise

    path = Path(reprise.__file__).parent / "demo" / f"{lang}.jsonl"
    for line in path.open(encoding="utf-8"):
        document = json.loads(line)
        if document.get("topic"):
            yield document["text"], document["topic"]


def split_origins(lang: str, documents: list[tuple[str, str, str]]) -> dict[str, list[tuple[str, str, str]]]:
    """Part -> its documents; `choice` has every other origin of each topic, in order of size."""
    further = {name for names in FURTHER[lang].values() for name in names.split()}
    choice: set[str] = set()
    for topic in {topic for _, topic, _ in documents}:
        names = [name for name, other, _ in documents if other == topic and name not in further]
        choice.update(sorted(set(names), key=lambda name: (-names.count(name), name))[1::2])
    parts: dict[str, list[tuple[str, str, str]]] = {"choice": [], "further": [], "test": []}
    for document in documents:
        part = "further" if document[0] in further else "choice" if document[0] in choice else "test"
        parts[part].append(document)
    return parts


def print_origins(origins: list[tuple[str, str]], answers: list[str]) -> None:
    """What the documents of each origin were taken for."""
    taken: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for origin, answer in zip(origins, answers, strict=True):
        taken[origin][answer] += 1
    for (name, topic), counts in sorted(taken.items(), key=lambda item: item[0][1]):
        most = ", ".join(f"{answer} {count}" for answer, count in counts.most_common(3))
        print(f"  {topic}: {name}, {counts.total()} documents: {most}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--evalsets", type=Path, required=True)
    arguments = parser.parse_args()
    lists = {lang: Topics().list_of(lang) for lang in ("en", "zh")}
    documents = labelled_documents(arguments.corpus)
    results: dict[str, float] = {}
    for lang, benchmark, topic_of in (("en", "mmlu", MMLU), ("zh", "cmmlu", CMMLU)):
        asked = list(questions(arguments.evalsets, benchmark, topic_of))
        parts = split_origins(lang, documents[lang])
        texts = {part: [(topic, text) for _, topic, text in rows] for part, rows in parts.items()}
        other = [(text, topic) for topic, text in texts["choice"]]
        for what, pairs in (
            ("demo", demo(lang)),
            ("questions + demo", [*asked, *demo(lang)]),
            ("questions + demo + other origins", [*asked, *demo(lang), *other]),
        ):
            known = dict(pairs)
            for settings in (Topics(glossary=0), Topics()):
                terms = "terms" if settings.glossary else "no terms"
                start = time.perf_counter()
                labels = Labelled(list(known), list(known.values()))
                classifier, report = fit_classifier(labels, lists[lang], 0, settings)
                print(f"{lang} | {what} | {terms} | {len(known)} labels | {time.perf_counter() - start:.1f} s")
                print(f"  held-out labels: macro-F1 {report['held_out']['macro_f1']:.3f}")
                results[f"{lang}, {what}, {terms}, held out"] = round(report["held_out"]["macro_f1"], 4)
                for part, rows in texts.items():
                    scores = np.maximum(classifier.log_probabilities([text for _, text in rows]), -1e3)
                    quality = measure(scores, [lists[lang].index(topic) for topic, _ in rows], lists[lang])
                    print(
                        f"  {part}: {quality['labels']} documents, accuracy {quality['accuracy']:.3f}, "
                        f"macro-F1 {quality['macro_f1']:.3f}, calibration error {quality['calibration_error']:.3f}",
                        flush=True,
                    )
                    results[f"{lang}, {what}, {terms}, {part}"] = round(quality["macro_f1"], 4)
        print({topic: round(value, 2) for topic, value in quality["f1"].items()})
        print_origins([(n, y) for n, y, _ in parts["test"]], [lists[lang][i] for i in scores.argmax(1)])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
