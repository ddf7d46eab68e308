"""A file on its way: written beside its place, checked, and only then given its name.

with Download(Path("knee.onnx")) as download:
    download.begin(header)
    download.write(chunk)                 # download.offset bytes are there
    download.finished()                   # an Exported; otherwise nothing is left behind
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from autoprune.contracts.exporter import Exported
from autoprune.errors import ExportError, ServiceError
from cluster.proto.autoprune.v1.front_service_pb2 import ExportHeader


class Download:
    """Takes a file in; `offset` bytes of it are there, `header` says what is to come.

    Raises `ExportError` where `path` is taken, its directory is missing, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        _check_free(path)
        if not path.parent.is_dir():
            raise ExportError(f"directory {path.parent} does not exist; create it first")
        self.header: ExportHeader | None = None
        self.offset = 0
        self._path = path
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        self._hash = hashlib.sha256()
        try:
            self._file = self._part.open("xb")
        except OSError as error:
            raise ExportError(f"cannot write {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    @property
    def is_whole(self) -> bool:
        """Say whether every byte is there."""
        return self.header is not None and self.offset == self.header.size_bytes

    def begin(self, header: ExportHeader) -> bool:
        """Take in what is said of the file; False: it is another one, and all begins anew."""
        is_same = self.header is None or self.header.sha256 == header.sha256
        if not is_same:
            self._file.seek(0)
            self._file.truncate()
            self._hash, self.offset = hashlib.sha256(), 0
        self.header = header
        return is_same

    def write(self, chunk: bytes) -> None:
        """Write what comes next."""
        size = self.header.size_bytes if self.header else 0
        if self.offset + len(chunk) > size:
            raise ServiceError(f"the server sent more than the {size} bytes that it announced")
        try:
            self._file.write(chunk)
        except OSError as error:
            raise ExportError(f"cannot write {self._path}: {error.strerror}") from error
        self._hash.update(chunk)
        self.offset += len(chunk)

    def finished(self) -> Exported:
        """Check the file, put it on disk, and give it its name."""
        header = self.header
        if header is None or self._hash.hexdigest() != header.sha256:
            raise ServiceError(f"{self._path.name} arrived damaged; nothing was kept: try again")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            _check_free(self._path)
            self._part.rename(self._path)
        except OSError as error:
            raise ExportError(f"cannot write {self._path}: {error.strerror}") from error
        return Exported(self._path, header.size_bytes, header.max_error, header.unit)


def _check_free(path: Path) -> None:
    if path.exists():
        raise ExportError(f"{path} exists already; name another file or remove it")
