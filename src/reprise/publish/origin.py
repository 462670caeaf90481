"""How a published model was made from the trained one: recorded in its folder, so that its card is true of it."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from reprise.errors import UserError
from reprise.model.files import model_folder
from reprise.recipe import Recipe
from reprise.recipe.model import Model
from reprise.records import record
from reprise.storage import write_json
from reprise.workspace import Workspace

FILE = "origin.json"
LICENCE_KEYS: tuple[Literal["license", "license_name", "license_link"], ...] = (
    "license",
    "license_name",
    "license_link",
)
"""Keys of a card's metadata that say its licence."""


@record
class NamedModel(TypedDict):
    """A model that a card names, without the folders of this machine."""

    name: str
    """Name on the Hub, or of its folder or package."""
    on_hub: bool
    """Whether that is a name on the Hub."""
    revision: str | None
    """Its revision on the Hub, if one was named."""
    license: str | None
    """Key `license` of its own card; null if it has no card, or the card no licence."""
    license_name: str | None
    """Key `license_name` of that card, which says what the licence `other` is."""
    license_link: str | None
    """Key `license_link` of that card."""


@record
class CheckpointOrigin(TypedDict):
    """The checkpoint that a model was exported from."""

    name: str
    """Name of its folder, such as `step-00000100`."""
    stage: int
    """Training stage, from 1."""
    tokens: int
    """Tokens of that stage that it was trained on."""
    averaged: bool
    """Whether the mean of the weights was exported."""


@record
class MergeOrigin(TypedDict):
    """What the trained model was merged with."""

    method: Literal["base", "residual", "ties", "dare_ties"]
    """`base`: the mean with the base model; otherwise `--method` of a merge with a chat model."""
    factor: float
    """Weight of the trained model (`base`), or of the chat model's difference from its base."""
    chat: NamedModel | None
    """The chat model; null: the merge is with the run's base model."""
    chat_base: NamedModel | None
    """The model that the chat model was made from."""


@record
class Origin(TypedDict):
    """How a model was made; without checkpoint, merge and quantization it is the trained model itself."""

    trained: str | None
    """The run's trained model: `content` in the manifest of its stage; null: a checkpoint of an unfinished run."""
    checkpoint: CheckpointOrigin | None
    """The checkpoint that it is, instead of the trained model."""
    merge: MergeOrigin | None
    """The merge that it is."""
    quantization: str | None
    """How its weights are quantized, such as `q8_0`."""


_RECORD = TypeAdapter(Origin)


def trained_content(recipe: Recipe) -> str | None:
    """`content` of the run's trained model; None if it has none yet."""
    manifest = Workspace(recipe.workspace).manifest(f"train-{len(recipe.stages)}")
    return None if manifest is None else manifest.content


def trained_origin(recipe: Recipe) -> Origin:
    """The origin of the run's trained model itself.

    Raises:
        UserError: the run has none yet.
    """
    content = trained_content(recipe)
    if content is None:
        raise UserError(
            "there is no trained model yet",
            where=str(Path(recipe.workspace, f"train-{len(recipe.stages)}", "model")),
            remedy="run `reprise train RECIPE` first, or name a checkpoint: `reprise export RECIPE CHECKPOINT`",
        )
    return {"trained": content, "checkpoint": None, "merge": None, "quantization": None}


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the record into a model folder."""
    write_json(folder / FILE, origin)


def read_origin(folder: Path) -> Origin | None:
    """The record in a model folder; None if it has none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(
            "this is no record of how the model was made",
            where=str(path),
            remedy="write the folder again with `reprise merge` or `reprise export`, or delete this file",
        ) from None


def name_model(model: Model) -> NamedModel:
    """Describe a model for a card; the card of a model on the Hub is downloaded unless it is in the cache."""
    on_hub = model_folder(model) is None
    stated = _stated(model)
    licence, licence_name, licence_link = (
        value if isinstance(value := stated.get(key), str) else None for key in LICENCE_KEYS
    )
    return {
        "name": model.path if on_hub else Path(model.path.removeprefix("package:")).expanduser().resolve().name,
        "on_hub": on_hub,
        "revision": model.revision if on_hub else None,
        "license": licence,
        "license_name": licence_name,
        "license_link": licence_link,
    }


def _stated(model: Model) -> dict[str, object]:
    """The metadata of a model's own card; empty if there is none that can be read."""
    path = _card(model)
    if path is None or not path.is_file():
        return {}
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        stated = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        return {}
    return stated if isinstance(stated, dict) else {}


def _card(model: Model) -> Path | None:
    folder = model_folder(model)
    if folder is not None:
        return folder / "README.md"
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(model.path, "README.md", revision=model.revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(model.path, "README.md", revision=model.revision))
    except Exception:  # offline, refused, or no such file; each HTTP client has errors of its own
        return None
