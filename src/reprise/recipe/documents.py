"""Everything before the token store."""

import codecs
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from reprise.recipe.fields import AnyPath, Count, InputPath, Settings, Share, check_path
from reprise.recipe.generator import Generator
from reprise.recipe.heuristics import Heuristics
from reprise.recipe.languages.codes import find_language, normalise_keys, normalise_language
from reprise.recipe.languages.packs import Pattern, load_pack, read_folder
from reprise.recipe.model import Model

ANY_LANGUAGE = "any"
"""The key of `clean.heuristics` that holds for every language."""


CONVERSATION_FIELDS = ("messages", "prompt", "response")
"""Fields of `documents.inputs.N.fields` that say that the documents are conversations."""

Name = TypeVar("Name", str, str | None)


class Input(Settings):
    """One set of files."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"path"})

    path: InputPath
    """A file, folder, glob or URL (`hf://`, `s3://`, `gs://`); `package:NAME/...` looks inside an installed package."""
    format: Literal[
        "auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "text", "html", "warc", "pdf", "docx", "epub", "tar",
        "zip",
    ] = "auto"  # fmt: skip
    """File format; `auto` goes by the file name (docs/documents.md lists them)."""
    encoding: str = "auto"
    """Encoding of text files, such as gb18030 or cp1252; `auto`: UTF-8, or UTF-16 and UTF-32 where the bytes say so."""
    fields: dict[str, str | None] = {}
    """Which field holds what: `text: content`, `text: doc.text` inside another field, `id: null` for none. Known: text,
    id, lang, source, topic, origin, split, licence (else `license`); of conversations messages, or prompt, response,
    input, history and system, whose usual names are known (docs/documents.md)."""
    constants: dict[str, str] = {}
    """Values for the whole input, over those of the files: `lang: zh`, `source: web`, `topic: Law`, `split: valid`,
    `licence: CC-BY-4.0`."""

    sample: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the documents that is taken, chosen by a hash of the text; the others are counted and left out."""
    language_identifier: Literal["py3langid", "both"] = "py3langid"
    """What tells the language of documents that do not name it; `both` also asks fastText's lid.176 where py3langid is
    unsure, for short text (pip install 'reprise-cpt[languages]')."""
    lone_surrogates: Literal["reject", "repair"] = "reject"
    """Half characters, as faulty programs write them: `repair` writes U+FFFD instead."""
    html: Literal["prose", "trafilatura", "resiliparse"] = "prose"
    """Text of web pages: `prose`: all but menus, for manuals and books; `trafilatura`: the article of a page of the
    web; `resiliparse`: the same, faster and less exact."""
    pdf: Literal["file", "pages"] = "file"
    """`pages`: each page of a PDF is a document, with its page in the origin; else the file is one."""
    parse_seconds: Annotated[float, Field(gt=0.0, le=1e6)] = 60.0
    """Time for one web page, PDF, DOCX or EPUB; one that takes longer is rejected."""
    parse_memory_gb: Annotated[float, Field(gt=0.0, le=1e6)] = 2.0
    """Memory for one of them; one that takes more is rejected."""

    @field_validator("encoding")
    @classmethod
    def _encoding_known(cls, encoding: str) -> str:
        if encoding != "auto":
            try:
                if not codecs.lookup(encoding)._is_text_encoding:
                    raise LookupError
            except (LookupError, ValueError):
                raise ValueError(f"{encoding!r} is no encoding of text; say utf-8, gb18030, cp1252, ...") from None
        return encoding

    @field_validator("fields")
    @classmethod
    def _fields_known(cls, fields: dict[str, str | None]) -> dict[str, str | None]:
        if fields.get("text", "text") is None:
            raise ValueError("the field text cannot be left out")
        conversation = (*CONVERSATION_FIELDS, "input", "history", "system")
        known = ("text", "id", "lang", "source", "topic", "origin", "split", "licence", *conversation)
        return _check_names(fields, known)

    @field_validator("constants")
    @classmethod
    def _constants_known(cls, constants: dict[str, str]) -> dict[str, str]:
        if "lang" in constants:
            constants = {**constants, "lang": normalise_language(constants["lang"])}
        if constants.get("split", "train") not in ("train", "valid"):
            raise ValueError(f"split is train or valid, not {constants['split']!r}")
        return _check_names(constants, ("lang", "source", "topic", "split", "licence"))


