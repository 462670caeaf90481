"""TIES and DARE merges with a chat model, by mergekit if its command is installed."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import yaml

from reprise.errors import UserError
from reprise.merging.checks import check_architectures, check_tokens
from reprise.merging.output import check_merged, write_descriptions
from reprise.merging.sides import Side
from reprise.model.loading import locate_model
from reprise.recipe.model import Model
from reprise.training.export import new_folder

Method = Literal["ties", "dare_ties"]
COMMAND = "mergekit-yaml"


def merge_with_mergekit(
    trained: Path,
    base: Model,
    chat: Model,
    folder: Path,
    *,
    method: Method,
    factor: float = 1.0,
    density: float = 0.5,
    seed: int = 0,
    verify: bool = False,
) -> None:
    """Write base + (trained - base) + factor * (chat - base), of which the method keeps only a part of the elements.

    Args:
        trained: Hugging Face directory of the trained model.
        base: the model that both others were made from.
        chat: the chat model.
        folder: folder to write; must not exist.
        method: mergekit's `merge_method`.
        factor: multiplies the chat model's difference.
        density: share of the elements of each difference that are kept.
        seed: random seed of DARE's choice of elements.
        verify: load the folder in another process and compare ids and logits.

    Raises:
        UserError: mergekit is missing or fails; the models do not fit each other; the folder exists.
    """
    command = shutil.which(COMMAND)
    if command is None:
        raise UserError(
            f"{method} needs mergekit, whose command {COMMAND} is not on the PATH",
            where=f"--method {method}",
            remedy="pip install mergekit (in this environment or another), or leave --method out: the residual merge "
            "needs nothing",
        )
    sides = [Side("trained", Model(path=str(trained))), Side("base", base), Side("chat", chat)]
    check_architectures(sides)
    source = check_tokens(sides)
    rows = {side.embedded_rows for side in sides}
    if len(rows) > 1:
        raise UserError(
            f"the embeddings have {', '.join(map(str, sorted(rows)))} rows, which {method} cannot merge",
            where=f"--method {method}",
            remedy="leave --method out: the residual merge takes vocabularies of other sizes",
        )
    with new_folder(folder) as partial, tempfile.TemporaryDirectory(prefix="reprise-mergekit-") as elsewhere:
        recipe = Path(elsewhere, "merge.yaml")
        recipe.write_text(yaml.safe_dump(_recipe(sides, method, factor, density)), encoding="utf-8")
        target = Path(elsewhere, "merged")
        done = subprocess.run(
            [command, str(recipe), str(target), "--random-seed", str(seed), "--no-copy-tokenizer"],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 or not list(target.glob("*.safetensors")):
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"mergekit failed: {lines[-1] if lines else f'exit code {done.returncode}'}",
                where=f"--method {method}",
                remedy="the residual merge (without --method) needs no mergekit",
            )
        for path in target.glob("model*.safetensors*"):
            shutil.move(path, partial / path.name)
        write_descriptions(sides[0], sides[2], source, partial, rows=rows.pop())
        if verify:
            check_merged(partial, sides[0], sides[2])


def _recipe(sides: list[Side], method: Method, factor: float, density: float) -> dict[str, object]:
    own, base, chat = (locate_model(side.settings) for side in sides)
    return {
        "merge_method": method,
        "base_model": base,
        "models": [
            {"model": own, "parameters": {"weight": 1.0, "density": density}},
            {"model": chat, "parameters": {"weight": factor, "density": density}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": str(sides[0].config.dtype or "float32").removeprefix("torch."),
    }
