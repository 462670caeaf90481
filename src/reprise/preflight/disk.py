"""Check that the disk has enough space for what a run writes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from reprise.documents.read.files import find_files
from reprise.documents.read.remote import is_remote
from reprise.errors import Finding, UserError
from reprise.model.files import model_files
from reprise.recipe import Recipe
from reprise.stage_names import DOCUMENT_STAGES

PARQUET_COMPRESSED = 2.0
"""Bytes of text per byte of a document table; 1.9 to 2.8 on text in English and Chinese."""
COMPRESSED = 4.0
"""Bytes of text per byte of a compressed input file (gzip, zstd, Parquet)."""


def input_bytes(recipe: Recipe) -> int:
    """`hardware.text_gb`, or approximate bytes of text in the local inputs; compressed files count four times."""
    if recipe.hardware.text_gb:
        return int(recipe.hardware.text_gb * 1e9)
    total = 0.0
    for entry in recipe.documents.inputs:
        if not is_remote(entry.path):
            try:
                files = find_files(entry, "documents.inputs")
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
