"""The rules that tell prose from debris, and their thresholds.

The rules are those of Gopher (arXiv 2112.11446, table A1), C4 (arXiv 1910.10683) and FineWeb (arXiv 2406.17557). A
threshold depends on the language where words, sentences or the length of lines do: these are null here, and are in
the language's pack (`recipe/languages/packs`). Null switches a rule off.
"""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from reprise.recipe.fields import Count, Settings, Share

Ratio = Annotated[float, Field(ge=0.0)]
"""A ratio of two counts."""


class Heuristics(Settings):
    """A document that breaks a rule is dropped; the reason is the name of the setting.

    What is not given is as the language's pack has it, else the value here.
    """

    min_words: Count | None = None
    """Gopher. Words; in scripts without spaces, characters."""
    max_words: Count | None = 100_000
    """Gopher."""
    min_mean_word_length: Ratio | None = None
    """Gopher. Characters to a word."""
    max_mean_word_length: Ratio | None = None
    """Gopher."""
    max_symbols_per_word: Ratio | None = 0.1
    """Gopher. Hash signs, or ellipses, per word."""
    max_bullet_lines: Share | None = 0.9
    """Gopher. Share of the lines that begin with a bullet."""
    max_ellipsis_lines: Share | None = 0.3
    """Gopher. Share of the lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = None
    """Gopher. Share of the words that hold a letter."""
    min_stop_words: Count | None = 2
    """Gopher. Different stop words that the text must hold; the rule is off without stop words."""
    stop_words: list[str] = []
    """Frequent words of the language."""
    stop_words_within_words: bool = False
    """Look for stop words inside words, too: particles of Korean, and scripts without spaces."""
    max_duplicate_lines: Share | None = 0.3
    """Gopher. Share of the lines that occurred before."""
    max_duplicate_line_chars: Share | None = 0.2
    """Gopher. Share of the characters that are in such lines."""
    max_duplicate_paragraphs: Share | None = 0.3
    """Gopher."""
    max_duplicate_paragraph_chars: Share | None = 0.2
    """Gopher."""
    max_top_ngram_chars: dict[int, Share] = {}
    """Gopher. Words of an n-gram -> share of the characters that the most frequent one may take up."""
    max_duplicate_ngram_chars: dict[int, Share] = {}
    """Gopher. Words of an n-gram -> share of the characters that are in n-grams that occurred before."""
    min_terminated_lines: Share | None = None
    """FineWeb. Share of the lines that end with terminal punctuation."""
    max_short_lines: Share | None = None
    """FineWeb. Share of the lines of at most `short_line_chars`."""
    short_line_chars: Count | None = None
    """FineWeb. Null: no line is short."""
    max_lines_per_word: Ratio | None = None
    """FineWeb. Line ends per word: lists."""
    min_sentences: Count | None = None
    """C4, with FineWeb's threshold."""
    sentence_marks: str = ""
    """Marks that end a sentence, besides those of Unicode's Sentence_Terminal."""
    placeholders: list[str] = ["lorem ipsum", "enable javascript", "javascript is disabled", "please enable cookies"]
    """C4. A text that holds one of these, in any case, is a page that was not there."""
    curly_brackets: bool = True
    """C4 drops every text with a `{`, and with it what teaches programming; false does as C4 does."""

    @model_serializer(mode="wrap")
    def _given_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was given: null switches a rule off, so that a default must not come back as given."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}
