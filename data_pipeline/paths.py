"""Paths as people write them. Imports nothing."""

from pathlib import Path


class HomeUnknown(Exception):
    """A path begins with `~` where nobody can say which directory that is."""


def expanded(path: str) -> Path:
    """An absolute path. Raises HomeUnknown."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        home = path.partition("/")[0]
        raise HomeUnknown(
            f"{path}: nobody knows a home directory for {home}; set HOME, or give absolute paths (BRAID_HOME, --storage)"
        ) from error
