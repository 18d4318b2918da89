"""Which file systems are no disk of this machine."""

import os
import re
from contextlib import suppress
from pathlib import Path

_NETWORK = (
    *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "pvfs2", "orangefs"),
    *("wekafs", "panfs", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.gcsfuse", "fuse.mount-s3"),
    *("fuse.rclone", "fuse.goofys", "fuse"),
)
"""Locks, times of use and bandwidth are shared with other machines there. Plain fuse is Mountpoint for S3, or an older gcsfuse."""
_ESCAPE = re.compile(rb"\\([0-7]{3})")
"""A byte of a path that would end a word or a line."""
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, *, mounts: Path = _MOUNTS) -> str:
    """The kind of the network's file system that a path is on, as Linux names it; "" for a disk, and where that is not known."""
    kind, longest = "", -1
    real = os.path.realpath(path)
    with suppress(OSError):
        for line in filter(None, mounts.read_bytes().split(b"\n")):
            place, its_kind = line.split(b" ")[4], line.partition(b" - ")[2].split(b" ")[0].decode()
            point = os.fsdecode(_ESCAPE.sub(lambda escape: bytes([int(escape[1], 8)]), place))  # the kernel knows paths as bytes
            is_above = real == point or real.startswith(point.rstrip("/") + "/")
            if is_above and len(point) >= longest:  # of several at one place, the last is on top
                kind, longest = its_kind, len(point)
    return kind if kind in _NETWORK else ""
