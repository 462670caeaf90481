"""Export a model: as a Hugging Face folder with a model card, or as a GGUF file with an Ollama Modelfile."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reprise.errors import UserError
from reprise.evaluation.command import read_texts
from reprise.evaluation.stage import read_held_out
from reprise.manifest import refuse_damage
from reprise.publish.card import write_card
from reprise.publish.gguf_check import check_gguf_file
from reprise.publish.gguf_file import check_gguf, write_gguf
from reprise.publish.int8 import check_int8, check_int8_folder, write_int8
from reprise.publish.logits_check import QuantizationCheck
from reprise.publish.ollama import write_modelfile
from reprise.publish.origin import Origin, read_origin, trained_content, trained_origin, write_origin
from reprise.recipe import Recipe
from reprise.recipe.loading import open_recipe
from reprise.recipe.model import Model
from reprise.storage import link_file
from reprise.training.checkpoint import read_facts
from reprise.training.export import export_checkpoint, new_folder
from reprise.workspace import Workspace


@dataclass(frozen=True)
class Source:
    """A model to publish, and the run that trained it, if that is known."""

    model: Path
    """Folder of the model."""
    recipe: Recipe | None
    is_run: bool
    """Whether it is the run's trained model, not another model folder."""
    origin: Origin | None
    """How it was made from the run's trained model, if that is known."""

    @classmethod
    def open(cls, path: Path, *, finished: bool = True) -> "Source":
        """Open a recipe, the folder of a run, or a model folder; a model in RUN/exports belongs to the run.

        Args:
            path: names it.
            finished: refuse a run that has no trained model yet; False: a checkpoint of it is wanted.

        Raises:
            UserError: the run has no trained model yet, or the path is none of these.
        """
        if path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file():
            recipe = open_recipe(path, None)
            model = Path(recipe.workspace) / f"train-{len(recipe.stages)}" / "model"
            if not finished:
                return cls(model, recipe, is_run=True, origin=None)
            origin = trained_origin(recipe)
            refuse_damage(model.parent, f"{model.name}/")
            return cls(model, recipe, is_run=True, origin=origin)
        if path.is_file():
            raise UserError("this is a file", where=str(path), remedy="name its folder")
        if not path.is_dir():
            raise UserError("there is no such recipe, run or model folder", where=str(path))
        refuse_damage(path.parent, f"{path.name}/")
        run = path.resolve().parent.parent
        if not (run / "recipe.yaml").is_file():
            return cls(path, None, is_run=False, origin=read_origin(path))
        recipe = open_recipe(run, None)
        if path.resolve() == run / f"train-{len(recipe.stages)}" / "model":
            return cls(path, recipe, is_run=True, origin=trained_origin(recipe))
        return cls(path, recipe, is_run=False, origin=read_origin(path))

    def card(self, quantization: str | None = None) -> str | None:
        """The text of the model card; None if the run is not known, or not finished.

        Args:
            quantization: how the weights were quantized after what `origin` says.

        Raises:
            UserError: nothing was trained yet, or the run was trained again since this model was made from it.
        """
        if self.recipe is None or (self.origin is not None and self.origin["trained"] is None):
            return None
        if self.origin is not None and self.origin["trained"] != trained_content(self.recipe):
            raise UserError(
                "the run was trained again since this model was made from it, so its card would be wrong",
                where=str(self.model),
                remedy="make it again with `reprise merge` or `reprise export`",
            )
        return write_card(
            Workspace(self.recipe.workspace), self.recipe, name=self.name, origin=self.quantized(quantization)
        )

    def quantized(self, quantization: str | None) -> Origin | None:
        """The origin of a copy with quantized weights; None: they are as they were."""
        if self.origin is None or quantization is None:
            return self.origin
        return {**self.origin, "quantization": quantization}

    @property
    def exports(self) -> Path:
        """Folder to write to without --output."""
        return self.model.parent if self.recipe is None else Path(self.recipe.workspace) / "exports"

    @property
    def upload_folder(self) -> Path:
        """Folder to upload.

        The name of a run's folder contains the checksum of the model, so that an earlier export of the run is not
        uploaded by mistake, and an interrupted upload continues with the same folder.
        """
        if not self.is_run:
            return self.model
        assert self.origin is not None and self.origin["trained"] is not None, "it is the trained model"
        return self.exports / f"model-{self.origin['trained'][:12]}"

    @property
    def model_name(self) -> str:
        """Name of the folder in the exports; `gguf` for the run's trained model."""
        return "gguf" if self.is_run else self.model.name

    @property
    def name(self) -> str:
        """Short name for Ollama and the card."""
        return self.model.name if self.recipe is None else self.recipe.name


@dataclass(frozen=True)
class QuantizedExport:
    """Result of a GGUF export, as sentences for the terminal."""

    sentences: list[str]
    check: QuantizationCheck | None


