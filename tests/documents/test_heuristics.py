import io
import json
from collections import Counter

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.clean.heuristics import _Repetition, find_broken
from reprise.documents.clean.stage import _batches
from reprise.documents.words import split_words
from reprise.errors import UserError
from reprise.recipe.documents import Clean
from reprise.recipe.heuristics import DEFAULTS, Heuristics
from reprise.recipe.loading import parse_recipe

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
    "placeholders": ("zh", CHINESE + "您的浏览器不支持播放此视频。"),
    "max_duplicate_ngram_chars": ("zh", "".join(f"第{n}天，{CHINESE[:52]}" for n in "一二三四五六")),
}  # fmt: skip


@pytest.mark.parametrize("rule", DEBRIS)
def test_chinese_debris_breaks_the_rule_made_for_it(rule):
    lang, text = DEBRIS[rule]
    broken = find_broken([CHINESE, text, CHINESE], DEFAULTS[lang], has_stop_words=True)
    assert broken[0] is broken[2] is None
    assert broken[1] is not None
    assert broken[1][0] == rule


def test_prose_breaks_nothing():
    assert find_broken([ENGLISH, ENGLISH + "\n\n" + ENGLISH[::-1]], DEFAULTS["other"], has_stop_words=True)[0] is None
    assert find_broken([CHINESE], DEFAULTS["zh"], has_stop_words=True) == [None]
    assert find_broken([], DEFAULTS["zh"], has_stop_words=True) == []
    assert find_broken([""], Heuristics(min_words=None), has_stop_words=True) != [None]


def test_menus_are_dropped_in_both_languages():
    english = "\n".join(["Home", "News", "Products", "Contact us", "About", "Links", "Site map", "Log in"] * 8)
    for lang, text in (("zh", MENU * 6), ("other", english)):
        assert find_broken([text], DEFAULTS[lang], has_stop_words=True)[0] is not None


def test_a_rule_is_switched_off_by_null():
    off = {name: None for name, value in DEFAULTS["other"] if value is None or isinstance(value, int | float)}
    off = {name: value for name, value in off.items() if name not in ("short_line_chars", "curly_brackets")}
    rules = Heuristics(**off, placeholders=[], max_top_ngram_chars={}, max_duplicate_ngram_chars={})
    texts = ["", "x", MENU, "# " * 100, "lorem ipsum {"] + [text for _, text in DEBRIS.values()]
    assert find_broken(texts, rules, has_stop_words=True) == [None] * len(texts)
    strict = rules.model_copy(update={"curly_brackets": False})
    assert find_broken(["a {"], strict, has_stop_words=True) == [("curly_brackets", "{")]


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
    repeated = _Repetition(split_words([" ".join(words) for words in documents]))
    for size in (1, 2, 3, 5):
        top, inside = repeated.measure(size)
        expected = [plain_repetition(words, size) for words in documents]
        assert np.allclose(top, [pair[0] for pair in expected])
        assert np.allclose(inside, [pair[1] for pair in expected])


def test_the_recipe_lays_changes_over_the_defaults():
    clean = Clean.model_validate({"heuristics": {"zh": {"min_words": 7}, "fr": {"stop_words": ["le", "la"]}}})
    assert clean.heuristics["zh"].min_words == 7
    assert clean.heuristics["zh"].max_short_lines == DEFAULTS["zh"].max_short_lines
    assert clean.heuristics["fr"].min_words == DEFAULTS["other"].min_words
    assert clean.heuristics["other"] == DEFAULTS["other"]
    assert Clean(**clean.model_dump()) == clean
    with pytest.raises(UserError, match="min_words"):
        parse_recipe("documents: {clean: {heuristics: {zh: {min_word: 7}}}}")


def load(path):
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return [json.loads(line)["text"] for line in io.TextIOWrapper(stream, encoding="utf-8")]


def test_few_good_pages_are_dropped(corpus):
    for name, lang, most in (("train-zh-web", "zh", 0.04), ("train-en-web", "other", 0.08)):
        texts = load(corpus / f"{name}.jsonl.zst")
        rules = DEFAULTS[lang]
        broken = [one for _, batch in _batches(texts) for one in find_broken(batch, rules, has_stop_words=True)]
        assert len(broken) == len(texts)
        assert sum(one is not None for one in broken) < most * len(texts)
