"""Which file systems are no disk of this machine."""

import os
from contextlib import suppress
from pathlib import Path

_NETWORK = (
    *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "pvfs2", "orangefs"),
    *("wekafs", "panfs", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.gcsfuse", "fuse.mount-s3"),
)
"""Locks, times of use and bandwidth are shared with other machines there."""
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, *, mounts: Path = _MOUNTS) -> str:
    """The kind of the network's file system that a path is on, as Linux names it; "" for a disk, and where that is not known."""
    kind, longest = "", -1
    real = os.path.realpath(path)
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            point, its_kind = line.split()[4].encode().decode("unicode_escape"), line.partition(" - ")[2].split()[0]
            is_above = real == point or real.startswith(point.rstrip("/") + "/")
            if is_above and len(point) >= longest:  # of several at one place, the last is on top
                kind, longest = its_kind, len(point)
    return kind if kind in _NETWORK else ""
