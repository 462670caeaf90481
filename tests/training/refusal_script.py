"""Opens damaged models as training does and keeps what each process was told; started by torchrun. Argument: folder."""

import json
import sys
from pathlib import Path

from reprise.errors import UserError
from reprise.recipe.model import Model
from reprise.recipe.tokens import Rows
from reprise.recipe.training import Training
from reprise.training.network import open_network
from reprise.training.parallel import open_processes


def refusals(folder: Path) -> None:
    """Write `rank-N.json`: name of each model in the folder -> what it was refused with, null where it was opened.

    The first process tells the user; the others leave with its exit code, which stands here in place of a message.
    """
    training = Training(precision="float32", threads=1)
    told: dict[str, object] = {}
    with open_processes(training) as processes:
        for path in sorted(folder.glob("*/config.json")):
            try:
                open_network(Model(path=str(path.parent)), Rows(seq_len=32), training, 1, 0, processes)
                told[path.parent.name] = None
            except UserError as error:
                told[path.parent.name] = str(error)
            except SystemExit as leaving:
                told[path.parent.name] = leaving.code
        (folder / f"rank-{processes.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    refusals(Path(sys.argv[1]))
