import io
import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
import regex
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.clean.heuristics import find_broken, measure_rules
from reprise.documents.clean.repetition import Repetition
from reprise.documents.clean.sentence_marks import SENTENCE_TERMINAL
from reprise.documents.clean.shape import COMMAS, measure_shape
from reprise.documents.clean.stage import batch_texts
from reprise.documents.words import split_words
from reprise.errors import UserError
from reprise.recipe.documents import Clean
from reprise.recipe.heuristics import Heuristics
from reprise.recipe.languages.packs import load_pack
from reprise.recipe.loading import parse_recipe

RULES = {lang: Clean().rules_of(lang) for lang in ("en", "zh")}
ENGLISH = (
    "The harbour was built in 1891 to give the fishing fleet a shelter from the winter storms that come out of the "
    "north. Two long walls of granite reach into the bay, and between them there is room for about forty boats. In the "
    "years before the railway came, most of the catch was salted and sent to the towns inland by cart. Today the boats "
    "are fewer, but the market on the quay still opens with the first light of the day."
)
CHINESE = (
    "这座港口建于一八九一年，为渔船提供躲避冬季风暴的场所。两道花岗岩长堤伸入海湾，中间可以停泊大约四十条船。"
    "铁路通车之前，大部分渔获都要先用盐腌好，再用马车运往内陆的城镇出售。如今渔船少了许多，但码头上的市场依然在天亮时开门，"
    "附近的居民习惯一早来这里买鱼，顺便聊聊天气和家常。"
)
MENU = "\n".join(["首页", "新闻中心", "产品展示", "联系我们", "关于我们", "加入收藏", "友情链接", "网站地图"] * 1)
DEBRIS = {
    "min_words": ("zh", "点击这里查看更多内容。"),
    "min_alphabetic_words": ("zh", "价格表。" + "型号 3301 单价 4500 库存 12 折扣 85 合计 45900 编号 20210304。" * 6),
    "min_stop_words": ("zh", ENGLISH * 2),
    "max_symbols_per_word": ("zh", CHINESE[:100] + "#热门 #推荐 #好物 #种草 #必买 #折扣 #新品 #潮流 #穿搭 #美妆"),
    "max_bullet_lines": ("zh", "\n".join(f"- {part}。" for part in CHINESE.replace("。", "，").split("，") if part)),
    "max_ellipsis_lines": ("zh", "\n".join(part + "……" for part in CHINESE.split("。") if part)),
    "min_terminated_lines": ("zh", "\n".join(part * 2 for part in CHINESE.replace("。", "，").split("，") if part)),
    "max_short_lines": ("zh", "\n".join(CHINESE[start : start + 9] + "。" for start in range(0, 126, 9))),
    "max_duplicate_lines": ("zh", "\n".join([CHINESE, *["版权所有，未经许可不得转载，违者必究，特此声明。"] * 6])),
    "max_top_ngram_chars": ("zh", CHINESE[:60] + "北京租房。" * 12 + "这里房子很多，价格不贵，欢迎来看。"),
    "min_sentences": ("zh", CHINESE.replace("。", "，") + "完。"),
    "max_commas_per_word": ("zh", CHINESE[:60] + "手机、电脑、相机、耳机、音箱、键盘、鼠标、硬盘、显卡、内存。" * 3),
    "min_words_per_sentence": ("zh", CHINESE[:60] + "".join(f"新品{n}。热卖。" for n in "红黄蓝绿青紫黑白金银铜铁")),
    "placeholders": ("zh", CHINESE + "您的浏览器不支持播放此视频。"),
    "max_duplicate_ngram_chars": ("zh", "".join(f"第{n}天，{CHINESE[:52]}" for n in "一二三四五六")),
}  # fmt: skip


@pytest.mark.parametrize("rule", DEBRIS)
def test_chinese_debris_breaks_the_rule_made_for_it(rule):
    lang, text = DEBRIS[rule]
    broken = find_broken([CHINESE, text, CHINESE], RULES[lang])
    assert broken[0] is broken[2] is None
    assert broken[1] is not None
    assert broken[1][0] == rule


def test_prose_breaks_nothing():
    assert find_broken([ENGLISH, ENGLISH + "\n\n" + ENGLISH[::-1]], RULES["en"])[0] is None
    assert find_broken([CHINESE], RULES["zh"]) == [None]
    assert find_broken([], RULES["zh"]) == []
    assert find_broken([""], RULES["en"].model_copy(update={"min_words": None})) != [None]


