"""What a Python process of braid's may import: nobody's working directory, user site or relative path decides it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import site
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""What braid's packages are imported from here."""
PACKAGES = ("data_pipeline", "model", "orchestrator")
"""Those of a worker."""


def own_python(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of such a process: braid is found where this process found it, and absolute entries of PYTHONPATH come after it.

    The user site counts only where braid itself is installed there. The process must not begin with `python -m` without -P.
    """
    installed = _installed_in()
    entries = [str(ROOT)] if installed != ROOT else []
    entries += [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry) and entry not in entries]
    kept = {name: value for name, value in inherited.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    kept["PYTHONSAFEPATH"] = "1"
    if entries:
        kept["PYTHONPATH"] = os.pathsep.join(entries)
    if installed != Path(site.getusersitepackages()).resolve():
        kept["PYTHONNOUSERSITE"] = "1"
    return kept


def code_stamp(root: Path = ROOT) -> str:
    """Another one once a source file of a worker is another, by its time and size: who has imported the one before is outdated."""
    found: list[tuple[str, int, int]] = []
    for package in PACKAGES:
        for folder, _, names in os.walk(root / package):
            for path in (os.path.join(folder, name) for name in names if name.endswith(".py")):
                with suppress(OSError):  # it is being replaced: then the next look differs
                    status = os.stat(path)
                    found.append((path, status.st_mtime_ns, status.st_size))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


def _installed_in() -> Path | None:
    """The folder of packages that braid is installed in, maybe as a link to its source; None where it is not."""
    try:
        return Path(str(importlib.metadata.distribution("braid").locate_file(""))).resolve()
    except importlib.metadata.PackageNotFoundError:
        return None
