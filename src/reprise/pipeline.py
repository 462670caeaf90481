"""Bring the stages of a run up to date: run those that are stale or missing."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from reprise.documents.table import DOCUMENTS
from reprise.errors import UserError, out_of_memory
from reprise.freshness import walk_stages, with_needs
from reprise.manifest import Comparison, Derivation, Manifest, differences
from reprise.mirrored_stages import MirroredStages
from reprise.preflight.checks import inspect, refuse
from reprise.preflight.inputs import check_text_for_mixture
from reprise.processes import Processes
from reprise.recipe import Recipe
from reprise.recipe.loading import format_kept
from reprise.stages import Stage, stages
from reprise.workspace import Work, Workspace

if TYPE_CHECKING:
    from reprise.documents.decontaminate.stage import DecontaminateCounts
    from reprise.training.stage import TrainCounts

T = TypeVar("T")

SAY_HASHING_S = 1.0
"""Time in seconds above which computing checksums is reported."""


def run_stages(
    recipe: Recipe,
    *,
    until: Sequence[str] | None = None,
    restart: bool = False,
    adopt: bool = False,
    others: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> int:
    """Run the stages that are not fresh, in order.

    Args:
        recipe: the run.
        until: names of stages; None: all.
        restart: discard the progress of a partly trained stage whose settings changed.
        adopt: resume such a stage with the new settings.
        others: workspaces of similar runs; a stage that one of them made from the same inputs is reused.
        say: called with one line per event.

    Returns:
        Number of stages that ran.

    Raises:
        UserError: a stage refused its settings or its input; stages published before are kept.
    """
    workspace = Workspace(recipe.workspace)
    processes = open_processes(recipe.training.collective_timeout_s)
    run = _Run(recipe, workspace, processes, restart=restart, adopt=adopt, others=others, say=say)
    with contextlib.ExitStack() as held, _explain_full_disk(workspace.root):
        processes.first(lambda: held.enter_context(workspace.locked()))
        processes.first(workspace.adopt_finished)
        kept = format_kept(recipe)
        processes.first(lambda: workspace.keep_recipe(kept))
        processes.first(lambda: _preflight(recipe, workspace, until, say))
        processes.first(run.open_mirror)
        try:
            while (damaged := run.bring_up(until)) is not None:
                processes.first(partial(workspace.discard, damaged))
                run.up_to_date.clear()
            processes.first(run.finish_mirror)
        finally:
            run.close_mirror()
    return run.count


@contextlib.contextmanager
def _explain_full_disk(root: Path) -> Iterator[None]:
    """Context that reports a full or read-only disk as a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        what = "the disk is read-only" if error.errno == errno.EROFS else "the disk is full"
        raise UserError(
            what,
            where=str(error.filename or root),
            remedy="free some space and run the same command again; published stages are intact",
        ) from error


def _preflight(recipe: Recipe, workspace: Workspace, until: Sequence[str] | None, say: Callable[[str], None]) -> None:
    """Run the checks of the stages that are about to run, and print warnings.

    Raises:
        UserError: a finding would stop the run.
    """
    try:
        walk = walk_stages(recipe, workspace, until, read_files=False)
        names = [stage.name for stage, _, status in walk if status.state != "fresh"]
    except UserError:
        refuse(inspect(recipe, with_needs(stages(recipe), until)))
        raise
    if names:
        findings = inspect(recipe, names)
        refuse(findings)
        for finding in findings:
            say(f"warning: {finding}")


