"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """Signs certificates; its own is at `path`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "ca.pem"
        self._key = directory / "ca.key"
        subject = ["-subj", "/CN=tests", "-keyout", str(self._key), "-out", str(self.path)]
        _openssl("req", "-x509", *_NEW_KEY, *subject, "-days", "2")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a host, or for somebody, and of its key."""
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
        signed = ["-CA", str(self.path), "-CAkey", str(self._key), "-days", "2"]
        _openssl("req", "-x509", *_NEW_KEY, *names, *signed, "-keyout", str(key), "-out", str(cert))
        return cert, key


_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