def test_menus_are_dropped_in_both_languages():
    english = "\n".join(["Home", "News", "Products", "Contact us", "About", "Links", "Site map", "Log in"] * 8)
    for lang, text in (("zh", MENU * 6), ("en", english)):
        assert find_broken([text], RULES[lang])[0] is not None


def test_a_rule_is_switched_off_by_null():
    kept = {"short_line_chars", "curly_brackets", "sentence_marks", "stop_words_within_words"}
    numbers = {name: None for name, field in Heuristics.model_fields.items() if name not in kept}
    lists = {"placeholders": [], "stop_words": [], "max_top_ngram_chars": {}, "max_duplicate_ngram_chars": {}}
    off = Clean.model_validate({"heuristics": {"en": numbers | lists}}).rules_of("en")
    texts = ["", "x", MENU, "# " * 100, "lorem ipsum {"] + [text for _, text in DEBRIS.values()]
    assert find_broken(texts, off) == [None] * len(texts)
    strict = off.model_copy(update={"curly_brackets": False})
    assert find_broken(["a {"], strict) == [("curly_brackets", "{")]


def plain_shape(text, short_line_chars):
    """The definition, plainly."""
    lines = [line.strip() for line in text.split("\n")]
    full = [line for line in lines if line]
    paragraphs = ["\n".join(part).strip() for part in split_at_empty(text.split("\n"))]
    worded = [line for line in full if any(char.isalnum() for char in line)]
    closing = set("\"'”’»›」』》）)]…")

    def sentences():
        count, place = 0, 0
        while place < len(text):
            end = place
            while end < len(text) and text[end] in SENTENCE_TERMINAL:
                end += 1
            if end > place:
                behind = end
                while behind < len(text) and text[behind] in closing:
                    behind += 1
                after = text[behind : behind + 1]
                count += text[end - 1] not in ".!?" or not after or after.isspace() or "\u3041" <= after <= "\u9fff"
            place = max(end, place + 1)
        return count

    def repeats(pieces):
        again = [piece for number, piece in enumerate(pieces) if piece in pieces[:number]]
        return len(again) / max(1, len(pieces)), sum(map(len, again)) / max(1, len(text))

    ends = tuple(set(SENTENCE_TERMINAL) | set("\"'”’»›」』》）)…：；"))
    return {
        "chars": len(text),
        "lines": len(full),
        "bullet_lines": sum(line.startswith(tuple("•-*·●▪◦■")) for line in full),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in full),
        "terminated_lines": sum(line.endswith(ends) for line in full),
        "short_lines": sum(len(line) <= short_line_chars for line in full),
        "sentences": sentences(),
        "commas": sum(
            char in COMMAS and not all(part in set("0123456789") for part in (text[i - 1 : i], text[i + 1 : i + 2]))
            for i, char in enumerate(text)
        ),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.replace("……", "…").count("…"),
        "duplicate_lines": repeats(worded)[0],
        "duplicate_line_chars": repeats(worded)[1],
        "duplicate_paragraphs": repeats(paragraphs)[0],
        "duplicate_paragraph_chars": repeats(paragraphs)[1],
    }


def split_at_empty(lines):
    part = []
    for line in [*lines, ""]:
        if line.strip():
            part.append(line)
        elif part:
            yield part
            part = []


@given(st.lists(st.text(alphabet='ab .!?"”\n\t-*…#。」中\u3000।12,、;', max_size=40), max_size=5), st.integers(0, 6))
def test_shape_equals_its_plain_form(texts, short_line_chars):
    shape = measure_shape(texts, short_line_chars=short_line_chars)
    plain = [plain_shape(text, short_line_chars) for text in texts]
    for name in plain[0] if plain else ():
        assert np.allclose(getattr(shape, name), [one[name] for one in plain]), name


def test_commas_are_those_of_unicode():
    named = {chr(c) for c in range(0x10000) if "COMMA" in unicodedata.name(chr(c), "") and chr(c).isprintable()}
    assert {char for char in named if unicodedata.category(char) == "Po"} == set(COMMAS) - set(";；؛·•|၊")