@dataclass
class _Run:
    """State of one `run_stages`."""

    recipe: Recipe
    workspace: Workspace
    processes: Processes
    restart: bool
    adopt: bool
    others: Sequence[Path]
    say: Callable[[str], None]
    count: int = 0
    """Number of stages that ran."""
    known_whole: set[str] = field(default_factory=set)
    """Stages whose files this process has written, or compared with their checksums."""
    up_to_date: set[str] = field(default_factory=set)
    """Stages that are fresh, or were made by this process."""
    discarded: set[str] = field(default_factory=set)
    """Stages that were damaged, or without text that is needed: they are made again, and not taken from the mirror."""
    mirrored: MirroredStages | None = None
    """The run's mirror; None in all processes but the first, or if the recipe names none."""

    def open_mirror(self) -> None:
        """Connect to the mirror, if the recipe names one."""
        if self.recipe.mirror:
            self.mirrored = MirroredStages(self.workspace, self.recipe.mirror)

    def finish_mirror(self) -> None:
        """Wait for the uploads that are left."""
        if self.mirrored is not None:
            self.mirrored.finish(self.say)

    def close_mirror(self) -> None:
        """Give up the uploads that are left; what is complete in the mirror stays so."""
        if self.mirrored is not None:
            self.mirrored.mirror.stop()

    def _mirror(self, stage: Stage) -> None:
        """Upload a stage that is up to date; one whose text will be removed, once it is."""
        if self.mirrored is None:
            return
        manifest = self.workspace.manifest(stage.name)
        if self.recipe.documents.keep_text or not stage.passes_text or (manifest is not None and manifest.removed):
            self.mirrored.keep(stage.name)

    def bring_up(self, until: Sequence[str] | None) -> str | None:
        """Run the stages that are not fresh; returns the name of a damaged stage that must run again, else None."""
        processes = self.processes
        by_name = {stage.name: stage for stage in stages(self.recipe)}
        walk = walk_stages(self.recipe, self.workspace, until)
        steps = ((stage.name, derivation, status) for stage, derivation, status in walk)
        while (step := self._share(lambda: next(steps, None))) is not None:
            stage, derivation, status = by_name[step[0]], step[1], step[2]
            if "read" in stage.needs:  # languages and sources are counted now
                processes.first(lambda: refuse(check_text_for_mixture(self.recipe)))
            if status.state == "fresh":
                self.up_to_date.add(stage.name)
                processes.first(partial(self._mirror, stage))
                processes.first(self._remove_text)
                continue
            assert derivation is not None, "the stages before it were made"
            if stage.name == "score" or stage.precious:
                processes.first(lambda: _check_decontaminated(self.recipe, self.workspace.manifest("decontaminate")))
            if self._found_elsewhere(stage, derivation):
                self.up_to_date.add(stage.name)
                processes.first(partial(self._mirror, stage))
                continue
            if self.adopt and stage.precious:
                processes.first(partial(_reopen_finished, stage, derivation, self.workspace, self.say))
            compared: dict[str, Comparison] = {}
            for name in stage.needs:
                if self._share(partial(self._is_damaged, name, compared, text=not stage.reads_records)):
                    self.discarded.add(name)
                    return name
            if processes.is_first:
                self.say(f"{stage.name}: {status.reason}")
            self._make(stage, derivation, compared)
            self.known_whole.add(stage.name)
            self.up_to_date.add(stage.name)
            processes.first(partial(self._mirror, stage))
            processes.first(self._remove_text)
            self.count += 1
        return None

    def _share(self, action: Callable[[], T]) -> T:
        """Run the action in the first process, and return its result in all processes."""
        result: T = self.processes.same(self.processes.first(action))
        return result

    def _remove_text(self) -> None:
        """Remove the text of document stages that no later stage needs, if `documents.keep_text` is false."""
        if self.recipe.documents.keep_text:
            return
        every = stages(self.recipe)
        for stage in every:
            readers = {other.name for other in every if stage.name in other.needs and not other.reads_records}
            if stage.passes_text and readers | {stage.name} <= self.up_to_date:
                freed = self.workspace.remove_table(stage.name, DOCUMENTS)
                self.known_whole.discard(stage.name)
                if freed:
                    self._mirror(stage)
                    self.say(f"{stage.name}: its text was read and is removed ({freed / 1e6:,.1f} MB)")

    def _found_elsewhere(self, stage: Stage, derivation: Derivation) -> bool:
        """Restore a kept stage, or link it from a similar run; returns whether an undamaged one exists."""
        if stage.precious and self._share(lambda: self.workspace.restore(derivation)):
            self.say(f"{stage.name}: was made from these settings before and was kept")
            return True
        if lender := self._share(lambda: self.workspace.borrow(derivation, self.others)):
            self.say(f"{stage.name}: the same as in {lender}")
            return True
        if self._share(lambda: self._fetch(derivation)):
            self.known_whole.add(stage.name)
            return True
        return False

    def _fetch(self, derivation: Derivation) -> bool:
        """Download a stage from the mirror, if it has the same."""
        if self.mirrored is None or derivation.stage in self.discarded:
            return False
        fetched, refused = self.mirrored.fetch(derivation)
        if fetched:
            self.say(f"{derivation.stage}: downloaded from {self.recipe.mirror}")
        elif refused:
            self.say(f"warning: {derivation.stage} is not taken from the mirror: {refused}")
        return fetched

    def _is_damaged(self, name: str, compared: dict[str, Comparison], *, text: bool) -> bool:
        """Compare the files of a stage that is about to be read with their checksums, once per process.

        Args:
            name: the stage.
            compared: gets an entry for the stage.
            text: whether its text will be read; if it was removed, the stage must be made again.

        Returns:
            Whether it is damaged and must be made again.

        Raises:
            UserError: it is damaged, and its run took so long that the user must decide.
        """
        if name in self.known_whole:
            return False
        comparison, damage = self.workspace.compare(name, text=text)
        if not damage:
            compared[name] = comparison
            if text:
                self.known_whole.add(name)
            if comparison["seconds"] >= SAY_HASHING_S:
                self.say(f"{name}: {comparison['bytes'] / 1e9:,.1f} GB compared in {comparison['seconds']:,.1f} s")
            return False
        manifest = self.workspace.manifest(name)
        if manifest is not None and manifest.precious:
            raise UserError(
                "; ".join(damage),
                where=str(self.workspace.folder(name)),
                remedy=f"put the files back from a copy, or delete the folder to run {name} again",
            )
        self.say(f"{name}: {'; '.join(damage)}; it is made again")
        return True

    def _begin(self, stage: Stage, derivation: Derivation) -> Work:
        """Begin a stage, or resume what a killed command left of it."""
        if self.mirrored is not None and self.restart and stage.precious:
            self.mirrored.forget_progress(stage.name)
        work = self.workspace.begin(derivation, restart=self.restart, adopt=self.adopt)
        work.mirror = None if self.mirrored is None else self.mirrored.mirror
        return work

    def _make(self, stage: Stage, derivation: Derivation, compared: dict[str, Comparison]) -> None:
        """Run a stage and publish it."""
        start = time.monotonic()
        workspace, processes = self.workspace, self.processes
        begun = processes.first(lambda: self._begin(stage, derivation))
        work = begun or workspace.join(derivation)
        work.compared = compared
        work.processes = processes
        with _explain_full_disk(work.output):
            if stage.parallel:
                _run_with_memory(stage, work)
            else:
                processes.first(lambda: _run_with_memory(stage, work))
        processes.wait()
        seconds = time.monotonic() - start
        processes.first(lambda: workspace.publish(derivation, work, seconds))
        if processes.is_first:
            self.say(f"{stage.name}: done in {seconds:,.1f} s{_summary(work)}")
            hashing = time.monotonic() - start - seconds
            if hashing >= SAY_HASHING_S:
                self.say(f"{stage.name}: checksums took {hashing:,.1f} s")


