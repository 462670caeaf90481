"""Settings of the stages before the token store."""

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
"""The key of `clean.heuristics` that applies to every language."""


CONVERSATION_FIELDS = ("messages", "prompt", "response")
"""Fields of `documents.inputs.N.fields` which mean that the documents are conversations."""

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
    """File format; `auto`: by the file name (docs/documents.md lists the formats)."""
    encoding: str = "auto"
    """Encoding of text files, such as gb18030 or cp1252; `auto`: UTF-8, or UTF-16 and UTF-32 if the bytes show it."""
    fields: dict[str, str | None] = {}
    """Field -> its name in the files: `text: content`, `text: doc.text` inside another field, `id: null` for none.
    Fields: text, id, lang, source, topic, origin, split, licence (else `license`); for conversations messages, or
        prompt, response,
    input, history and system, whose usual names are known (docs/documents.md)."""
    constants: dict[str, str] = {}
    """Values for the whole input, which override those in the files: `lang: zh`, `source: web`, `topic: Law`,
    `split: valid`, `licence: CC-BY-4.0`."""

    sample: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the documents that is used, chosen by a hash of the text; the others are counted and left out."""
    language_identifier: Literal["py3langid", "both"] = "py3langid"
    """Detects the language of documents that do not name it; `both`: also by fastText's lid.176 if py3langid is unsure,
    for short text (pip install 'reprise-cpt[languages]')."""
    lone_surrogates: Literal["reject", "repair"] = "reject"
    """Half characters, as written by faulty programs: `repair` replaces them by U+FFFD, `reject` rejects the
    document."""
    html: Literal["prose", "trafilatura", "resiliparse"] = "prose"
    """Text of web pages: `prose`: everything except menus, for manuals and books; `trafilatura`: the article of a web
    page; `resiliparse`: the same, faster and less exact."""
    pdf: Literal["file", "pages"] = "file"
    """`pages`: each page of a PDF is a document, with the page in its origin; `file`: the whole file is one."""
    parse_seconds: Annotated[float, Field(gt=0.0, le=1e6)] = 60.0
    """Longest time in seconds for one web page, PDF, DOCX or EPUB; a file that takes longer is rejected."""
    parse_memory_gb: Annotated[float, Field(gt=0.0, le=1e6)] = 2.0
    """Most memory in GB for one of these files; a file that takes more is rejected."""

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
    """Repair and filter documents. The thresholds of the heuristics depend on the language."""

    enabled: bool = True
    """Run the step; false: all documents pass unchanged."""
    fix_unicode: bool = True
    """Repair mojibake and normalise to NFC."""
    min_chars: Count = 100
    """Documents with fewer characters are dropped."""
    mask_personal_data: bool = False
    """Replace email addresses, IP addresses, phone numbers and Chinese ID numbers by a mask."""
    heuristics_sources: list[str] = ["web"]
    """Sources that the heuristics apply to. They are made for web pages: good formulas and programs break them."""
    heuristics: dict[str, Heuristics] = {}
    """Language, or `any` for all -> only the rules that differ from its pack; null switches a rule off."""
    personal_data: dict[str, dict[str, list[Pattern]]] = {}
    """Language -> kind, such as `phone` -> regular expressions to mask, in addition to ours and the pack's."""

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
        """The thresholds of a language: its pack's, with the recipe's changes for all languages and for this one."""
        layers = (load_pack(language).heuristics, self.heuristics.get(ANY_LANGUAGE), self.heuristics.get(language))
        rules: dict[str, Any] = {}
        for layer in layers:
            rules |= layer.model_dump() if layer is not None else {}
        return Heuristics.model_validate(rules)

    def personal_data_of(self, language: str) -> dict[str, list[Pattern]]:
        """Kind -> regular expressions from the language's pack and the recipe."""
        pack, given = load_pack(language).personal_data, self.personal_data.get(language, {})
        return {kind: [*pack.get(kind, []), *given.get(kind, [])] for kind in sorted({*pack, *given})}


