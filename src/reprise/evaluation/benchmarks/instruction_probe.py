"""A probe of instruction following in English and Chinese, with rules that a program checks (after IFEval, 2311.07911).

Each question asks for something easy in a form that can be checked: a number of lines, a maximum of words, words that
must or must not occur, JSON, the first or last words, the language. The questions are generated from a fixed seed.
Every answer is also checked for repetition and for its language.
"""

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any, Literal, TypedDict

QUESTIONS_OF_A_KIND = 24
"""192 questions in each language: docs/evaluation.md says which verdicts they can reach, and how long they take."""
REPEATED_SHARE = 0.5
"""An answer counts as repetitive if more than this share of it is in lines or 10-grams that occur twice."""

Language = Literal["en", "zh"]

_TOPICS: dict[Language, tuple[tuple[str, ...], ...]] = {
    "en": (
        ("the sea", "bread", "winter", "a bicycle", "the moon", "music", "a garden", "trains", "coffee", "mountains",
         "a library", "rain", "cats", "the city", "a river", "football"),
        ("the forest", "cheese", "summer", "a car", "the sun", "painting", "a farm", "ships", "tea", "islands",
         "a school", "snow", "dogs", "the village", "a lake", "chess"),
    ),
    "zh": (
        ("大海", "面包", "冬天", "自行车", "月亮", "音乐", "花园", "火车", "咖啡", "高山", "图书馆", "下雨", "猫",
         "城市", "河流", "足球"),
        ("森林", "奶酪", "夏天", "汽车", "太阳", "绘画", "农场", "轮船", "茶叶", "海岛", "学校", "下雪", "狗",
         "乡村", "湖泊", "象棋"),
    ),
}  # fmt: skip
"""Each list gives equally many questions of each kind; another list would leave the questions of these as they are."""
_WORDS: dict[Language, tuple[str, ...]] = {
    "en": ("water", "morning", "friend", "green", "old", "quiet", "never", "people", "small", "light"),
    "zh": ("水", "早晨", "朋友", "绿色", "古老", "安静", "从不", "人们", "小", "光"),
}
_ASKED: dict[Language, dict[str, str]] = {
    "en": {
        "lines": "List exactly {count} things about {topic}. Begin the line of each with a hyphen.",
        "length": "Tell me about {topic} in at most {limit} words.",
        "keywords": 'Write one or two sentences about {topic} with the words "{one}" and "{other}".',
        "without": 'Write two sentences about {topic}. Do not use the word "{one}".',
        "json": 'Answer with a JSON object and nothing else. It has the keys "{one}" and "topic"; topic is {topic}.',
        "ending": 'Write two sentences about {topic}. End your answer with exactly these words: "That is all, {one}."',
        "beginning": 'Write two sentences about {topic}. The first word of your answer is "{start}".',
        "language": "Please answer in English: what is good about {topic}?",
    },
    "zh": {
        "lines": "请列出关于{topic}的{count}点,每点单独一行,每行以“-”开头。",
        "length": "请用不超过{limit}个字介绍{topic}。",
        "keywords": "请写一两句关于{topic}的话,其中要出现“{one}”和“{other}”。",
        "without": "请写两句关于{topic}的话,不要出现“{one}”。",
        "json": '请只用一个JSON对象回答,其中有"{one}"和"topic"两个键,topic的值是{topic}。',
        "ending": "请写两句关于{topic}的话,并以“以上就是关于{one}的回答。”结尾。",
        "beginning": "请写两句关于{topic}的话,回答的开头必须是“{start}”。",
        "language": "请用中文回答:{topic}有什么好处?",
    },
}
_STARTS: dict[Language, tuple[str, ...]] = {
    "en": ("Today", "Perhaps", "Everyone", "Once"),
    "zh": ("今天", "也许", "大家", "从前"),
}


class Rule(TypedDict):
    """The rule of a question, and the values in its text; each kind uses some of them."""

    kind: str
    language: Language
    topic: str
    one: str
    other: str
    count: int
    limit: int
    start: str


class InstructionQuestion(TypedDict):
    """A question of the probe."""

    kind: str
    query: str
    rule: str
    """A `Rule` as JSON."""


