"""The rules that distinguish prose from debris, and their thresholds.

The rules are those of Gopher (arXiv 2112.11446, table A1), C4 (arXiv 1910.10683) and FineWeb (arXiv 2406.17557).
Thresholds on words, sentences or the length of lines depend on the language: they are null here, and set in the
language's pack (`recipe/languages/packs`). Null switches a rule off.
"""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from reprise.recipe.fields import Count, Settings, Share

Ratio = Annotated[float, Field(ge=0.0)]
"""A ratio of two counts."""


class Heuristics(Settings):
    """A document that breaks a rule is dropped; the reason is the name of the setting.

    A threshold that is not set has the value of the language's pack, or else the value here.
    """

    min_words: Count | None = None
    """Gopher. Fewest words; in scripts without spaces, characters."""
    max_words: Count | None = 100_000
    """Gopher. Most words; in scripts without spaces, characters."""
    min_mean_word_length: Ratio | None = None
    """Gopher. Smallest mean word length in characters."""
    max_mean_word_length: Ratio | None = None
    """Gopher. Largest mean word length in characters."""
    max_symbols_per_word: Ratio | None = 0.1
    """Gopher. Most hash signs, and most ellipses, per word."""
    max_bullet_lines: Share | None = 0.9
    """Gopher. Largest share of lines that begin with a bullet."""
    max_ellipsis_lines: Share | None = 0.3
    """Gopher. Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = None
    """Gopher. Smallest share of words that contain a letter."""
    min_stop_words: Count | None = 2
    """Gopher. Fewest different stop words that the text must contain; without `stop_words` the rule is off."""
    stop_words: list[str] = []
    """Frequent words of the language."""
    stop_words_within_words: bool = False
    """Search for stop words inside words, too: particles of Korean, and scripts without spaces."""
    max_duplicate_lines: Share | None = 0.3
    """Gopher. Largest share of lines that occurred before in the document."""
    max_duplicate_line_chars: Share | None = 0.2
    """Gopher. Largest share of characters in such lines."""
    max_duplicate_paragraphs: Share | None = 0.3
    """Gopher. Largest share of paragraphs that occurred before in the document."""
    max_duplicate_paragraph_chars: Share | None = 0.2
    """Gopher. Largest share of characters in such paragraphs."""
    max_top_ngram_chars: dict[int, Share] = {}
    """Gopher. Words per n-gram -> largest share of characters in the most frequent n-gram."""
    max_duplicate_ngram_chars: dict[int, Share] = {}
    """Gopher. Words per n-gram -> largest share of characters in n-grams that occurred before."""
    repetition_exempt_from: Ratio | None = 2.5
    """Ours. The six limits above do not apply to a document whose words outside of repeats number at least this many
    times `min_words`: reference text repeats its phrases, but says enough beside them. Null: they always apply."""
    repetition_exempt_to: Share | None = 0.65
    """Ours. Unless this share of its characters is in repeats (lines, paragraphs or n-grams, the largest of them)."""
    max_commas_per_word: Ratio | None = None
    """Ours. Most separators of enumerations (the commas of all scripts, semicolons, dots, bars) per word; lists of
    keywords have many."""
    min_words_per_sentence: Ratio | None = None
    """Ours. Fewest words per sentence, on average; cards of a shop have few. Text without sentence marks passes."""
    min_terminated_lines: Share | None = None
    """FineWeb. Smallest share of lines that end with terminal punctuation."""
    max_short_lines: Share | None = None
    """FineWeb. Largest share of lines with at most `short_line_chars` characters."""
    short_line_chars: Count | None = None
    """FineWeb. Characters of the longest line that counts as short; null: no line does."""
    max_lines_per_word: Ratio | None = None
    """FineWeb. Most line ends per word; lists have many."""
    min_sentences: Count | None = None
    """C4, with FineWeb's threshold. Fewest sentences."""
    sentence_marks: str = ""
    """Marks that end a sentence, in addition to Unicode's Sentence_Terminal."""
    placeholders: list[str] = ["lorem ipsum", "enable javascript", "javascript is disabled", "please enable cookies"]
    """C4. A text that contains one of these, in any case, is a placeholder of a page that was not loaded."""
    curly_brackets: bool = True
    """C4 drops every text with a `{`, and so text that teaches programming; false does the same."""

    @model_serializer(mode="wrap")
    def _given_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only the rules that were set: null switches a rule off, so a default must not look as if it were set."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}
