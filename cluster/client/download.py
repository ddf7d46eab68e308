"""Files on their way: written beside their places, checked, and only then given their names.

with Download(Path("knee.xml")) as download:
    while download.missing:               # the main file, then those beside it
        download.begin(header)
        download.write(chunk)             # download.missing.offset bytes are there
    download.finished()                   # an Exported; otherwise nothing is left behind
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from autoprune.contracts.exported import Exported
from autoprune.errors import ExportError, ServiceError
from cluster.proto.autoprune.v1.front_service_pb2 import ExportHeader

_COMPANION = re.compile(r"\.[A-Za-z0-9_]{1,20}")


class Part:
    """One file: `offset` bytes of it are there, `header` says what is to come.

    `companion` is the ending by which it is asked for, "" for the main file. Raises
    `ExportError` where `place` is taken or cannot be written.
    """

    def __init__(self, place: Path, companion: str = "") -> None:
        _check_free(place)
        self.place = place
        self.companion = companion
        self.header: ExportHeader | None = None
        self.offset = 0
        self._path = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        self._hash = hashlib.sha256()
        try:
            self._file = self._path.open("xb")
        except OSError as error:
            raise ExportError(f"cannot write {place}: {error.strerror}") from error

    @property
    def is_whole(self) -> bool:
        """Say whether every byte is there."""
        return self.header is not None and self.offset == self.header.size_bytes

    def close(self) -> None:
        """Remove what is there, unless it has got its name."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Write what comes next."""
        size = self.header.size_bytes if self.header else 0
        if self.offset + len(chunk) > size:
            raise ServiceError(f"the server sent more than the {size} bytes that it announced")
        try:
            self._file.write(chunk)
        except OSError as error:
            raise ExportError(f"cannot write {self.place}: {error.strerror}") from error
        self._hash.update(chunk)
        self.offset += len(chunk)

    def restart(self) -> None:
        """Forget what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._hash, self.offset, self.header = hashlib.sha256(), 0, None

    def settle(self) -> None:
        """Check the file and put it on disk."""
        if self.header is None or self._hash.hexdigest() != self.header.sha256:
            raise ServiceError(f"{self.place.name} arrived damaged; nothing was kept: try again")
        self._file.flush()
        os.fsync(self._file.fileno())
        _check_free(self.place)

    def publish(self) -> None:
        """Give the file its name."""
        self._path.rename(self.place)


class Download:
    """Takes files in, the main one first; `trial` is whose they are, once the server has said it.

    Raises `ExportError` where a file of `path` is there, its directory is missing, or cannot be
    written.
    """

    def __init__(self, path: Path) -> None:
        _check_free(path)
        if not path.parent.is_dir():
            raise ExportError(f"directory {path.parent} does not exist; create it first")
        self.trial: int | None = None
        self._main = Part(path)
        self._others: list[Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for each in (self._main, *self._others):
            each.close()

    @property
    def missing(self) -> Part | None:
        """The first file of which something is missing; None where all are whole."""
        return next((each for each in (self._main, *self._others) if not each.is_whole), None)

    def begin(self, header: ExportHeader) -> bool:
        """Take in what is said of the missing file; False: the server has made the files anew
        meanwhile, and all begins anew.
        """
        part = self.missing
        assert part is not None, "nothing is missing"
        self.trial = header.trial
        is_first = self._main.header is None
        is_same = part.header is None or part.header.sha256 == header.sha256
        if self._main.header and self._main.header.export_sha256 != header.export_sha256:
            is_same = False
        if not is_same:
            self._restart()
            return False
        part.header = header
        if is_first:
            for each in header.companions:  # those before one that is taken are removed as well
                self._others.append(Part(self._place(each), each))
        return True

    def write(self, chunk: bytes) -> None:
        """Write what comes next of the missing file."""
        part = self.missing
        if part is None:
            raise ServiceError("the server sent more than the bytes that it announced")
        part.write(chunk)

    def finished(self) -> Exported:
        """Check the files, put them on disk, and give them their names, the main one last."""
        parts = [*self._others, self._main]
        published: list[Part] = []
        try:
            for each in parts:
                each.settle()
            for each in parts:
                each.publish()
                published.append(each)
        except OSError as error:
            for each in published:
                each.place.unlink(missing_ok=True)
            raise ExportError(f"cannot write {self._main.place}: {error.strerror}") from error
        header = self._main.header
        assert header is not None, "a settled file has a header"
        others = tuple(each.place for each in self._others)
        size = sum(each.offset for each in parts)
        return Exported(self._main.place, size, header.max_error, header.unit, others)

    def _place(self, companion: str) -> Path:
        """Return where a companion goes; raises where it cannot be one."""
        if not _COMPANION.fullmatch(companion):
            raise ServiceError(f"the server named a file {companion!r}, which is no ending")
        place = self._main.place.with_suffix(companion)
        if place in (self._main.place, *(each.place for each in self._others)):
            raise ExportError(
                f"{place} is the name of a file beside the exported one; give that another ending"
            )
        return place

    def _restart(self) -> None:
        for each in self._others:
            each.close()
        self._others.clear()
        self._main.restart()


def _check_free(path: Path) -> None:
    if path.exists():
        raise ExportError(f"{path} exists already; name another file or remove it")
