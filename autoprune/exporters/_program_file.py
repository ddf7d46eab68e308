"""Files of `torch.export` with a stamp and a seal, and without pickles.

A .pt2 file is a zip, whose members have checksums and whose comment has none. So the seal is the
comment, where its digest can be written last, and the rest of the stamp is a member: a comment
is too short for the groups of a large network.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ExportError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MEMBER = "autoprune.json"
_END = b"PK\x05\x06"  # what a zip ends with: 22 bytes, the last two the length of its comment
_END_SIZE = 22
# Everything that a file of ours holds. Others may hold pickles, which run what they please.
_EXPECTED = re.compile(
    r"archive_(format|version)|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/(weights/weight|constants/tensor)_\d+|data/(weights|constants)/model_\w+_config\.json"
    r"|data/sample_inputs/model\.pt|extra/autoprune\.json"
)


def save(program: ExportedProgram, stamp: str, path: Path) -> None:
    """Write a program and its stamp, the seal in it open."""
    import torch

    body = json.loads(stamp)
    comment = body.pop("seal").encode()
    # Inputs that a program was traced with would be the only pickle in the file.
    program._example_inputs = None
    buffer = io.BytesIO()  # under a path the file would name itself in each of its members
    torch.export.save(program, buffer, extra_files={_MEMBER: json.dumps(body, sort_keys=True)})
    content = buffer.getbuffer()
    assert content[-_END_SIZE:][:4] == _END
    with path.open("wb") as file:
        file.write(content[:-2])
        file.write(struct.pack("<H", len(comment)) + comment)


def load(path: Path) -> ExportedProgram:
    """Return the program in a file; raises `ExportError` for one that is not as we write it."""
    import torch

    try:
        _check_members(path)
        return torch.export.load(path)
    except ExportError:
        raise
    except Exception as error:  # whatever PyTorch says of what it cannot read
        raise _unreadable(path, error) from error


def stamp_of(path: Path) -> str:
    """Return a file's stamp, "" if it has none; raises `ExportError` for what is no zip."""
    try:
        with zipfile.ZipFile(path) as file:
            member = next((x for x in file.namelist() if x.endswith(f"/extra/{_MEMBER}")), None)
            if member is None:
                return ""
            body = json.loads(file.read(member))
            return json.dumps({**body, "seal": file.comment.decode()}, sort_keys=True)
    except Exception as error:  # of damaged files zipfile says so in half a dozen ways
        raise _unreadable(path, error) from error


def _check_members(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        for each in file.infolist():
            name = each.filename.partition("/")[2]
            is_sample = name == "data/sample_inputs/model.pt"
            if not _EXPECTED.fullmatch(name) or (is_sample and each.file_size):
                raise ExportError(f"{path} holds {name}, which autoprune does not write")
            if name.endswith("_config.json") and _has_pickle(json.loads(file.read(each))):
                raise ExportError(f"{path} holds pickles, which autoprune does not load")


def _has_pickle(config: dict[str, Any]) -> bool:
    return any(each.get("use_pickle") is not False for each in config["config"].values())


def _unreadable(path: Path, error: Exception) -> ExportError:
    return ExportError(f"cannot read {path} as a program of torch.export: {error}")
