"""Where a file lies: on this machine's disks, or on a file system of the network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "afpfs", "9p"),
        *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "gfs2", "ocfs2", "pvfs2"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
    }
)


def network_filesystem(path: Path, mounts: Iterable[tuple[str, str]] | None = None) -> str | None:
    """Return the kind of the network file system that `path` lies on; None for a local one.

    `mounts` holds directories and the kinds of what is mounted there (default: this
    machine's); of two mounts on one directory the later one hides the earlier.
    """
    if mounts is None:
        mounts = [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    real, found, kind = path.resolve(), -1, ""
    for directory, fstype in mounts:
        mounted = Path(directory)
        if real.is_relative_to(mounted) and len(mounted.parts) >= found:
            found, kind = len(mounted.parts), fstype
    return kind if kind in _NETWORK else None
