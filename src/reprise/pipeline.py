"""Bring the stages of a run up to date: which are stale, and run these."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from reprise import preflight
from reprise.documents.read.files import SourceFile
from reprise.documents.read.streams import printable
from reprise.errors import UserError
from reprise.recipe import Recipe
from reprise.recipe.fields import Settings
from reprise.stages import Stage, stages
from reprise.training.first_process import first_does
from reprise.workspace import Json, Manifest, Plan, Status, Work, Workspace, differences, digest_file

T = TypeVar("T")


def plan_stages(
    recipe: Recipe, workspace: Workspace, until: Sequence[str] | None = None
) -> Iterator[tuple[Stage, Plan]]:
    """Each stage that is wanted or needed for it (None: all) with what it would be made from today."""
    every = stages(recipe)
    wanted = _with_needs(every, until)
    fingerprints: dict[str, str] = {}
    digests: dict[str, dict[str, Json]] = {}
    for stage in every:
        if stage.name not in wanted:
            continue
        known = workspace.manifest(stage.name)
        files = {}
        for file in stage.files():
            name = printable(file.path if isinstance(file, SourceFile) else str(file))
            if name not in digests:
                digests[name] = _digest(file, known.files.get(name) if known else None)
            files[name] = digests[name]
        plan = Plan(
            stage=stage.name,
            settings={"version": stage.version, **{name: _decisive(value) for name, value in stage.settings.items()}},
            inputs={name: fingerprints[name] for name in stage.needs},
            files=files,
            resumable=stage.resumable,
            precious=stage.precious,
        )
        fingerprints[stage.name] = plan.fingerprint
        yield stage, plan


def _digest(file: Path | SourceFile, known: dict[str, Json] | None) -> dict[str, Json]:
    """What identifies a file: its content; in an object store, which is not read for this, its size."""
    if isinstance(file, SourceFile):
        return {"size": file.size, "mtime_ns": 0, "xxh128": f"{file.size} bytes"}
    return digest_file(file, known)


def statuses(recipe: Recipe, workspace: Workspace) -> list[tuple[str, Status]]:
    """Which stages are fresh, stale and missing, and why."""
    return [(stage.name, workspace.status(plan)) for stage, plan in plan_stages(recipe, workspace)]


def run_stages(
    recipe: Recipe,
    *,
    until: Sequence[str] | None = None,
    restart: bool = False,
    adopt: bool = False,
    others: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> int:
    """Run the stages that are not fresh, each after the stages that it needs.

    Args:
        recipe: the run.
        until: the stages that are wanted; None wants all.
        restart: throw away the progress of a half-trained stage whose settings changed.
        adopt: go on from it with the new settings.
        others: workspaces of runs alike; a stage that one of them made in the same way is taken over from there.
        say: told what happens, a line each.

    Returns:
        How many stages ran.

    Raises:
        UserError: a stage refused its settings or its input; what was published before stays.
    """
    workspace = Workspace(recipe.workspace)
    ranks = _Ranks()
    with contextlib.ExitStack() as held:
        ranks.lead(lambda: held.enter_context(workspace.locked()))
        ranks.lead(workspace.adopt_finished)
        kept = yaml.safe_dump(_plain(recipe), allow_unicode=True, sort_keys=False)
        ranks.lead(lambda: workspace.keep_recipe(kept))
        ranks.lead(lambda: _preflight(recipe, workspace, until, say))
        count = 0
        for stage, plan in list(plan_stages(recipe, workspace, until)):
            if "read" in stage.needs:  # now the languages and sources of the text are counted
                preflight.refuse(preflight.check_text_for_mixture(recipe))
            status = workspace.status(plan)
            ranks.wait()
            if status.state == "fresh":
                continue
            if stage.name == "score" or stage.precious:
                _check_decontaminated(recipe, workspace.manifest("decontaminate"))
            if stage.precious and _restored(plan, workspace, ranks):
                say(f"{stage.name}: was made from these settings before and was kept")
                continue
            if lender := workspace.borrow(plan, others):
                say(f"{stage.name}: the same as in {lender}")
                continue
            if ranks.world > 1 and not stage.parallel:
                ranks.lead(partial(_refuse_processes, stage.name, status))
            if adopt and stage.precious:
                ranks.lead(partial(_reopen_finished, stage, plan, workspace, say))
            if ranks.leads:
                say(f"{stage.name}: {status.reason}")
            _run_stage(stage, plan, workspace, ranks, restart=restart, adopt=adopt, say=say)
            count += 1
    return count


def _preflight(recipe: Recipe, workspace: Workspace, until: Sequence[str] | None, say: Callable[[str], None]) -> None:
    """Say everything that is knowably wrong with the stages that are about to run.

    Raises:
        UserError: something would stop them.
    """
    try:
        names = [stage.name for stage, plan in plan_stages(recipe, workspace, until) if _must_run(workspace, plan)]
    except UserError as error:
        preflight.refuse(preflight.inspect(recipe, _with_needs(stages(recipe), until)))
        raise error
    if names:
        findings = preflight.inspect(recipe, names)
        preflight.refuse(findings)
        for finding in findings:
            say(f"warning: {finding}")


def _must_run(workspace: Workspace, plan: Plan) -> bool:
    return workspace.status(plan).state != "fresh"


def _refuse_processes(name: str, status: Status) -> None:
    """Raise: a stage that runs in one process was asked for under torchrun."""
    raise UserError(
        f"{name} runs in one process and must run first ({status.state}: {status.reason})",
        remedy=f"run `reprise {name} RECIPE` without torchrun",
    )


def _reopen_finished(stage: Stage, plan: Plan, workspace: Workspace, say: Callable[[str], None]) -> None:
    """For --adopt: let a finished training stage go on from its end, where more tokens are asked for.

    A stage that follows a training stage that changed begins from other weights, so it is trained from its beginning.

    Raises:
        UserError: nothing would be left to train.
    """
    manifest = workspace.manifest(stage.name)
    if manifest is None or workspace.is_begun(stage.name) or workspace.damage(manifest):
        return
    before = [
        name for name in plan.inputs if name.startswith("train-") and manifest.inputs.get(name) != plan.inputs[name]
    ]
    if before:
        say(f"{stage.name}: is trained from its beginning, as {before[0]}, which it follows, is another")
        return
    tokens, done = stage.settings["stage"].tokens, manifest.counts["tokens"]
    if tokens <= done:
        changed = "; ".join(differences(manifest.settings, plan.settings)) or "its inputs changed"
        raise UserError(
            f"{stage.name} is finished ({done:,} tokens), so with --adopt nothing of it is left to train ({changed})",
            where=str(workspace.folder(stage.name)),
            remedy="leave --adopt out: it is then trained from its beginning, and the finished one is kept; "
            "or ask for more tokens than it has",
        )
    from reprise.training.reopen import lay_out_unfinished  # imports torch

    workspace.reopen(manifest, lay_out_unfinished)
    say(f"{stage.name}: goes on from its end at {done:,} tokens; the finished one is kept")


def _restored(plan: Plan, workspace: Workspace, ranks: "_Ranks") -> bool:
    """Whether what was kept of a precious stage is in its place again, and whole."""
    ranks.lead(lambda: workspace.restore(plan))
    fresh = workspace.status(plan).state == "fresh"
    ranks.wait()
    return fresh


def _check_decontaminated(recipe: Recipe, decontaminate: Manifest | None) -> None:
    """Refuse to score or train on text that may hold benchmark questions, unless the recipe wants that.

    Raises:
        UserError: the published documents were not checked against the benchmarks.
    """
    done = decontaminate is not None and decontaminate.counts.get("decontaminated") is True
    if recipe.documents.decontaminate.enabled and not done:
        raise UserError(
            "the documents were not checked against the benchmarks",
            where=str(Path(recipe.workspace) / "decontaminate"),
            remedy="delete that folder and run again, or say documents.decontaminate.enabled=false",
        )


def say_result(recipe: Recipe, until: Sequence[str] | None, count: int) -> str:
    """The line that ends a command: what ran, and where to look."""
    what = f"{count} stage{'s' if count > 1 else ''} ran" if count else "nothing to do: everything is fresh"
    if until is not None:
        return what
    return f"{what}; the report is {Path(recipe.workspace) / 'report.html'}"


def _run_stage(
    stage: Stage,
    plan: Plan,
    workspace: Workspace,
    ranks: "_Ranks",
    *,
    restart: bool,
    adopt: bool,
    say: Callable[[str], None],
) -> None:
    start = time.monotonic()
    begun = ranks.lead(lambda: workspace.begin(plan, restart=restart, adopt=adopt))
    work = begun or workspace.join(plan)
    try:
        stage.run()(work, **stage.settings, **stage.means)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full while {stage.name} writes",
                where=str(error.filename or work.output),
                remedy="free some space and run the same command again; what was published is whole",
            ) from error
        raise
    ranks.wait()
    seconds = time.monotonic() - start
    ranks.lead(lambda: workspace.publish(plan, work, seconds))
    if ranks.leads:
        say(f"{stage.name}: done in {seconds:,.1f} s{_summary(work)}")


def _summary(work: Work) -> str:
    """The single numbers among a stage's counts, for one line in the terminal."""
    numbers = [f"{name.replace('_', ' ')} {value:,}" for name, value in work.counts.items() if type(value) is int]
    return f" ({', '.join(numbers[:6])})" if numbers else ""


def _with_needs(every: Sequence[Stage], until: Sequence[str] | None) -> set[str]:
    """The wanted stages and all that they need."""
    by_name = {stage.name: stage for stage in every}
    wanted: set[str] = set()
    queue = list(by_name if until is None else until)
    while queue:
        name = queue.pop()
        if name not in by_name:
            raise UserError(f"this recipe has no stage `{name}`", remedy=f"its stages are {', '.join(by_name)}")
        if name not in wanted:
            wanted.add(name)
            queue += by_name[name].needs
    return wanted


class _Ranks:
    """The processes that torchrun started; one process where it did not."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.leads = int(os.environ.get("RANK", "0")) == 0
        if self.world > 1:
            from reprise.training.parallel import start_processes

            start_processes()

    def lead(self, action: Callable[[], T]) -> T | None:
        """See `first_does`."""
        return first_does(action, is_first=self.leads, world=self.world)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()


def _decisive(value: Any) -> Json:
    """A setting as JSON, without the parts of a section that are only means."""
    if isinstance(value, Settings):
        return value.model_dump(mode="json", exclude=set(value.means))
    return _plain(value)


def _plain(value: Any) -> Json:
    """A setting as JSON."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