def _check_names(names: dict[str, Name], known: tuple[str, ...]) -> dict[str, Name]:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no field {name!r}; known: {', '.join(known)}")
    return names


class Clean(Settings):
    """Repair and filter. The thresholds of the heuristics depend on the language."""

    enabled: bool = True
    """Switch the whole step off."""
    fix_unicode: bool = True
    """Repair mojibake and normalise to NFC."""
    min_chars: Count = 100
    """Shorter documents are dropped."""
    mask_personal_data: bool = False
    """Replace mail addresses, IP addresses, phone numbers and Chinese ID numbers by a mask."""
    heuristics_sources: list[str] = ["web"]
    """Sources that the heuristics look at. They were made for web pages: good formulas and programs break them."""
    heuristics: dict[str, Heuristics] = {}
    """Language, or `any` for all -> what differs from its pack, and nothing else; null switches a rule off."""
    personal_data: dict[str, dict[str, list[Pattern]]] = {}
    """Language -> kind, such as `phone` -> regular expressions that are masked besides ours and the pack's."""

    @field_validator("heuristics", mode="before")
    @classmethod
    def _language_codes(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return normalise_keys(given, lambda key: key if key == ANY_LANGUAGE else normalise_language(key))

    @field_validator("personal_data")
    @classmethod
    def _languages_of_personal_data(cls, given: dict[str, dict[str, list[Pattern]]]) -> dict[str, Any]:
        return normalise_keys(given)

    def rules_of(self, language: str) -> Heuristics:
        """The thresholds of a language: its pack's, changed by what the recipe gives for all and for it."""
        layers = (load_pack(language).heuristics, self.heuristics.get(ANY_LANGUAGE), self.heuristics.get(language))
        rules: dict[str, Any] = {}
        for layer in layers:
            rules |= layer.model_dump() if layer is not None else {}
        return Heuristics.model_validate(rules)

    def personal_data_of(self, language: str) -> dict[str, list[Pattern]]:
        """Kind -> regular expressions of the language's pack and the recipe."""
        pack, given = load_pack(language).personal_data, self.personal_data.get(language, {})
        return {kind: [*pack.get(kind, []), *given.get(kind, [])] for kind in sorted({*pack, *given})}


class Deduplicate(Settings):
    """Exact, then near duplicates, across all sources."""

    means: ClassVar[frozenset[str]] = frozenset({"memory_gb"})

    enabled: bool = True
    """Switch the whole step off."""
    threshold: Share = 0.8
    """Documents whose estimated Jaccard similarity reaches this are near duplicates."""
    shingle_words: Annotated[int, Field(ge=1, le=1000)] = 5
    """Words to a shingle, in languages that put spaces between words."""
    shingle_chars: Annotated[int, Field(ge=1, le=1000)] = 8
    """Characters to a shingle, in languages that do not (Chinese, Japanese, Thai)."""
    permutations: Annotated[int, Field(ge=16, le=4096)] = 128
    """Hash functions of MinHash."""
    bands: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Bands of the hashing; 0: as many as make two documents at the threshold candidates with probability 0.99."""
    repeats: dict[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=1)]] = {}
    """Size of a cluster of copies, from which on -> how many of them stay, such as {3: 2, 10: 3, 1000: 1}; else one.
    What the web repeats a little is often good (FineWeb-2: rehydration). Copies of held-out documents never stay."""
    memory_gb: Annotated[float, Field(gt=0.0)] = 1.0
    """Memory for sorting, of all worker processes together; what does not fit waits on the disk. The same documents are
    dropped whatever it is."""

    @model_validator(mode="after")
    def _bands_fit(self) -> "Deduplicate":
        if self.bands > self.permutations:
            raise ValueError(f"bands={self.bands} is more than permutations={self.permutations}")
        for size, stay in self.repeats.items():
            if stay > size:
                raise ValueError(f"repeats: of {size} documents {stay} cannot stay")
        return self


class Decontaminate(Settings):
    """Drop documents that contain benchmark questions."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"extra_benchmarks"})

    enabled: bool = True
    """Scoring and training refuse text that was not decontaminated unless this is false."""
    ngram_words: Annotated[int, Field(ge=3)] = 10
    """Words of a normalised n-gram."""
    ngram_chars: Annotated[int, Field(ge=4)] = 16
    """Characters of a normalised n-gram, for Chinese and the like."""
    min_overlap: Share = 0.5
    """A document that holds at least this share of a question's n-grams is dropped."""
    extra_benchmarks: list[AnyPath] = []
    """More benchmark files (JSON Lines with a `question`), besides those that the recipe evaluates on."""


class LabelGenerator(Generator):
    """What names the topics."""

    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature; 0 takes the most probable token."""
    max_tokens: Annotated[Count, Field(ge=1)] = 32
    """Longest answer in tokens; a model that thinks before it answers needs more."""


class Llm(Settings):
    """Labels for a sample of the documents, asked of a language model; the classifier learns from them."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"prompts"})

    sample_per_source: Annotated[Count, Field(ge=1)] = 5000
    """Documents of each language and source that are asked about: those with the smallest hash of the text."""
    max_chars: Annotated[Count, Field(ge=100)] = 4000
    """Characters of a document that the model is shown, from its beginning."""
    prompts: AnyPath | None = None
    """Folder of your own prompt files, topic.LANGUAGE.yaml; they replace those of the same name."""
    generator: LabelGenerator = LabelGenerator()


class Encoder(Settings):
    """A sequence classifier of transformers that is fine-tuned on the labels."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"model"})

    model: AnyPath | None = None
    """Model directory or name, such as huawei-noah/TinyBERT_General_4L_312D."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a document that are examined, from its beginning; never more than the model's positions."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Passes over the labels."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Labelled documents in one step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    """Highest learning rate: reached after a tenth of the steps, then down to zero in a straight line."""


class Topics(Settings):
    """One topic to each document of the sources that are split by topic."""

    lists: dict[str, list[str]] = {}
    """Language -> its topics, instead of its pack's; the last one takes documents under `min_confidence`. A
    language whose pack has no topics has the English ones."""
    classifier: Literal["linear", "encoder"] = "linear"
    """`linear`: hashed character and word n-grams. `encoder`: a model of transformers, fine-tuned."""
    labelled: list[Input] = []
    """Labelled documents to fit the classifier on (fields text, lang, topic), besides those that carry a topic."""
    min_confidence: Share = 0.0
    """Documents whose best topic is less probable than this go to the last topic of the list."""
    glossary: Annotated[float, Field(ge=0.0)] = 0.2
    """Weight of our terms for the default topics beside the labels, in the linear classifier. 0 if the labels are of
    documents like those to be labelled, and many."""
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    """Language -> task (`topic`, `grade`) -> what a prompt file holds, instead of the pack's."""
    encoder: Encoder = Encoder()
    llm: Llm | None = None

    @field_validator("lists", "prompts")
    @classmethod
    def _language_codes(cls, given: dict[str, Any]) -> dict[str, Any]:
        return normalise_keys(given)

    def list_of(self, language: str) -> list[str]:
        """The topics of a language."""
        return self.lists.get(language) or load_pack(language).topics or load_pack("en").topics

    @model_validator(mode="after")
    def _parts_fit(self) -> "Topics":
        if self.classifier == "encoder" and self.encoder.model is None:
            raise ValueError("classifier `encoder` needs encoder.model")
        for lang, topics in self.lists.items():
            if not topics or len({topic.casefold() for topic in topics}) < len(topics):
                raise ValueError(f"lists.{lang}: name each topic once")
        return self


class Quality(Settings):
    """A grade from 0 (worst) to 5 to each document of some sources; a language model grades a sample, a small model the
    rest."""

    sources: list[str] = ["web"]
    """Sources whose documents are graded."""
    labelled: list[Input] = []
    """Graded documents to learn from; the grade is an integer in the field `topic`: `fields: {topic: grade}`."""
    min_grade: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    """Documents with a lower grade are dropped (`low_grade`); 0: none."""
    as_topic: bool = False
    """These documents get the topic `Grade 0` to `Grade 5` instead of their own, so that a stage can split by it."""
    classifier: Literal["linear", "encoder"] = "linear"
    """What applies the grades, as in `topics.classifier`."""
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    """Language -> `grade` -> what a prompt file holds, instead of the pack's."""
    encoder: Encoder = Encoder()
    llm: Llm | None = None

    @field_validator("prompts")
    @classmethod
    def _language_codes(cls, given: dict[str, Any]) -> dict[str, Any]:
        return normalise_keys(given)

    @model_validator(mode="after")
    def _can_learn(self) -> "Quality":
        if self.llm is None and not self.labelled:
            raise ValueError("grades are learned from `llm` or from files in `labelled`; give one of them")
        if self.classifier == "encoder" and self.encoder.model is None:
            raise ValueError("classifier `encoder` needs encoder.model")
        return self


class Perplexity(Settings):
    """Scores by the base model, or by a smaller one, for the curriculum."""

    model: Model | None = None
    """A smaller model that scores instead of the base model, which is cheaper."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens in one forward pass, never more than the model's context; longer documents are scored in windows."""
    stride: Annotated[int, Field(ge=1)] = 1024
    """Tokens by which the window moves; each token is scored once, with at least max_length - stride before it."""
    batch_tokens: Count = 8192
    """Most tokens in one batch; a CPU takes fewer."""
    shard_documents: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    """Documents to a shard; a killed run resumes after the last finished shard."""
    min_tokens: Count = 16
    """Documents with fewer scored tokens get no perplexity: it would say more about their length than their text."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the model; `auto` takes bfloat16 where the device multiplies it in hardware."""

    @model_validator(mode="after")
    def _window_moves_less_than_its_length(self) -> "Perplexity":
        if self.stride >= self.max_length:
            raise ValueError(f"stride {self.stride} must be below max_length {self.max_length}")
        return self


class Documents(Settings):
    """Read, clean, deduplicate, decontaminate, label, score."""

    inputs: list[Input] = []
    """The files."""
    language_packs: AnyPath | None = None
    """Folder of your own language packs, CODE.yaml; they override ours. docs/languages.md shows one."""
    engine: Literal["native", "ray"] = "native"
    """Where the document steps run: in this process, or on a Ray cluster."""
    valid_share: Share = 0.02
    """Share of the documents that is held out, chosen by a hash of the text; unused where the files give a split."""
    max_reject_share: Share = 0.01
    """More unreadable documents than this share stop the run."""
    max_drop_share: Share = 0.3
    """A stage that drops more than this share of a language and source, with confidence 0.95, stops; 1: none does."""
    keep_text: bool = True
    """Keep the text that each document stage wrote. Without, it is removed once the stages that read it are published,
    and a changed setting of a document stage reads the inputs again."""
    clean: Clean = Clean()
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate = Decontaminate()
    topics: Topics = Topics()
    quality: Quality | None = None
    perplexity: Perplexity = Perplexity()

    @model_validator(mode="before")
    @classmethod
    def _lay_packs_under(cls, data: Any) -> Any:
        """What the user's packs say becomes part of the settings, under what the recipe itself gives."""
        folder = data.get("language_packs") if isinstance(data, dict) else None
        if not isinstance(folder, str):
            return data
        for language, pack in read_folder(Path(check_path(folder)).expanduser()).items():
            values = {
                ("clean", "heuristics", language): pack.heuristics.model_dump(),
                ("clean", "personal_data", language): pack.personal_data,
                ("topics", "lists", language): pack.topics,
                ("topics", "prompts", language): pack.prompts,
            }
            for path, value in values.items():
                data = _lay_under(data, path, value) if value else data
        return data


def _lay_under(data: Any, path: tuple[str, ...], value: Any) -> Any:
    """Settings with a value at a path, if they do not give another; mappings are merged key by key."""
    if not path:
        return {**value, **data} if isinstance(data, dict) and isinstance(value, dict) else data or value
    if isinstance(data, Settings):
        data = data.model_dump(exclude_unset=True)
    if data is not None and not isinstance(data, dict):
        return data
    settings: dict[str, Any] = dict(data or {})
    key = next((name for name in settings if name == path[0] or find_language(str(name)) == path[0]), path[0])
    settings[key] = _lay_under(settings.get(key), path[1:], value)
    return settings
