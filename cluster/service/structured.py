"""The server's log: one JSON object a line, on standard error.

{"time": "2026-11-22T03:00:00.123+00:00", "level": "INFO", "logger": "autoprune.service",
 "message": "call", "method": "QueryFront", "code": "OK", "ms": 1.2, …}
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

# Whatever else goes wrong, no token and no password of a URL is written anywhere. Bounded, since a
# long text would take minutes otherwise.
_SECRET = re.compile(
    r"(autoprune_[a-z0-9-]{1,63}_)[A-Za-z0-9_-]{20,}|(://[^/\s:@]{0,256}:)[^@\s]{1,256}(?=@)"
)


class JsonLines(logging.Formatter):
    """Formats a record, with the fields that it was given as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(line))


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write everything that is logged from now on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what gRPC says of headers that are no text: it shows them, and one holds the token.

    And of a client that went away while it was answered, which is no error of the server.
    """
    return not str(record.msg).startswith(("Invalid encoding on", "ExecuteBatchError raised"))


def without_secrets(text: str) -> str:
    """Return a text in which tokens and passwords of URLs are hidden."""
    return _SECRET.sub(lambda found: f"{found[1] or found[2]}***", text)