def test_sentence_marks_are_those_of_unicode():
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert set(SENTENCE_TERMINAL) == set(regex.findall(r"\p{Sentence_Terminal}", every))
    for mark in "।።။។۔؟。":
        assert measure_shape([f"a{mark} b{mark}"], short_line_chars=0).sentences.tolist() == [2]
    assert measure_shape(["བོད་སྐད། བོད་སྐད།"], short_line_chars=0).sentences.tolist() == [0]
    assert measure_shape(["བོད་སྐད། བོད་སྐད།"], short_line_chars=0, sentence_marks="།").sentences.tolist() == [2]


def plain_repetition(words, size):
    """Share of characters in the most frequent n-gram, and in n-grams that stood before: the definition, plainly."""
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    total = max(1, sum(map(len, words)))
    top = max((count * sum(map(len, gram)) for gram, count in Counter(grams).items() if count > 1), default=0)
    seen, covered = set(), set()
    for start, gram in enumerate(grams):
        if gram in seen:
            covered.update(range(start, start + size))
        seen.add(gram)
    return top / total, sum(len(words[place]) for place in covered) / total


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=30), max_size=5))
def test_repetition_equals_its_plain_form(documents):
    repeated = Repetition(split_words([" ".join(words) for words in documents]))
    for size in (1, 2, 3, 5):
        top, inside = repeated.measure(size)
        expected = [plain_repetition(words, size) for words in documents]
        assert np.allclose(top, [pair[0] for pair in expected])
        assert np.allclose(inside, [pair[1] for pair in expected])


PARALLEL = "\n".join(
    f"{name} {side}. Draws a {name} line {side} the page. To constrain it to 45 degrees, hold down Shift as you drag."
    for side in ("across", "along", "below") for name in ("straight", "dotted", "curved", "double", "thick", "wavy")
)  # fmt: skip


def plain_exempt(text, rules):
    """Whether the limits on repetition do not apply: the definition, plainly."""
    words = plain_words(text)
    shape = plain_shape(text, rules.short_line_chars or 0)
    shares = [shape["duplicate_line_chars"], shape["duplicate_paragraph_chars"]]
    shares += [plain_repetition(words, size)[0] for size in rules.max_top_ngram_chars]
    shares += [plain_repetition(words, size)[1] for size in rules.max_duplicate_ngram_chars]
    beside = len(words) * (1 - max(shares))
    return beside >= rules.repetition_exempt_from * rules.min_words and max(shares) <= rules.repetition_exempt_to


def plain_words(text):
    return "".join(char if char.isalnum() else " " for char in text.lower()).split()


@given(st.lists(st.lists(st.sampled_from(["a b c.", "d e f g.", "b c d", "e,", "h i j k l"]), max_size=30), max_size=4))
def test_who_is_exempt_from_the_limits_on_repetition_equals_its_plain_form(documents):
    changes = {"min_words": 8, "repetition_exempt_from": 1.5, "repetition_exempt_to": 0.5}
    rules = RULES["en"].model_copy(update=changes)
    texts = ["\n".join(lines) for lines in documents]
    expected = [plain_exempt(text, rules) for text in texts]
    for rule in measure_rules(texts, rules):
        if rule.name in REPETITION:
            assert rule.exempt.tolist() == expected
            assert rule.broken.tolist() == [v > rule.high and not e for v, e in zip(rule.values, expected, strict=True)]


REPETITION = {name for name in Heuristics.model_fields if name.startswith(("max_duplicate_", "max_top_ngram_"))}


def test_reference_text_that_repeats_its_phrases_is_kept_but_not_what_only_repeats():
    prose = ENGLISH.replace(". ", ".\n") + "\n" + "\n".join(
        f"The {noun} was repaired by hand in the winter of {year}, with {other} that had been kept in the old barn."
        for year, noun, other in zip(range(1890, 1896), ["roof", "pier", "lamp", "bell", "gate", "stair"],
                                     ["slate", "oak", "oil", "rope", "iron", "sand"], strict=True)
    )  # fmt: skip
    rules = RULES["en"]
    strict = rules.model_copy(update={"repetition_exempt_from": None})
    assert find_broken([PARALLEL], rules)[0][0] in REPETITION
    page = prose + "\n" + PARALLEL[:900]
    assert find_broken([page], strict)[0][0] in REPETITION
    assert find_broken([page], rules) == [None]
    assert find_broken([prose + "\n" + PARALLEL * 4], rules)[0][0] in REPETITION
    open_end = rules.model_copy(update={"repetition_exempt_to": None})
    assert find_broken([prose + "\n" + PARALLEL * 4], open_end) == [None]


