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
from reprise.recipe import Recipe
from reprise.recipe.loading import open_recipe
from reprise.recipe.model import Model
from reprise.storage import link_file
from reprise.training.export import new_folder
from reprise.workspace import Workspace


@dataclass(frozen=True)
class Source:
    """A model to publish, and the run that trained it, if that is known."""

    model: Path
    """Folder of the model."""
    recipe: Recipe | None
    is_run: bool
    """Whether the user named a run, not a model folder."""

    @classmethod
    def open(cls, path: Path) -> "Source":
        """Open a recipe, the folder of a run, or a model folder; a model in RUN/exports belongs to the run.

        Raises:
            UserError: the run has no trained model yet, or the path is none of these.
        """
        if path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file():
            recipe = open_recipe(path, None)
            model = Path(recipe.workspace) / f"train-{len(recipe.stages)}" / "model"
            if not model.is_dir():
                raise UserError(
                    "there is no trained model yet", where=str(model), remedy="run `reprise train RECIPE` first"
                )
            refuse_damage(model.parent, f"{model.name}/")
            return cls(model, recipe, is_run=True)
        if not path.is_dir():
            raise UserError("there is no such recipe, run or model folder", where=str(path))
        refuse_damage(path.parent, f"{path.name}/")
        run = path.resolve().parent.parent
        return cls(path, open_recipe(run, None) if (run / "recipe.yaml").is_file() else None, is_run=False)

    def at(self, model: Path) -> "Source":
        """Make a source with another model folder and the same run."""
        return replace(self, model=model, is_run=False)

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
        assert self.recipe is not None, "a run has a recipe"
        manifest = Workspace(self.recipe.workspace).manifest(self.model.parent.name)
        assert manifest is not None, "a model folder in the run is published"
        return self.exports / f"model-{manifest.content[:12]}"

    @property
    def model_name(self) -> str:
        """Name of the folder in the exports; `gguf` for the run's trained model."""
        return "gguf" if self.is_run else self.model.name

    @property
    def name(self) -> str:
        """Short name for Ollama and the card."""
        return self.model.name if self.recipe is None else self.recipe.name

    def start_model(self) -> Model:
        """The initial model of the run's training.

        Raises:
            UserError: the run is not known.
        """
        if self.recipe is None:
            raise UserError("a checkpoint needs its run", where=str(self.model), remedy="name the recipe or the run")
        return self.recipe.start_model()


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
    if source.recipe is None:
        raise UserError(
            "the card is written from the facts of a run, and this folder belongs to none",
            where=str(source.model),
            remedy="name the recipe or the run",
        )
    workspace = Workspace(source.recipe.workspace)
    card = write_card(workspace, source.recipe, name=source.name)
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
    return folder


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
    texts = _held_out(source, text) if check else []
    with new_folder(folder) as partial:
        name = f"{source.name}-{quantization}.gguf"
        tokenizer = write_gguf(model, partial / name, quantization, name=source.name)
        modelfile, said = write_modelfile(model, name, adds_bos=tokenizer.adds_bos)
        (partial / "Modelfile").write_text(modelfile, encoding="utf-8")
        result = check_gguf_file(model, partial / name, quantization, texts) if check else None
        size = (partial / name).stat().st_size
        if source.recipe is not None:
            change = f"Its weights are quantized to {quantization} in a GGUF file."
            card = write_card(Workspace(source.recipe.workspace), source.recipe, name=source.name, change=change)
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
    texts = _held_out(source, text) if check else []
    with new_folder(folder) as partial:
        write_int8(model, partial)
        result = check_int8_folder(model, partial, texts) if check else None
        size = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        if source.recipe is not None:
            change = "The weights of its linear layers are quantized to 8 bits by torchao."
            card = write_card(Workspace(source.recipe.workspace), source.recipe, name=source.name, change=change)
            (partial / "README.md").write_text(card, encoding="utf-8")
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
