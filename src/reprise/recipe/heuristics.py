"""Thresholds of the rules that tell prose from debris, per language.

The rules are those of Gopher (arXiv 2112.11446, table A1), C4 (arXiv 1910.10683) and FineWeb (arXiv 2406.17557). They
were made for English, with spaces between words; the thresholds for Chinese are ours (docs/documents.md shows what they
drop). Null switches a rule off.
"""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings, Share

Ratio = Annotated[float, Field(ge=0.0)]
"""A number of things per other thing."""


class Heuristics(Settings):
    """A document that breaks a rule is dropped; the reason is the name of the setting."""

    min_words: Count | None = 50
    """Gopher. Words; in scripts without spaces, characters."""
    max_words: Count | None = 100_000
    """Gopher."""
    min_mean_word_length: Ratio | None = 3.0
    """Gopher. Characters to a word."""
    max_mean_word_length: Ratio | None = 10.0
    """Gopher."""
    max_symbols_per_word: Ratio | None = 0.1
    """Gopher. Hash signs, or ellipses, per word."""
    max_bullet_lines: Share | None = 0.9
    """Gopher. Share of the lines that begin with a bullet."""
    max_ellipsis_lines: Share | None = 0.3
    """Gopher. Share of the lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Gopher. Share of the words that hold a letter."""
    min_stop_words: Count | None = 2
    """Gopher. Different stop words that the text must hold."""
    stop_words: list[str] = ["the", "be", "to", "of", "and", "that", "have", "with"]
    """Gopher's eight."""
    max_duplicate_lines: Share | None = 0.3
    """Gopher. Share of the lines that stood before."""
    max_duplicate_line_chars: Share | None = 0.2
    """Gopher. Share of the characters that are in such lines."""
    max_duplicate_paragraphs: Share | None = 0.3
    """Gopher."""
    max_duplicate_paragraph_chars: Share | None = 0.2
    """Gopher."""
    max_top_ngram_chars: dict[int, Share] = {2: 0.20, 3: 0.18, 4: 0.16}
    """Gopher. Words of an n-gram -> share of the characters that the most frequent one may take up."""
    max_duplicate_ngram_chars: dict[int, Share] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    """Gopher. Words of an n-gram -> share of the characters that are in n-grams that stood before."""
    min_terminated_lines: Share | None = 0.12
    """FineWeb. Share of the lines that end with terminal punctuation."""
    max_short_lines: Share | None = 0.67
    """FineWeb. Share of the lines of at most `short_line_chars`."""
    short_line_chars: Count = 30
    """FineWeb."""
    max_lines_per_word: Ratio | None = 0.3
    """FineWeb. Line ends per word: lists."""
    min_sentences: Count | None = 3
    """C4, with FineWeb's number."""
    placeholders: list[str] = ["lorem ipsum", "enable javascript", "javascript is disabled", "please enable cookies"]
    """C4. A text that holds one of these, in any case, is a page that was not there."""
    curly_brackets: bool = True
    """C4 drops every text with a `{`, and with it what teaches programming; false does as C4 does."""


_CHINESE = {
    "min_words": 100,
    "min_mean_word_length": None,
    "max_mean_word_length": None,
    "max_symbols_per_word": 0.06,
    "stop_words": list("的是了在和有不这为以我上中就也对与及"),
    "max_top_ngram_chars": {4: 0.20, 6: 0.18, 8: 0.16},
    "max_duplicate_ngram_chars": {10: 0.40, 12: 0.36, 14: 0.31, 16: 0.28, 18: 0.25, 20: 0.23},
    "min_terminated_lines": 0.05,
    "max_short_lines": 0.80,
    "short_line_chars": 12,
    "max_lines_per_word": 0.15,
    "placeholders": ["lorem ipsum", "您的浏览器不支持", "请启用 cookie", "页面不存在"],
}
"""A Chinese word is one or two characters: n-grams are twice as long, counts of words twice as high, and the length of
words says nothing. Stop words are the most frequent characters. Statutes repeat whole phrases and recipes are lists, so
the limits of repetition and of lines are those that 1 % of 745 good Chinese web pages pass."""

DEFAULTS = {"other": Heuristics(), "zh": Heuristics.model_validate(_CHINESE)}
"""`other` holds for languages that have no entry; without stop words, if the language is not English."""