class RepeatedLines(Settings):
    """Remove lines that several documents contain, such as notices and menus. In most extracted text a line is a
    paragraph."""

    sources: list[str] = ["web"]
    """Sources whose documents are compared by line and lose lines; lines of code repeat for a reason."""
    max_documents: Annotated[Count, Field(ge=1)] = 5
    """A line in more documents than this is removed from all but one of them: notices are in many, quotations in few.
    Held-out documents count, and keep their lines."""
    min_chars: Annotated[Count, Field(ge=1)] = 40
    """Lines with fewer letters and digits, such as headings and rules between sections, stay."""
    min_chars_left: Count = 200
    """A document that lost lines and has fewer characters left is dropped."""


class Deduplicate(Settings):
    """Drop exact, then near duplicates, across all sources; optionally, lines that the others repeat."""

    means: ClassVar[frozenset[str]] = frozenset({"memory_gb"})

    enabled: bool = True
    """Run the step; false: all documents pass unchanged."""
    threshold: Share = 0.8
    """Documents with at least this estimated Jaccard similarity are near duplicates."""
    shingle_words: Annotated[int, Field(ge=1, le=1000)] = 5
    """Words per shingle, in languages with spaces between words."""
    shingle_chars: Annotated[int, Field(ge=1, le=1000)] = 8
    """Characters per shingle, in languages without (Chinese, Japanese, Thai)."""
    permutations: Annotated[int, Field(ge=16, le=4096)] = 128
    """Number of MinHash hash functions."""
    bands: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of bands; 0: as many as make two documents at the threshold candidates with probability 0.99."""
    repeats: dict[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=1)]] = {}
    """Smallest size of a cluster of copies -> how many are kept, such as {3: 2, 10: 3, 1000: 1}; else one. Text that
    the web repeats a little is often good (FineWeb-2: rehydration). Copies of held-out documents are never kept."""
    lines: RepeatedLines | None = None
    """Remove lines that several of the remaining documents contain; null: none."""
    memory_gb: Annotated[float, Field(gt=0.0)] = 1.0
    """Memory in GB for sorting, for all worker processes together; the rest is kept on disk. It does not change which
    documents are dropped."""

    @model_validator(mode="after")
    def _bands_fit(self) -> "Deduplicate":
        if self.bands > self.permutations:
            raise ValueError(f"bands={self.bands} is more than permutations={self.permutations}")
        for size, stay in self.repeats.items():
            if stay > size:
                raise ValueError(f"repeats: of {size} documents {stay} cannot stay")
        if self.repeats and self.lines is not None:
            raise ValueError("repeats keeps copies whose lines `lines` would remove: set one of them")
        return self


class Decontaminate(Settings):
    """Drop documents that contain benchmark questions."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"extra_benchmarks"})

    enabled: bool = True
    """Scoring and training refuse text that was not decontaminated, unless this is false."""
    ngram_words: Annotated[int, Field(ge=3)] = 10
    """Words per normalised n-gram."""
    ngram_chars: Annotated[int, Field(ge=4)] = 16
    """Characters per normalised n-gram, for languages without spaces such as Chinese."""
    min_overlap: Share = 0.5
    """A document that contains at least this share of a question's n-grams is dropped."""
    extra_benchmarks: list[AnyPath] = []
    """More benchmark files (JSON Lines with a `question`), in addition to those that the recipe evaluates on."""


class LabelGenerator(Generator):
    """The language model that labels documents."""

    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature; 0 takes the most probable token."""
    max_tokens: Annotated[Count, Field(ge=1)] = 32
    """Longest answer in tokens; a model that reasons before it answers needs more."""


class Llm(Settings):
    """Labels for a sample of the documents by a language model; the classifier is fitted to them."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"prompts"})

    sample_per_source: Annotated[Count, Field(ge=1)] = 5000
    """Documents of each language and source that the model labels: those with the smallest hash of the text."""
    max_chars: Annotated[Count, Field(ge=100)] = 4000
    """Characters of a document, from its beginning, that the model is given."""
    prompts: AnyPath | None = None
    """Folder of your own prompt files, topic.LANGUAGE.yaml; they replace ours of the same name."""
    generator: LabelGenerator = LabelGenerator()


