"""What identifies a model, so that an answer once computed can be used again."""

from pathlib import Path
from typing import Any

from reprise.model.files import model_files
from reprise.model.loading import load_config
from reprise.recipe.model import Model
from reprise.workspace import digest, digest_file


def model_fingerprint(model: Model) -> str:
    """Hash of the files that decide what a model computes; on the Hub, of its name and commit."""
    files: dict[str, Any] = {path.name: digest_file(Path(path))["xxh128"] for path in model_files(model)}
    if not files:
        files = {model.path: getattr(load_config(model), "_commit_hash", None) or model.revision}
    return digest(files)
