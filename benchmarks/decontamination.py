"""Recall of decontamination per disguise and language, false positives, and speed.

    python -m benchmarks.decontamination --questions EVALSETS [--corpus CORPUS] [--sample 500]

EVALSETS is a folder of benchmark folders. Of each language `--sample` questions are planted, one in a document, in each
disguise of disguises.py; a question that is only known with its options is planted with them. The Russian questions are
our own. CORPUS holds `*.jsonl.zst` files of documents that hold none of the questions.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard
from benchmarks.disguises import DISGUISES, apart

from reprise.benchmark_files import Question, question_files, read_questions
from reprise.documents.decontaminate.index import Index, build_index
from reprise.documents.decontaminate.search import find_questions
from reprise.recipe.documents import Decontaminate

AROUND = {
    "en": "The old mill stood by the river, and every morning the miller opened its gates to let the water in. ",
    "zh": "清晨的集市上人来人往，卖菜的老人把新鲜的青菜摆得整整齐齐，价格写在一块小木板上。",
    "ru": "Старая мельница стояла у реки, и каждое утро мельник открывал ворота, чтобы впустить воду. ",
}
RUSSIAN = (
    "Какой газ в основном поглощают растения при фотосинтезе и выделяют ли они кислород ночью?",
    "В каком году был запущен первый искусственный спутник Земли и какая страна это сделала?",
    "Сколько граммов соли нужно растворить в двух литрах воды, чтобы получить пятипроцентный раствор?",
    "Какая река является самой длинной в Европе и в какое море она впадает?",
    "Поезд прошёл триста километров за четыре часа, а потом ещё двести за три; какова его средняя скорость?",
    "Почему зимой в горах вода закипает при более низкой температуре, чем на берегу моря?",
    "Кто из перечисленных учёных первым предложил периодическую таблицу химических элементов?",
    "Какое из следующих утверждений о строении животной клетки является неверным?",
    "Чему равна сумма углов выпуклого многоугольника, у которого двенадцать вершин?",
    "Какой закон объясняет, почему ложка в стакане с водой кажется сломанной?",
    "Назовите писателя, который посвятил свой последний роман истории одной провинциальной семьи.",
    "Если цена товара сначала выросла на двадцать процентов, а затем упала на двадцать, как она изменилась?",
    "Какая часть речи отвечает на вопросы когда, где и каким образом происходит действие?",
    "Через какой канал корабли проходят из Средиземного моря прямо в Красное море?",
    "Какой орган человека вырабатывает инсулин и как называется болезнь при его недостатке?",
    "Сколько различных трёхзначных чисел можно составить из цифр один, два, три и четыре без повторений?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="folder of benchmark folders")
    parser.add_argument("--corpus", type=Path, help="folder of *.jsonl.zst documents without these questions")
    parser.add_argument("--sample", type=int, default=500, help="questions of each language")
    arguments = parser.parse_args()
    names = sorted(folder.name for folder in arguments.questions.iterdir() if folder.is_dir())
    questions = read_questions(question_files(names, str(arguments.questions), []))
    questions += [Question("own", f"ru/{i}", text, (), "ru") for i, text in enumerate(RUSSIAN)]
    start = time.perf_counter()
    index = build_index(questions, Decontaminate())
    results: dict[str, object] = {"questions": len(questions), "index_seconds": round(time.perf_counter() - start, 1)}
    recall = measure_recall(questions, index, arguments.sample)
    languages = list(AROUND)
    print(f"| disguise | {' | '.join(languages)} |\n|---|{'---|' * len(languages)}")
    for name, row in recall.items():
        print(f"| {name} | {' | '.join(f'{row[lang]:.3f}' if lang in row else '-' for lang in languages)} |")
    results["recall"] = recall
    if arguments.corpus:
        results |= measure_corpus(index, arguments.corpus)
    print(json.dumps(results, ensure_ascii=False))


def measure_recall(questions: list[Question], index: Index, sample: int) -> dict[str, dict[str, float]]:
    """Disguise -> language -> share of the planted questions that are found."""
    rng = random.Random(5)
    by_options = {index.questions[form] for form in index.options}
    vague = set(index.vague)
    recall: dict[str, dict[str, float]] = {name: {} for name in DISGUISES}
    for lang, around in AROUND.items():
        candidates = [i for i, question in enumerate(questions) if question.lang == lang and i not in vague]
        numbers = rng.sample(candidates, min(sample, len(candidates)))
        if not numbers:
            continue
        for name, disguise in DISGUISES.items():
            if apart(name, lang):
                continue
            texts = [f"{around}\n{disguise(_ask(questions[i], i in by_options))}\n{around}" for i in numbers]
            hits = sum(
                any(questions[other].text.split() == questions[i].text.split() for other in found)
                for i, found in zip(numbers, find_questions(index, texts, 0.5), strict=True)
            )
            recall[name][lang] = round(hits / len(numbers), 3)
    return recall


def _ask(question: Question, with_options: bool) -> str:
    if not with_options:
        return question.text
    listing = (f"\n{letter}. {option}" for letter, option in zip("ABCDEFGHIJ", question.choices, strict=False))
    return question.text + "".join(listing)


def measure_corpus(index: Index, corpus: Path) -> dict[str, object]:
    """False positives and megabytes a second of CPU time, per language."""
    dropped: dict[str, int] = {}
    documents: dict[str, int] = {}
    megabytes: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for lang, texts in _batches(corpus):
        start = time.process_time()
        found = find_questions(index, texts, 0.5)
        seconds[lang] = seconds.get(lang, 0.0) + time.process_time() - start
        megabytes[lang] = megabytes.get(lang, 0.0) + sum(len(text.encode()) for text in texts) / 1e6
        documents[lang] = documents.get(lang, 0) + len(texts)
        dropped[lang] = dropped.get(lang, 0) + sum(map(bool, found))
    total = sum(documents.values())
    print(f"\ndropped {sum(dropped.values())} of {total} documents ({sum(dropped.values()) / total:.3%})")
    speed = {lang: round(megabytes[lang] / seconds[lang], 2) for lang in documents}
    print("MB/s:", speed)
    return {"documents": documents, "dropped": dropped, "mb_per_s": speed}


def _batches(corpus: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(corpus.rglob("*.jsonl.zst")):
        texts: list[str] = []
        lang = ""
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                lang = record["lang"]
                texts.append(record["text"])
                if sum(map(len, texts)) > 400_000:
                    yield lang, texts
                    texts = []
        if texts:
            yield lang, texts


if __name__ == "__main__":
    main()
