"""HTTP/2 by hand, for what no gRPC client sends: headers of any bytes, and calls cut short."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def greeting() -> bytes:
    """Return what a client sends first."""
    return PREFACE + frame(_SETTINGS, 0, 0, b"")


def headers(path: str, more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the headers of a gRPC call, each a literal that is not indexed."""
    given = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]
    body = b"".join(b"\0" + _string(name) + _string(value) for name, value in given)
    return frame(_HEADERS, _END_HEADERS, 1, body)


def message(body: bytes) -> bytes:
    """Return the one message of a call, and its end."""
    return frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(body)) + body)


def answer(connection: socket.socket) -> bytes:
    """Return everything that comes until the call, or the connection, is over."""
    found = b""
    while not _is_over(found):
        part = connection.recv(2**16)
        if not part:
            break
        found += part
    return found


def _is_over(received: bytes) -> bool:
    while len(received) >= 9:
        size = int.from_bytes(received[:3])
        kind, flags = received[3], received[4]
        stream = int.from_bytes(received[5:9])
        if stream == 1 and kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            return True
        received = received[9 + size :]
    return False


def _string(value: bytes) -> bytes:
    """Return a string as HPACK has it without Huffman's code."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, size = len(value) - 127, b"\x7f"
    while rest >= 128:
        size += bytes([rest % 128 + 128])
        rest //= 128
    return size + bytes([rest]) + value