def export_folder(source: Source, folder: Path) -> Path:
    """Copy a model folder and add a model card; weights are hard links if the file system allows them.

    Raises:
        UserError: the run is not known, nothing has been trained, or the folder exists.
    """
    card = source.card()
    if card is None:
        raise UserError(
            "the card is written from the facts of a run, and this folder belongs to none",
            where=str(source.model),
            remedy="name the recipe or the run",
        )
    with new_folder(folder) as partial:
        for path in source.model.rglob("*"):
            target = partial / path.relative_to(source.model)
            if path.is_file() and path.name != "README.md":
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".safetensors":  # large, and never written in place
                    link_file(path, target)
                else:
                    shutil.copyfile(path, target)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if source.origin is not None:
            write_origin(partial, source.origin)
    return folder


def export_checkpoint_of(source: Source, checkpoint: Path, folder: Path, *, averaged: bool) -> Source:
    """Write the model folder of a checkpoint of a run, with a record of its origin.

    Args:
        source: the run.
        checkpoint: folder `checkpoints/step-...` or `state` of a stage.
        folder: to write; must not exist.
        averaged: write the mean of the weights instead of the weights.

    Returns:
        The folder as a source of further exports.

    Raises:
        UserError: the run is not known, or as `export_checkpoint`.
    """
    if source.recipe is None:
        raise UserError("a checkpoint needs its run", where=str(source.model), remedy="name the recipe or the run")
    facts = read_facts(checkpoint)
    origin: Origin = {
        "trained": trained_content(source.recipe),
        "checkpoint": {
            "name": checkpoint.resolve().name,
            "stage": facts["settings"]["stage_index"] + 1,
            "tokens": facts["progress"].tokens,
            "averaged": averaged,
        },
        "merge": None,
        "quantization": None,
    }
    export_checkpoint(checkpoint, source.recipe.start_model(), folder, averaged=averaged, verify=True)
    write_origin(folder, origin)
    return replace(source, model=folder, is_run=False, origin=origin)


def export_gguf(source: Source, folder: Path, quantization: str, *, check: bool, text: Path | None) -> QuantizedExport:
    """Write a GGUF file and its Modelfile.

    Args:
        source: the model.
        folder: folder to write; must not exist.
        quantization: a key of `gguf_file.TYPES`.
        check: read the file back and compare it with the model on held-out text.
        text: file with that text; None: the run's held-out documents.

    Raises:
        UserError: the model cannot be written as GGUF, the file fails its check, or there is no held-out text.
    """
    model = Model(path=str(source.model))
    check_gguf(model, quantization)
    card = source.card(quantization)
    texts = _held_out(source, text) if check else []
    with new_folder(folder) as partial:
        name = f"{source.name}-{quantization}.gguf"
        tokenizer = write_gguf(model, partial / name, quantization, name=source.name)
        modelfile, said = write_modelfile(model, name, adds_bos=tokenizer.adds_bos)
        (partial / "Modelfile").write_text(modelfile, encoding="utf-8")
        result = check_gguf_file(model, partial / name, quantization, texts) if check else None
        size = (partial / name).stat().st_size
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
    sentences = [f"{name}: {size / 1e6:,.1f} MB; Modelfile: {said}"]
    sentences.append(_say_check(result, "file"))
    return QuantizedExport(sentences, result)


def export_int8(source: Source, folder: Path, *, check: bool, text: Path | None) -> QuantizedExport:
    """Write a model folder with 8-bit weights, which transformers reads where torchao is installed.

    Args:
        source: the model.
        folder: to write; must not exist.
        check: read the folder back and compare it on held-out text.
        text: file of that text; None: what the run holds out.

    Raises:
        UserError: torchao is not installed, the folder fails its check, or there is no text to check it on.
    """
    model = Model(path=str(source.model))
    check_int8(model)
    card = source.card("int8")
    texts = _held_out(source, text) if check else []
    with new_folder(folder) as partial:
        write_int8(model, partial)
        result = check_int8_folder(model, partial, texts) if check else None
        size = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        if (origin := source.quantized("int8")) is not None:
            write_origin(partial, origin)
    return QuantizedExport([f"{size / 1e6:,.1f} MB of weights", _say_check(result, "folder")], result)


def _say_check(result: QuantizationCheck | None, what: str) -> str:
    """The result of a check, for a person."""
    if result is None:
        return "warning: not checked (--no-check)"
    before, after = result.bits_per_token
    return (
        f"checked on {result.tokens:,} tokens of held-out text: the {what} computes its quantized weights (logits "
        f"differ by {result.difference:.1e} of their spread); quantization costs {after - before:+.4f} bits per "
        f"token ({before:.4f} to {after:.4f}), KL {result.divergence_nats:.2e} nats, "
        f"{100 * result.same_choice:.1f} % equal first choices"
    )


def _held_out(source: Source, text: Path | None) -> Sequence[str]:
    """Held-out texts to check the file on.

    Raises:
        UserError: there are none.
    """
    if text is not None:
        return [one.text for one in read_texts(text)]
    documents = None if source.recipe is None else Path(source.recipe.workspace) / "score" / "documents"
    if documents is None or not documents.is_dir():
        raise UserError(
            "there is no held-out text to check the file on",
            where=str(source.model),
            remedy="name some with --text FILE, or leave the check out with --no-check",
        )
    return [one.text for one in read_held_out(documents)]
