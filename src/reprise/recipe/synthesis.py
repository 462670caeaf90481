"""Settings of synthesis: question-answer documents about passages of documents."""

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
    """The text that questions are asked about."""

    sources: list[str] = []
    """Sources of the passages; empty: all except `code`."""
    min_chars: Count = 200
    """Shortest passage in characters."""
    max_chars: Annotated[Count, Field(ge=50)] = 4000
    """Longest passage in characters; a longer document yields its best one, cut between paragraphs or sentences."""
    max_per_origin: Count = 0
    """Most passages from one file; 0: no limit. Files alternate in any case."""
    requests_per_passage: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Most requests per passage, each with its own random seed, if there are fewer passages than requests."""
    terms: dict[str, dict[str, list[str]]] = {}
    """Your own disciplines, or more words for a known one: discipline -> language -> words that identify it."""
    topics: dict[str, list[str]] = {}
    """More topics of a discipline: a passage from a document with such a topic belongs to one of its disciplines."""

    @field_validator("terms")
    @classmethod
    def _language_codes(cls, terms: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        return {discipline: normalise_keys(words) for discipline, words in terms.items()}


class Code(Settings):
    """New programming problems, modelled on a bank of known ones."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"problems"})

    requests: Count = 0
    """Number of problems to request."""
    problems: AnyPath | None = None
    """JSON Lines with `problem`, `solution`, `tests`; null: the bank that is shipped with Reprise."""
    shots: Annotated[int, Field(ge=1, le=1000)] = 2
    """Problems of the bank in each prompt."""
    timeout_s: Annotated[float, Field(gt=0.0, le=1e6)] = 10.0
    """Longest time in seconds for one program with its tests."""
    max_memory_mb: Annotated[int, Field(ge=64, le=1 << 24)] = 512
    """Address space of one program, in MB."""
    min_mutation_score: Share = 0.6
    """Share of up to 20 wrong versions of a program on which its tests must fail; they must fail on all stand-ins."""


class Checks(Settings):
    """Checks that an answer must pass; one that does not is written to `dropped/` with the reason."""

    max_answer_tokens: Count = 4096
    """Answers with more tokens are dropped."""
    min_question_chars: Count = 15
    """Shorter questions are dropped."""
    max_repetition: Share = 0.2
    """Largest share of words in sequences of four that occurred earlier in the same text."""
    min_new_words: Count = 4
    """Fewest different content words that the answer must add to those of the question."""
    max_copied_words: Count = 30
    """Longest run of words that may be copied from the passage (in Chinese two characters count as a word)."""
    min_support: Share = 0.0
    """Smallest share of the answer's content words that occur in the passage or the question."""
    final_answer: list[str] = ["mathematics"]
    """Disciplines whose solutions must end in a boxed result; only for the kind `problem`."""
    self_consistency: Count = 0
    """How many more times each problem and multiple choice is solved; the final answers must agree."""
    min_agreement: Share = 0.5
    """Smallest share of those solutions that must have the same final answer."""
    judge: Generator | None = None
    """A model that grades each pair, with settings like `generator`; null: none."""
    min_grade: Annotated[int, Field(ge=1, le=5)] = 4
    """Lowest grade by the judge with which a pair is kept, 1 to 5."""


class Synthesis(Settings):
    """Generate question-answer documents about passages, and check them."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"prompts"})

    enabled: bool = False
    """Generate synthetic documents. They enter the mixture as the source `synthetic`."""
    disciplines: list[str] = list(DISCIPLINES)
    """Disciplines of the science questions."""
    requests: Count = 0
    """Number of science question-answer pairs to request, over all disciplines and languages."""
    languages: list[LanguageCode] = ["en"]
    """Languages of the questions."""
    kinds: dict[str, Share] = {"problem": 1.0}
    """Kind of text -> share of the requests: `problem` (the paper's), `question`, `multiple_choice`, `textbook`, ..."""
    prompts: AnyPath | None = None
    """Folder of your own prompt files, KIND.LANGUAGE.yaml; they replace ours of the same name."""
    passages: Passages = Passages()
    generator: Generator = Generator()
    checks: Checks = Checks()
    code: Code = Code()
    min_answer_tokens: Count = 20
    """Answers with fewer tokens are dropped."""
    error_rate: Share = 0.0
    """Share of the final answers that are replaced by wrong ones, for studies of data quality."""
    templates: dict[str, list[str]] = {}
    """Language -> templates that turn a pair into a plain document, instead of its pack's; each pair gets one of them
    by its hash. Without any, the document is the question, an empty line and the answer."""
    allow_code_execution: bool = False
    """Run generated programs against their tests, in a sandbox."""

    @field_validator("kinds")
    @classmethod
    def _kinds_sum(cls, kinds: dict[str, float]) -> dict[str, float]:
        check_sum(kinds, "the shares of the kinds")
        return kinds

    def forms_of(self, language: str) -> list[str]:
        """The templates of a language."""
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