CARDS = {
    "ru": "Лучшие телефоны года. Цена {}.90. Корзина.",
    "en": "Best phones of the year. Price {}.90. Cart.",
    "zh": "年度最佳手机。价格 {}.90。购物车。",
    "ja": "今年のおすすめ。価格 {}.90。カート。",
    "ko": "올해 최고의 휴대전화. 가격 {}.90. 장바구니.",
    "km": "ទូរសព្ទល្អ។ តម្លៃ {}.90។ កន្ត្រក។",
}
KEYWORDS = {
    "ru": "телефоны, погода, новости", "el": "κινητά, καιρός, νέα", "tr": "telefonlar, hava durumu, haberler",
    "ko": "휴대전화, 날씨, 뉴스", "ar": "هواتف، طقس، أخبار", "hi": "फ़ोन, मौसम, समाचार", "am": "ስልኮች፣ የአየር ሁኔታ፣ ዜና",
    "zh": "手机、天气预报、新闻", "ja": "電話、天気予報、ニュース", "th": "โทรศัพท์, พยากรณ์อากาศ, ข่าว",
    "my": "ဖုန်းများ၊ မိုးလေဝသ၊ သတင်းများ",
}  # fmt: skip


def test_shop_cards_and_keyword_lists_break_the_rule_made_for_them():
    for lang, card in CARDS.items():
        text = "\n".join(card.format(7 * n) for n in range(30))
        names = {
            rule.name for rule in measure_rules([text], RULES.get(lang) or Clean().rules_of(lang)) if rule.broken[0]
        }
        assert "min_words_per_sentence" in names, lang
    for lang, words in KEYWORDS.items():
        text = "\n".join(f"{words}, {words}." for _ in range(20))
        names = {rule.name for rule in measure_rules([text], Clean().rules_of(lang)) if rule.broken[0]}
        assert "max_commas_per_word" in names, lang
    numbers = (
        "The mass is 1,000,000 kg and 3,141,592 m, as measured in 1,998 of 2,000 cases by 12,000 people in 1,500 towns."
    )
    assert measure_shape([numbers], short_line_chars=0).commas.tolist() == [1]


def test_an_entry_of_the_recipe_changes_what_it_names_and_nothing_else():
    clean = Clean.model_validate({"heuristics": {"tr": {"max_short_lines": 0.8}, "any": {"max_words": 7}, "de": {}}})
    pack = load_pack("tr").heuristics
    expected = {**Heuristics().__dict__, **pack.model_dump(), "max_short_lines": 0.8, "max_words": 7}
    assert clean.rules_of("tr").__dict__ == expected
    assert clean.rules_of("de").__dict__ == Clean().rules_of("de").model_copy(update={"max_words": 7}).__dict__
    assert clean.rules_of("zh").max_words == 7
    off = Clean.model_validate({"heuristics": {"en": {"min_words": None}}})
    assert off.rules_of("en").min_words is None
    for one in (clean, off):
        assert Clean(**one.model_dump()) == one
        assert Clean(**json.loads(one.model_dump_json())).rules_of("tr") == one.rules_of("tr")
    with pytest.raises(UserError, match="min_words"):
        parse_recipe("documents: {clean: {heuristics: {zh: {min_word: 7}}}}")


def test_a_language_without_a_pack_is_judged_by_no_words():
    names = {rule.name for rule in measure_rules(["a b c"], Clean().rules_of("tlh"))}
    assert names == {
        "max_words", "max_symbols_per_word", "max_bullet_lines", "max_ellipsis_lines", "max_duplicate_lines",
        "max_duplicate_line_chars", "max_duplicate_paragraphs", "max_duplicate_paragraph_chars", "placeholders",
    }  # fmt: skip


def load(path):
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return [json.loads(line)["text"] for line in io.TextIOWrapper(stream, encoding="utf-8")]


def test_few_good_pages_are_dropped(corpus):
    for name, lang, most in (("train-zh-web", "zh", 0.04), ("train-en-web", "en", 0.08)):
        texts = load(corpus / f"{name}.jsonl.zst")
        rules = RULES[lang]
        broken = [one for _, batch in batch_texts(texts) for one in find_broken(batch, rules)]
        assert len(broken) == len(texts)
        assert sum(one is not None for one in broken) < most * len(texts)
