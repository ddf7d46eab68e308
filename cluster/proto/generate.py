"""Generate what is generated here: `python -m cluster.proto.generate`, or `make proto`.

Generated modules import each other by the protocol's package, `autoprune.v1`; here they lie in
`cluster.proto.autoprune.v1`, since `autoprune` is the library itself, so these imports are
rewritten. `released.binpb` is the interface that clients may rely on: it is written only with
`--release`, and a test keeps the protocol compatible with it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent
RELEASED = ROOT / "released.binpb"
_IMPORT = re.compile(r"^(from |import )autoprune\.v1\b", re.MULTILINE)


def sources() -> list[Path]:
    """Return the protocol's files, relative to their root."""
    return sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.proto"))


def generate(target: Path, descriptors: Path) -> list[Path]:
    """Write modules, stubs and a descriptor set; return the modules, relative to `target`."""
    from grpc_tools import protoc

    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    # The well-known types lie beside the compiler.
    roots = [ROOT, Path(protoc.__file__).parent / "_proto"]
    command = ["protoc", *(f"--proto_path={root}" for root in roots), *outputs]
    command += [f"--descriptor_set_out={descriptors}", "--include_imports"]
    if protoc.main([*command, *map(str, sources())]) != 0:
        raise SystemExit("protoc failed")
    written = sorted(path for path in target.rglob("*_pb2*") if path.suffix in (".py", ".pyi"))
    for path in written:
        if path.name.endswith("_pb2_grpc.py") and "Servicer" not in path.read_text():
            path.unlink()  # of a file without a service
        else:
            path.write_text(_IMPORT.sub(r"\1cluster.proto.autoprune.v1", path.read_text()))
    return [path.relative_to(target) for path in written if path.exists()]


def main() -> None:
    """Generate in place."""
    with tempfile.TemporaryDirectory() as directory:
        target, descriptors = Path(directory) / "out", Path(directory) / "set"
        target.mkdir()
        for path in generate(target, descriptors):
            (ROOT / path).write_bytes((target / path).read_bytes())
            print(ROOT / path)
        if "--release" in sys.argv[1:]:
            RELEASED.write_bytes(descriptors.read_bytes())


if __name__ == "__main__":
    main()
