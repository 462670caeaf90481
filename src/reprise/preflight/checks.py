"""The preflight checks of a recipe, and the stages that each concerns. All findings are reported together.

To add a check: write `check_...(recipe) -> Iterator[Finding]` in the module for that subject, and add it to `CHECKS`
below with the stages that it concerns. A check may also raise `UserError`, which becomes one finding. It must not
load weights, read whole files, or take long.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from reprise.errors import Finding, Severity, UserError
from reprise.mixture.idle_settings import check_idle_settings
from reprise.preflight.disk import check_disk
from reprise.preflight.inputs import check_inputs, check_setting_names, check_text_for_mixture
from reprise.preflight.model import check_chat_merge, check_chat_template, check_model_files, check_vocabulary
from reprise.preflight.requirements import (
    check_benchmark_files,
    check_benchmark_names,
    check_evaluation_server,
    check_generator_servers,
    check_mirror_access,
    check_packages,
)
from reprise.recipe import Recipe
from reprise.synthesis.language_check import check_languages

TRAIN = "train"
"""Matches all of the stages `train-N`."""


@dataclass(frozen=True)
class Check:
    """One check of a recipe."""

    look: Callable[[Recipe], Iterable[Finding]]
    stages: tuple[str, ...] = ()
    """Stages that it concerns; empty: any."""
    raised: Severity = "error"
    """Severity of a UserError that the check raises."""


def inspect(recipe: Recipe, stages: Collection[str] | None = None) -> list[Finding]:
    """Find everything that can be known to be wrong with a run.

    Args:
        recipe: the run.
        stages: names of the stages that are about to run; None: all.

    Returns:
        Errors first, then what is missing, then warnings.
    """
    about = None if stages is None else {name.partition("-")[0] for name in stages}
    findings: list[Finding] = []
    for check in CHECKS:
        if about is not None and check.stages and not about & set(check.stages):
            continue
        try:
            findings += check.look(recipe)
        except UserError as error:
            findings.append(Finding.of(error, check.raised))
    order = ("error", "missing", "warning")
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))


def refuse(findings: Iterable[Finding], *severities: Severity) -> None:
    """Raise one UserError with all findings of these severities (default: those that stop a run), if there are any."""
    stopping = [finding for finding in findings if finding.severity in (severities or ("error", "missing"))]
    if stopping:
        raise UserError.of(stopping)


CHECKS: tuple[Check, ...] = (
    Check(check_inputs, ("read", "label")),
    Check(check_setting_names),
    Check(check_text_for_mixture, ("read", "clean")),
    Check(check_model_files, ("score", "synthesize", "tokenize", TRAIN, "evaluate"), "missing"),
    Check(check_vocabulary, ("read", "vocabulary", "score", "tokenize", TRAIN)),
    Check(check_chat_template, ("read", "score", "tokenize", TRAIN, "evaluate")),
    Check(check_chat_merge, ("read", "tokenize", TRAIN, "evaluate")),
    Check(check_benchmark_files, ("decontaminate", "synthesize"), "missing"),
    Check(check_benchmark_names, ("decontaminate", "synthesize", "evaluate")),
    Check(check_packages, ("read", "clean", "label", "synthesize", TRAIN, "evaluate")),
    Check(check_languages, ("clean", "label", "synthesize")),
    Check(check_idle_settings, (TRAIN,)),
    Check(check_generator_servers, ("label", "synthesize")),
    Check(check_evaluation_server, ("evaluate",)),
    Check(check_disk),
    Check(check_mirror_access, raised="missing"),
)
"""All checks, in the order in which their findings are reported."""
