"""SQLite is refused on file systems of the network, found by the table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import StoreError
from autoprune.store import sqlite
from autoprune.store.filesystem import network_filesystem
from autoprune.store.sql import SqlStore

MOUNTS = [
    ("/", "ext4"),
    ("/nothing", "ext4"),
    ("/nothing/home", "nfs4"),
    ("/nothing/home/me/scratch", "xfs"),
    ("/nothing/home/me/remote", "fuse.sshfs"),
    ("/nothing/hidden", "cifs"),
    ("/nothing/hidden", "tmpfs"),
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nothing/runs/store.sqlite", None),
        ("/nothing/home", "nfs4"),
        ("/nothing/home/store.sqlite", "nfs4"),
        ("/nothing/homes/store.sqlite", None),
        ("/nothing/home/me/scratch/a/store.sqlite", None),
        ("/nothing/home/me/remote/a", "fuse.sshfs"),
        ("/nothing/home/me/scratch/../a", "nfs4"),
        ("/nothing/hidden/a", None),
    ],
)
def test_the_deepest_mount_decides(path: str, kind: str | None) -> None:
    assert network_filesystem(Path(path), MOUNTS) == kind
    assert network_filesystem(Path(path), reversed(MOUNTS[:5])) == (
        None if "hidden" in path else kind
    )


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nothing/home")
    assert network_filesystem(tmp_path / "link" / "a", MOUNTS) == "nfs4"


def test_this_machine_can_hold_a_store(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path) is None


def test_a_store_there_is_read_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    SqlStore(path).close()
    mounts = [(str(tmp_path), "nfs")]
    monkeypatch.setattr(sqlite, "network_filesystem", lambda x: network_filesystem(x, mounts))
    with pytest.raises(StoreError, match=r"network file system \(nfs\).*local directory.*Postgre"):
        SqlStore(path)
    SqlStore(path, read_only=True).close()
