"""Commands that make a model from another one: a larger vocabulary, exports, merges, uploads."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from reprise.cli.options import AsJson, Overrides, RecipePath, bring_up, leads, print_json, say
from reprise.errors import UserError
from reprise.recipe.loading import KEPT, check, open_recipe
from reprise.recipe.model import Model
from reprise.stage_names import VOCABULARY
from reprise.storage import write_text
from reprise.vocabulary.records import VocabularyCounts, vocabulary_lines

ModelOrRun = Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, a run, or a model folder.")]
Upload = Annotated[
    Path, typer.Argument(metavar="RECIPE|FOLDER", help="A recipe or run; or an exported folder, with a card.")
]
Output = Annotated[Path | None, typer.Option(help="Folder to write, which must not exist; default: RUN/exports/...")]


def export(
    recipe: ModelOrRun,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Such as RUN/train-1.partial/checkpoints/step-00000100; default: the trained model."),
    ] = None,
    averaged: Annotated[
        bool, typer.Option("--averaged", help="Export the mean of the weights instead of the last weights.")
    ] = False,
    gguf: Annotated[
        str | None,
        typer.Option(help="Write a GGUF file and an Ollama Modelfile: f32, f16, bf16, q8_0, q5_0, q4_0, ..."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write 8-bit weights by torchao, for transformers (extra int8).")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Read a quantized model back, and compare logits on held-out text."),
    ] = True,
    text: Annotated[
        Path | None, typer.Option(help="Text for that comparison; default: the run's held-out text.")
    ] = None,
    output: Output = None,
) -> None:
    """Export a run's model, a checkpoint, or any model folder: with a model card, as a GGUF file, or in 8 bits."""
    from reprise.publish.export import Source, export_checkpoint_of, export_folder, export_gguf, export_int8

    if int8 and gguf is not None:
        raise UserError("an export is a GGUF file or a folder in 8 bits", where="--gguf, --int8", remedy="name one")
    if averaged and checkpoint is None:
        raise UserError(
            "the mean of the weights is in a checkpoint, and none is named",
            where="--averaged",
            remedy="name one, such as RUN/train-1/state",
        )
    if text is not None and gguf is None and not int8:
        raise UserError("only a quantized model is compared on text", where="--text", remedy="add --gguf or --int8")
    gguf = None if gguf is None else gguf.lower()
    source = Source.open(recipe, finished=checkpoint is None)
    if checkpoint is not None:
        target = output or source.exports / checkpoint.name
        source = export_checkpoint_of(source, checkpoint, target, averaged=averaged)
        if gguf is None and not int8:
            say(f"wrote {target}")
            return
        output = None
    if int8:
        target = output or source.exports / ("int8" if source.is_run else f"{source.model_name}-int8")
        for sentence in export_int8(source, target, check=check, text=text).sentences:
            say(sentence)
        say(
            f"wrote {target}. transformers loads it where torchao is installed: "
            f"AutoModelForCausalLM.from_pretrained({str(target)!r})"
        )
        return
    if gguf is None:
        target = export_folder(
            source, output or source.exports / ("model" if source.is_run else f"{source.model_name}-model")
        )
        say(f"wrote {target}. To the Hub: reprise push {target} OWNER/NAME")
        return
    target = output or source.exports / f"{source.model_name}-{gguf}"
    result = export_gguf(source, target, gguf, check=check, text=text)
    for sentence in result.sentences:
        say(sentence)
    say(f"wrote {target}. To talk to it: cd {target} && ollama create {source.name} && ollama run {source.name}")


def push(
    recipe: Upload,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
) -> None:
    """Upload a run's model with its card, or an exported folder, to the Hugging Face Hub; private unless --public."""
    from reprise.publish.export import Source, export_folder
    from reprise.publish.hub import push_folder

    source = Source.open(recipe)
    folder = source.upload_folder
    if not folder.is_dir():
        export_folder(source, folder)
    say(f"uploaded: {push_folder(folder, name, private=not public)}")


