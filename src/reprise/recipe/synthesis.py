"""Question-answer documents asked about passages of documents."""

import math
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from reprise.recipe.fields import AnyPath, Count, Settings, Share, check_sum
from reprise.recipe.generator import Generator
from reprise.recipe.languages.codes import LanguageCode, normalise_keys
from reprise.recipe.languages.packs import load_pack

DISCIPLINES = (
    "mathematics",
    "physics",
    "chemistry",
    "biology",
    "astronomy",
    "earth science",
    "medicine",
    "computer science",
    "general education",
)


class Passages(Settings):
    """Which text the questions are made from."""

    sources: list[str] = []
    """Sources that passages are taken from; empty: all but `code`."""
    min_chars: Count = 200
    """Shortest passage."""
    max_chars: Annotated[Count, Field(ge=50)] = 4000
    """Longest passage; a longer document gives its best passage, cut between paragraphs or sentences."""
    max_per_origin: Count = 0
    """Most passages out of one file; 0: no limit. Files take turns in any case."""
    requests_per_passage: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Most requests about one passage, each with another random seed, if there are fewer passages than requests."""
    terms: dict[str, dict[str, list[str]]] = {}
    """Your own disciplines, or more words for a known one: discipline -> language -> words that tell it."""
    topics: dict[str, list[str]] = {}
    """More topics of a discipline: passages of a document with such a label belong to one of the disciplines named."""

    @field_validator("terms")
    @classmethod
    def _language_codes(cls, terms: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        return {discipline: normalise_keys(words) for discipline, words in terms.items()}


class Code(Settings):
    """New programming problems after a bank of known ones."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"problems"})

    requests: Count = 0
    """How many problems are asked for."""
    problems: AnyPath | None = None
    """JSON Lines with `problem`, `solution`, `tests`; null takes the bank that comes with Reprise."""
    shots: Annotated[int, Field(ge=1, le=1000)] = 2
    """Problems of the bank in each prompt."""
    timeout_s: Annotated[float, Field(gt=0.0, le=1e6)] = 10.0
    """Longest run of one program against its tests."""
    max_memory_mb: Annotated[int, Field(ge=64, le=1 << 24)] = 512
    """Address space of one program."""
    min_mutation_score: Share = 0.6
    """Share of up to 20 wrong versions of a program on which its tests must fail; all stand-ins must fail anyway."""


class Checks(Settings):
    """What an answer must pass; what does not is kept in `dropped/` with the reason."""

    max_answer_tokens: Count = 4096
    """Longer answers are dropped."""
    min_question_chars: Count = 15
    """Shorter questions are dropped."""
    max_repetition: Share = 0.2
    """Most words that belong to a sequence of four which came before in the same text."""
    min_new_words: Count = 4
    """How many different content words the answer must add to those of the question."""
    max_copied_words: Count = 30
    """Longest run of words that may be copied from the passage (two characters count as a word in Chinese)."""
    min_support: Share = 0.0
    """Least share of the answer's content words that occur in the passage or the question."""
    final_answer: list[str] = ["mathematics"]
    """Disciplines whose solutions must end in a boxed result; only for the kind `problem`."""
    self_consistency: Count = 0
    """How many more times to solve each problem and multiple choice; the final answers must agree."""
    min_agreement: Share = 0.5
    """Least share of those solutions that must give the same final answer."""
    judge: Generator | None = None
    """A model that grades each pair, set up like `generator`; null: none."""
    min_grade: Annotated[int, Field(ge=1, le=5)] = 4
    """Least grade by the judge, 1 to 5."""


class Synthesis(Settings):
    """Passages in, checked question-answer documents out."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"prompts"})

    enabled: bool = False
    """Make synthetic documents. They enter the mixture as the source `synthetic`."""
    disciplines: list[str] = list(DISCIPLINES)
    """The disciplines of the science questions."""
    requests: Count = 0
    """How many science question-answer pairs are asked for, over all disciplines and languages."""
    languages: list[LanguageCode] = ["en"]
    """Languages of the questions."""
    kinds: dict[str, Share] = {"problem": 1.0}
    """Kind of text -> share of the requests: `problem` (the paper's), `question`, `multiple_choice`, `textbook`, ..."""
    prompts: AnyPath | None = None
    """Folder of your own prompt files, KIND.LANGUAGE.yaml; they replace those of the same name."""
    passages: Passages = Passages()
    generator: Generator = Generator()
    checks: Checks = Checks()
    code: Code = Code()
    min_answer_tokens: Count = 20
    """Shorter answers are dropped."""
    error_rate: Share = 0.0
    """Share of the final answers replaced by wrong ones, for studies of data quality."""
    templates: dict[str, list[str]] = {}
    """Language -> forms in which a pair becomes a plain document, instead of its pack's; each pair gets one
    of them by its hash. A language without any has the question and, after an empty line, the answer."""
    allow_code_execution: bool = False
    """Run generated programs against their tests in a sandbox."""

    @field_validator("kinds")
    @classmethod
    def _kinds_sum(cls, kinds: dict[str, float]) -> dict[str, float]:
        check_sum(kinds, "the shares of the kinds")
        return kinds

    def forms_of(self, language: str) -> list[str]:
        """The forms of a language."""
        return self.templates.get(language) or load_pack(language).templates or ["{question}\n\n{answer}"]

    @field_validator("templates")
    @classmethod
    def _templates_hold_both(cls, templates: dict[str, list[str]]) -> dict[str, list[str]]:
        templates = normalise_keys(templates)
        for language, forms in templates.items():
            for form in forms:
                if "{question}" not in form or "{answer}" not in form:
                    raise ValueError(f"{language}: {form!r} must hold {{question}} and {{answer}}")
        return templates

    @model_validator(mode="after")
    def _parts_fit(self) -> "Synthesis":
        if not self.disciplines and self.requests:
            raise ValueError("disciplines: name at least one")
        if not math.isclose(self.error_rate, 0.0) and "problem" not in self.kinds:
            raise ValueError("error_rate changes final answers, which only the kind `problem` has")
        return self