def _reopen_finished(stage: Stage, derivation: Derivation, workspace: Workspace, say: Callable[[str], None]) -> None:
    """For --adopt: make a finished training stage resume from its end, if the recipe asks for more tokens.

    A stage after a changed training stage starts from other weights, so it is trained from the beginning.

    Raises:
        UserError: there would be nothing to train.
    """
    manifest = workspace.manifest(stage.name)
    if manifest is None or workspace.is_begun(stage.name) or workspace.damage(manifest):
        return
    before = [
        name
        for name in derivation.inputs
        if name.startswith("train-") and manifest.inputs.get(name) != derivation.inputs[name]
    ]
    if before:
        say(f"{stage.name}: is trained from its beginning, as {before[0]}, which it follows, is another")
        return
    tokens, done = stage.settings["stage"].tokens, cast("TrainCounts", manifest.counts)["tokens"]
    if tokens <= done:
        changed = "; ".join(differences(manifest.settings, derivation.settings)) or "its inputs changed"
        raise UserError(
            f"{stage.name} is finished ({done:,} tokens), so --adopt leaves nothing to train ({changed})",
            where=str(workspace.folder(stage.name)),
            remedy="leave --adopt out: it is then trained from its beginning, and the finished one is kept; "
            "or ask for more tokens than it has",
        )
    from reprise.training.reopen import lay_out_unfinished  # imports torch

    workspace.reopen(manifest, lay_out_unfinished)
    say(f"{stage.name}: resumes from its end at {done:,} tokens; the finished one is kept")