def merge(
    recipe: RecipePath,
    factor: Annotated[
        float | None,
        typer.Option(help="With --chat, of the added difference (default 1); else 0 is the base, 1 the trained model."),
    ] = None,
    chat: Annotated[
        str | None, typer.Option(help="A chat model, whose difference from its base is added: a folder or Hub name.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model that the chat model was made from; default: the run's base model.")
    ] = None,
    method: Annotated[
        Literal["residual", "ties", "dare_ties"], typer.Option(help="ties and dare_ties need mergekit.")
    ] = "residual",
    output: Output = None,
) -> None:
    """Add what instruction tuning taught a chat model (--chat), or interpolate with the base: less gain and loss."""
    from reprise.publish.export import Source
    from reprise.publish.origin import name_model, trained_origin, write_origin

    loaded = open_recipe(recipe, None)
    trained, exports = Source.open(recipe).model, Path(loaded.workspace) / "exports"
    origin = trained_origin(loaded)
    if chat is None:
        if base is not None or method != "residual" or factor is None:
            raise UserError(
                "without --chat, the merge is with the run's base model and takes --factor alone",
                where="reprise merge",
                remedy="add --factor 0.5, or --chat INSTRUCT",
            )
        from reprise.training.export import merge_with_base

        target = output or exports / f"merge-{factor:g}"
        merge_with_base(trained, loaded.start_model(), factor, target, verify=True)
        origin["merge"] = {"method": "base", "factor": factor, "chat": None, "chat_base": None}
        write_origin(target, origin)
        say(f"wrote {target}")
        return
    from reprise.model.loading import load_tokenizer

    chat_model = _merged_model("--chat", chat)
    source = loaded.model if base is None else _merged_model("--base", base)
    share = 1.0 if factor is None else factor
    origin["merge"] = {
        "method": method,
        "factor": share,
        "chat": name_model(chat_model),
        "chat_base": name_model(source),
    }
    name = "chat" if method == "residual" else method
    target = output or exports / f"{name}-{share:g}"
    if method != "residual":
        from reprise.merging.mergekit import merge_with_mergekit

        merge_with_mergekit(
            trained, source, chat_model, target, method=method, factor=share, seed=loaded.seed, verify=True
        )
    else:
        from reprise.merging.chat_vector import add_chat_vector

        result = add_chat_vector(trained, source, chat_model, target, factor=share, verify=True)
        say(f"largest difference of a weight between the chat model and its base: {result.largest_difference:.3g}")
        if result.rows_of_chat or result.rows_of_trained:
            say(
                f"rows of embeddings from one model alone: {result.rows_of_chat} chat, {result.rows_of_trained} trained"
            )
    write_origin(target, origin)
    measured = "--suite assistant"
    if load_tokenizer(Model(path=str(target), trust_remote_code=loaded.model.trust_remote_code)).chat_template is None:
        say("warning: the chat model has no chat template")
        measured = "--text FILE"
    say(f"wrote {target}. Whether it still answers: reprise evaluate {target} --against {chat} {measured}")


def _merged_model(option: str, name: str) -> Model:
    """The model that an option names.

    Raises:
        UserError: there is no such model; names the option.
    """
    from reprise.model.loading import load_config

    model = check(Model, {"path": name}, option)
    try:
        load_config(model)
    except UserError as error:
        raise UserError(error.what, where=f"{option} {name}", remedy=error.remedy) from error
    return model


def extend(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Learn more tokens for the base model from the recipe's text: the stage `vocabulary`, and what it needs."""
    from reprise.workspace import Workspace

    loaded = open_recipe(recipe, overrides)
    asked = loaded.vocabulary is not None
    if not asked:
        loaded = open_recipe(recipe, [*(overrides or []), "vocabulary={}"])
    kept = Path(loaded.workspace) / KEPT
    before = kept.read_text(encoding="utf-8") if kept.is_file() else None
    try:
        bring_up(loaded, [VOCABULARY])
    finally:
        if before is not None and leads():  # the recipe that describes what was trained there
            write_text(kept, before)
    manifest = Workspace(loaded.workspace).manifest(VOCABULARY)
    assert manifest is not None, "the stage was brought up to date"
    if as_json:
        print_json({"output": loaded.start_model().path, **manifest.counts})
        return
    for line in vocabulary_lines(cast(VocabularyCounts, manifest.counts)):
        say(line)
    say(f"wrote {loaded.start_model().path}")
    if not asked:
        say(f"To train it, write `vocabulary: {{}}` into the recipe, or: reprise run {recipe} vocabulary={{}}")


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (export, merge, push, extend):
        app.command()(command)