def instruction_questions(language: Language, seed: int = 0) -> list[InstructionQuestion]:
    """The questions, determined by language and seed."""
    dice = random.Random(f"{language} {seed}")
    questions: list[InstructionQuestion] = []
    lists = _TOPICS[language]
    for topics, (kind, text) in itertools.product(lists, _ASKED[language].items()):
        for topic in dice.sample(topics, QUESTIONS_OF_A_KIND // len(lists)):
            one, other = dice.sample(_WORDS[language], 2)
            values = {
                "topic": topic, "one": one, "other": other, "count": dice.randrange(2, 6),
                "limit": dice.choice((10, 20, 30)), "start": dice.choice(_STARTS[language]),
            }  # fmt: skip
            rule = json.dumps({"kind": kind, "language": language, **values}, ensure_ascii=False)
            questions.append({"kind": kind, "query": text.format(**values), "rule": rule})
    return questions


def instruction_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Scores of an answer, 0 or 1: the rule is kept and the answer is one; it does not repeat itself; its language."""
    rule, answer = json.loads(doc["rule"]), results[0].strip()
    fluent = not repeats(answer)
    return {
        "acc": float(bool(answer) and fluent and follows(rule, answer)),
        "no_repetition": float(bool(answer) and fluent),
        "own_language": float(in_language(rule["language"], answer)),
    }


def follows(rule: Rule, answer: str) -> bool:
    """Whether an answer follows the rule of its question."""
    return _RULES[rule["kind"]](rule, answer.strip())


def in_language(language: Language, answer: str) -> bool:
    """Whether most letters of an answer are in the language's script; False without letters."""
    letters = [char for char in answer if char.isalpha()]
    own = sum(_is_han(char) == (language == "zh") and (language == "zh" or char.isascii()) for char in letters)
    return bool(letters) and own > 0.5 * len(letters)


def repeats(answer: str) -> bool:
    """Whether an answer repeats itself."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    doubled = sum(len(line) for index, line in enumerate(lines) if line in lines[:index])
    size = 10
    grams = [answer[at : at + size] for at in range(len(answer) - size + 1)]
    again = len(grams) - len(set(grams))
    return max(doubled, again) > REPEATED_SHARE * max(1, len(answer))


def _is_han(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff" or "\U00020000" <= char <= "\U0003ffff"


def _count_words(language: Language, answer: str) -> int:
    if language == "zh":
        return sum(char.isalnum() for char in answer)
    return len(re.findall(r"[\w'’-]+", answer))


def _lines(rule: Rule, answer: str) -> bool:
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    listed = [line for line in lines if re.match(r"[-–—]\s*\S", line)]
    return len(listed) == rule["count"] and len(set(listed)) == len(listed) and len(lines) <= len(listed) + 2


def _length(rule: Rule, answer: str) -> bool:
    return 3 <= _count_words(rule["language"], answer) <= rule["limit"]


def _has(language: Language, word: str, answer: str) -> bool:
    pattern = re.escape(word) if language == "zh" else rf"\b{re.escape(word)}\b"
    return re.search(pattern, answer, re.IGNORECASE) is not None


def _keywords(rule: Rule, answer: str) -> bool:
    return all(_has(rule["language"], word, answer) for word in (rule["one"], rule["other"]))


def _without(rule: Rule, answer: str) -> bool:
    return not _has(rule["language"], rule["one"], answer) and _count_words(rule["language"], answer) >= 5


def _json(rule: Rule, answer: str) -> bool:
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer)
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == {rule["one"], "topic"}


def _ending(rule: Rule, answer: str) -> bool:
    end = f"That is all, {rule['one']}." if rule["language"] == "en" else f"以上就是关于{rule['one']}的回答。"
    return answer.rstrip("\"'”’ ").endswith(end) and _count_words(rule["language"], answer) > 8


def _beginning(rule: Rule, answer: str) -> bool:
    text = answer.lstrip("\"'“‘ ")
    rest = text[len(rule["start"]) :]
    whole = rule["language"] == "zh" or not rest[:1].isalnum()
    return text.startswith(rule["start"]) and whole and _count_words(rule["language"], answer) >= 5


def _language(rule: Rule, answer: str) -> bool:
    return in_language(rule["language"], answer) and _count_words(rule["language"], answer) >= 3


_RULES: dict[str, Callable[[Rule, str], bool]] = {
    "lines": _lines,
    "length": _length,
    "keywords": _keywords,
    "without": _without,
    "json": _json,
    "ending": _ending,
    "beginning": _beginning,
    "language": _language,
}
