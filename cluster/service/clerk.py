"""The process that judges jobs: `python -m cluster.service.clerk`, a line of JSON for each.

{"raw": JOB, "imports": true}  →  {"job": JOB} or {"violations": [[path, given, rule], …]}

Judging a job imports the plug-ins that it names, and with them torch. With `imports` false only
the job's form is judged: it names what may not be imported.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from autoprune.errors import AutopruneError, JobError
from autoprune.validation import validated


def judged(raw: dict[str, Any], *, imports: bool) -> dict[str, Any]:
    """Return the reply to one job."""
    try:
        return {"job": validated(raw, loads_plugins=imports).to_json()}
    except JobError as error:
        found = [[x.path, _plain(x.given), x.rule] for x in error.violations]
        return {"violations": found}
    except (AutopruneError, RecursionError) as error:
        return {"violations": [["job", None, str(error)]]}


def main(source: TextIO, target: TextIO) -> None:
    """Answer every line of `source` with one line in `target`, until it ends."""
    for line in source:
        request = json.loads(line)
        try:
            reply = judged(request["raw"], imports=request["imports"])
        except Exception as error:  # a plug-in may raise anything; the next job is judged anew
            reply = {"violations": [["job", None, f"a plug-in of this job raises {error!r}"]]}
        target.write(json.dumps(reply) + "\n")
        target.flush()


def _plain(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)
    return value


if __name__ == "__main__":
    # Plug-ins may print; nothing but replies goes to the server.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(sys.stdin, replies)
