"""Which files of a run were compared with their checksums and when, from manifests and the last `reprise verify`."""

from collections.abc import Mapping
from typing import Literal

from typing_extensions import TypedDict

from reprise.manifest import Manifest
from reprise.records import record
from reprise.verification import Verification, Verified, damage_of, read_verification
from reprise.workspace import Workspace

VerifiedState = Literal["as written", "damaged", "made since", "not verified"]


@record
class CheckedPart(TypedDict):
    """A stage, a cache or the inputs, and how its files were checked."""

    what: str
    """Name of the stage, or path of the cache, or `inputs`."""
    files: int
    """Files."""
    bytes: int
    """Total size of the files."""
    compared_before: list[str]
    """Stages that compared these files with their checksums before reading them."""
    written_before: list[str]
    """Stages that read these files in the same command that had written or compared them."""
    verified: VerifiedState
    """Result of the last `reprise verify`; `made since`: the part was made after it."""


@record
class IntegrityFacts(TypedDict):
    """How the files of a run were checked for damage."""

    when: str | None
    """UTC time of the last `reprise verify`, ISO 8601; null if it never ran."""
    seconds: float | None
    """Duration of the last `reprise verify`; null if it never ran."""
    damage: list[str]
    """One sentence for each missing or damaged file of parts that were not made again since."""
    parts: list[CheckedPart]
    """Published stages, then caches and inputs."""


def integrity_facts(workspace: Workspace, manifests: Mapping[str, Manifest | None]) -> IntegrityFacts:
    """Collect which files were compared with their checksums, by later stages and by `reprise verify`.

    Args:
        workspace: the run.
        manifests: stage -> its manifest; None if the stage is not published.
    """
    verification = read_verification(workspace.root)
    published = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    verified = {part["what"]: part for part in verification["parts"]} if verification else {}
    parts = [_stage_part(manifest, published, verified) for manifest in published.values()]
    replaced = {"report"} | {part["what"] for part in parts if part["verified"] == "made since"}
    others = [
        _other_part(part)
        for what, part in verified.items()
        if what not in published and what != "report" and (what == "inputs" or (workspace.root / what).is_dir())
    ]
    return {
        "when": verification["when"] if verification else None,
        "seconds": verification["seconds"] if verification else None,
        "damage": damage_of(_without(verification, replaced)) if verification else [],
        "parts": parts + others,
    }


def _without(verification: Verification, names: set[str]) -> Verification:
    return {**verification, "parts": [part for part in verification["parts"] if part["what"] not in names]}


def _stage_part(manifest: Manifest, published: Mapping[str, Manifest], verified: Mapping[str, Verified]) -> CheckedPart:
    name = manifest.stage
    readers = [one for one in published.values() if one.inputs.get(name) == manifest.content]
    part = verified.get(name)
    return {
        "what": name,
        "files": len(manifest.outputs),
        "bytes": sum(entry["size"] for entry in manifest.outputs.values()),
        "compared_before": [one.stage for one in readers if name in one.compared],
        "written_before": [one.stage for one in readers if name not in one.compared],
        "verified": _state(part, manifest),
    }


def _state(part: Verified | None, manifest: Manifest) -> VerifiedState:
    if part is None:
        return "not verified"
    if part["manifest"] is not None and part["manifest"] != manifest.everything:
        return "made since"
    return "damaged" if part["damage"] else "as written"


def _other_part(part: Verified) -> CheckedPart:
    return {
        "what": part["what"],
        "files": part["files"],
        "bytes": part["bytes"],
        "compared_before": [],
        "written_before": [],
        "verified": "damaged" if part["damage"] else "as written",
    }
