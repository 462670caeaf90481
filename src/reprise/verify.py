"""`reprise verify`: compare everything that a run has published with the checksums in its manifests."""

import time
from collections.abc import Iterator

from reprise.errors import UserError
from reprise.generators.journal import FILE as ANSWERS
from reprise.generators.journal import read_key
from reprise.manifest import MANIFEST, read_manifest
from reprise.recipe import Recipe
from reprise.storage import file_checksum, find_damage, from_printable, read_checked, write_checked
from reprise.verification import VERIFIED, Verification, Verified
from reprise.workspace import Workspace


def verify_run(recipe: Recipe) -> Verification:
    """Read all files of a run once: stages, kept stages, caches, inputs and the base model.

    Returns:
        The files that were read, and every damaged or missing file.
    """
    workspace = Workspace(recipe.workspace)
    when, start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    parts = [*_stages(workspace), *_caches(workspace), *_inputs(workspace)]
    result: Verification = {
        "when": when,
        "seconds": round(time.monotonic() - start, 3),
        "parts": parts,
    }
    if workspace.root.is_dir():
        write_checked(workspace.root / VERIFIED, result)
    return result


def _stages(workspace: Workspace) -> Iterator[Verified]:
    """Published and kept stages."""
    for path in sorted(workspace.root.glob(f"*/{MANIFEST}")):
        if path.parent.suffix in (".partial", ".retired"):
            continue
        what = path.parent.name
        try:
            manifest = read_manifest(path)
        except UserError as error:
            yield {"what": what, "manifest": None, "files": 1, "bytes": path.stat().st_size, "damage": [str(error)]}
            continue
        yield {
            "what": what,
            "manifest": manifest.everything,
            "files": len(manifest.outputs),
            "bytes": sum(entry["size"] for entry in manifest.outputs.values()),
            "damage": find_damage(path.parent, manifest.outputs, content=True),
        }


def _caches(workspace: Workspace) -> Iterator[Verified]:
    """Cached answers. A damaged one would be computed again, but is reported all the same."""
    for folder in sorted((workspace.root / "cache").glob("*/")):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        damage = []
        for path in files:
            if path.name == ANSWERS:
                lines = path.read_bytes().splitlines()
                damage += [
                    f"{path}:{line_index} is damaged" for line_index, line in enumerate(lines, 1) if not read_key(line)
                ]
            elif path.suffix == ".json" and read_checked(path) is None:
                damage.append(f"{path} is damaged: its content is not what was written")
        num_bytes = sum(path.stat().st_size for path in files)
        what = f"cache/{folder.name}"
        yield {"what": what, "manifest": None, "files": len(files), "bytes": num_bytes, "damage": damage}


def _inputs(workspace: Workspace) -> Iterator[Verified]:
    """The user's files that published stages were made from."""
    seen: dict[str, str] = {}
    num_bytes, damage = 0, []
    for path in sorted(workspace.root.glob(f"*/{MANIFEST}")):
        try:
            manifest = read_manifest(path)
        except UserError:
            continue  # reported by `_stages`
        for entry in manifest.files.values():
            if entry["path"] in seen or "://" in entry["path"]:
                continue
            seen[entry["path"]] = entry["xxh128"]
            num_bytes += entry["size"]
            try:
                if file_checksum(from_printable(entry["path"]))["xxh128"] != entry["xxh128"]:
                    damage.append(f"{entry['path']} is not what {manifest.stage} was made from")
            except OSError as error:
                damage.append(f"{entry['path']}: {error.strerror}")
    if seen:
        yield {"what": "inputs", "manifest": None, "files": len(seen), "bytes": num_bytes, "damage": damage}