class Encoder(Settings):
    """A sequence classifier of transformers, fine-tuned on the labels."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"model"})

    model: AnyPath | None = None
    """Model directory or name, such as huawei-noah/TinyBERT_General_4L_312D."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a document, from its beginning, that are used; never more than the model's positions."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Passes over the labels."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Labelled documents per step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    """Highest learning rate: reached after a tenth of the steps, followed by a linear decay to zero."""


class Topics(Settings):
    """One topic for each document in the sources that are split by topic."""

    lists: dict[str, list[str]] = {}
    """Language -> its topics, instead of its pack's; the last one gets documents under `min_confidence`. A language
    whose pack has no topics uses the English ones."""
    classifier: Literal["linear", "encoder"] = "linear"
    """`linear`: hashed character and word n-grams. `encoder`: a transformers model, fine-tuned."""
    labelled: list[Input] = []
    """Labelled documents to fit the classifier on (fields text, lang, topic), in addition to those that carry a
    topic."""
    min_confidence: Share = 0.0
    """Documents whose best topic is less probable than this get the last topic of the list."""
    glossary: Annotated[float, Field(ge=0.0)] = 0.2
    """Weight of our terms for the default topics relative to the labels, in the linear classifier. Use 0 if there are
    many labels of documents like those to be labelled."""
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    """Language -> task (`topic`, `grade`) -> content of a prompt file, instead of the pack's."""
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
    """Grades of documents from 0 (worst) to 5: a language model grades a sample, a small model the rest."""

    sources: list[str] = ["web"]
    """Sources whose documents get a grade."""
    labelled: list[Input] = []
    """Graded documents to learn from; the grade is an integer in the field `topic`: `fields: {topic: grade}`."""
    min_grade: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    """Documents with a lower grade are dropped (`low_grade`); 0: none is dropped."""
    as_topic: bool = False
    """Replace the topic of these documents by `Grade 0` to `Grade 5`, so that a stage can split by grade."""
    classifier: Literal["linear", "encoder"] = "linear"
    """Classifier of the grades, as in `topics.classifier`."""
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    """Language -> `grade` -> content of a prompt file, instead of the pack's."""
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
    """Scores of the base model, or of a smaller one, for the curriculum."""

    model: Model | None = None
    """A smaller model that scores instead of the base model, at a lower cost; null: the base model."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens per forward pass, never more than the model's context; longer documents are scored in windows."""
    stride: Annotated[int, Field(ge=1)] = 1024
    """Tokens by which the window moves; each token is scored once, after at least max_length - stride tokens."""
    batch_tokens: Count = 8192
    """Most tokens per batch; on a CPU batches are smaller."""
    shard_documents: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    """Documents per shard; a killed run resumes after the last finished shard."""
    min_tokens: Count = 16
    """Documents with fewer scored tokens get no perplexity: it would depend more on their length than on their text."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the model; `auto`: bfloat16 if the device multiplies it in hardware."""

    @model_validator(mode="after")
    def _window_moves_less_than_its_length(self) -> "Perplexity":
        if self.stride >= self.max_length:
            raise ValueError(f"stride {self.stride} must be below max_length {self.max_length}")
        return self


class Documents(Settings):
    """Settings of the stages that read, clean, deduplicate, decontaminate, label and score documents."""

    inputs: list[Input] = []
    """The input files."""
    language_packs: AnyPath | None = None
    """Folder of your own language packs, CODE.yaml; they override ours. docs/languages.md shows an example."""
    engine: Literal["native", "ray"] = "native"
    """Where the document steps run: on this machine, or on a Ray cluster."""
    valid_share: Share = 0.02
    """Share of the documents that is held out, chosen by a hash of the text; unused if the files give a split."""
    max_reject_share: Share = 0.01
    """A larger share of unreadable documents stops the run."""
    max_drop_share: Share = 0.3
    """A stage stops if it drops more than this share of a language and source, with confidence 0.95; 1: never."""
    keep_text: bool = True
    """Keep the text that each document stage wrote. Otherwise it is removed after the stages that read it are
    published, and the inputs are read again when a setting of a document stage changes."""
    clean: Clean = Clean()
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate = Decontaminate()
    topics: Topics = Topics()
    quality: Quality | None = None
    perplexity: Perplexity = Perplexity()

    @model_validator(mode="before")
    @classmethod
    def _lay_packs_under(cls, data: Any) -> Any:
        """Merge the settings from the user's packs into the recipe; settings in the recipe override them."""
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
    """Settings with a value at a path, unless they already have one; mappings are merged key by key."""
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