def _check_decontaminated(recipe: Recipe, decontaminate: Manifest | None) -> None:
    """Refuse to score or train on text that may contain benchmark questions.

    Raises:
        UserError: the recipe decontaminates, but the published documents were not checked.
    """
    done = decontaminate is not None and cast("DecontaminateCounts", decontaminate.counts).get("decontaminated", False)
    if recipe.documents.decontaminate.enabled and not done:
        raise UserError(
            "the documents were not checked against the benchmarks",
            where=str(Path(recipe.workspace) / "decontaminate"),
            remedy="delete that folder and run again, or say documents.decontaminate.enabled=false",
        )


def say_result(recipe: Recipe, until: Sequence[str] | None, count: int) -> str:
    """Format the last line of a command: how many stages ran, and where the report is."""
    what = f"{count} stage{'s' if count > 1 else ''} ran" if count else "nothing to do: everything is fresh"
    if until is not None:
        return what
    return f"{what}; the report is {Path(recipe.workspace) / 'report.html'}"


_MEMORY_SETTINGS = {
    "train": "lower training.micro_batch_rows or rows.seq_len, set training.activation_checkpointing=full, or train on "
    "more processes with torchrun",
    "score": "lower documents.perplexity.batch_tokens or max_length",
    "evaluate": "lower evaluation.batch_tokens or max_length",
    "synthesize": "lower synthesis.generator.batch_size",
    "label": "lower documents.topics.encoder.batch_size",
}


def _run_with_memory(stage: Stage, work: Work) -> None:
    """Run a stage; an out-of-memory error names the settings that help."""
    try:
        stage.run()(work, **stage.settings, **stage.means)
    except UserError:
        raise
    except Exception as error:
        remedy = _MEMORY_SETTINGS.get(
            stage.name.partition("-")[0], "close other programs, or use a machine with more memory"
        )
        message = out_of_memory(error, f"{remedy}; then run the same command again")
        if message is None:
            raise
        raise UserError(message.what, where=stage.name, remedy=message.remedy) from error


def _summary(work: Work) -> str:
    """Format a stage's scalar counts as one line for the terminal."""
    counts = [f"{name.replace('_', ' ')} {value:,}" for name, value in work.counts.items() if type(value) is int]
    return f" ({', '.join(counts[:6])})" if counts else ""


def open_processes(timeout_s: int) -> Processes:
    """The processes that torchrun or Slurm started for this command; else one process.

    Args:
        timeout_s: seconds that a process waits for the others in a collective during training.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from reprise.training.parallel import join_processes  # imports torch

    return join_processes(timeout_s)
