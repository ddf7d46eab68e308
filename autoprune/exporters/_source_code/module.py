"""The Python source of a traced network: layers, forward, a loader, and where it comes from.

written = source_of(traced, provenance, stamp)
written.text          # compiles, and needs torch alone
written.tensors       # what belongs beside it, by name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from string import Template
from typing import Any

from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Node

from autoprune.errors import ExportError
from autoprune.exporters._program import Traced
from autoprune.exporters._source_code.flow import Flow
from autoprune.exporters._source_code.forward import forward_lines
from autoprune.exporters._source_code.graph import simplify
from autoprune.exporters._source_code.text import json_lines, plain
from autoprune.exporters._source_code.tree import Tree, is_list

_STAMP = re.compile(r"^PROVENANCE = r'''\n(.*?)\n'''$", re.MULTILINE | re.DOTALL)
_TEMPLATE = Template('''\
"""$title

Use it with the file of weights beside it, which has this file's name and ends in .safetensors:

    network = load()           # a torch.nn.Module, in eval mode
    outputs = network(inputs)  # $inputs -> $outputs

Only torch is needed. `network.train()` prepares it for fine-tuning, and `torch.save`,
`torch.compile` and `state_dict` do what they always do. PROVENANCE, below, is JSON that says
where it comes from; its seal is the SHA-256 of both files.
"""

import json
import math
from pathlib import Path

import torch
$imports

WEIGHTS = Path(__file__).with_suffix(".safetensors")

$parts
class Network($base):
    """$summary"""

    def __init__(self) -> None:
        super().__init__()
$layers

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs $outputs of inputs $inputs."""
$forward


def load(path: str | Path = WEIGHTS) -> Network:
    """Return the network with the weights in a safetensors file, in eval mode."""
    stored = read(path)
    with torch.random.fork_rng(devices=[]):  # layers begin with random weights
        network = Network()
    tensors = dict(network.named_parameters(remove_duplicate=False))
    tensors |= dict(network.named_buffers(remove_duplicate=False))
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in stored.items()}:
        raise ValueError(f"{path} does not hold the weights of this network")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])
    return network.eval()


def read(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raises ValueError for one that is damaged."""
    content = bytearray(Path(path).read_bytes())
    size = int.from_bytes(content[:8], "little")
    if size > len(content) - 8:
        raise ValueError(f"{path} is not a whole safetensors file")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    data = memoryview(content)[8 + size :]
    tensors = {}
    for name, entry in header.items():
        dtype, (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
        count = math.prod(entry["shape"])
        if not 0 <= begin <= end <= len(data) or end - begin != count * dtype.itemsize:
            raise ValueError(f"{path} is damaged: {name} does not lie within it")
        part = torch.frombuffer(data[begin:end], dtype=dtype) if count else torch.empty(0)
        tensors[name] = part.reshape(entry["shape"])
    return tensors


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

PROVENANCE = r\'\'\'
$stamp
\'\'\'
''')
_PARTS = '''\

class Parts(nn.Module):
    """Layers, parameters and buffers that belong together, by name."""

    def __init__(self, /, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

'''


@dataclass(frozen=True)
class Source:
    """A file of Python, and the tensors that belong to it, by name."""

    text: str
    tensors: Mapping[str, Tensor]


def source_of(traced: Traced, provenance: Mapping[str, Any], stamp: str) -> Source:
    """Return a traced network as source, with its JSON `stamp` in it.

    `traced` is changed. Raises `ExportError` for what no source can say.
    """
    simplify(traced.program)
    paths, constants = _tensors(traced)
    tree = Tree(traced.network, constants)
    flow = Flow(traced.program, tree, paths)
    forward = forward_lines(flow, tree)
    layers = tree.lines({path for each in flow.calls.values() for path in each.layers})
    is_functional = any(re.search(r"\bF\.", each) for each in forward)
    functional = ["import torch.nn.functional as F"] if is_functional else []
    has_parts = any("Parts(" in each for each in layers)
    text = _TEMPLATE.substitute(
        title=_title(provenance),
        summary=_summary(provenance, tree),
        inputs=_shape(flow.inputs[0]),
        outputs=_shape(_result(flow.nodes[-1])),
        imports="\n".join([*functional, "from torch import Tensor, nn"]),
        parts=_PARTS if has_parts else "",
        base="nn.Sequential" if is_list(traced.network) else "nn.Module",
        layers="\n".join(layers),
        forward="\n".join(forward),
        stamp="\n".join(json_lines(stamp)),
    )
    return Source(text, tree.tensors())


def stamp_in(text: str) -> str:
    """Return the stamp in a source, without running any of it; "" where there is none."""
    found = _STAMP.search(text)
    return found[1] if found else ""


def _tensors(traced: Traced) -> tuple[dict[Node, str], dict[str, Tensor]]:
    """Return the paths of the tensors that a program reads, by placeholder, and its constants."""
    program, network = traced.program, traced.network
    placeholders = {x.name: x for x in program.graph_module.graph.nodes if x.op == "placeholder"}
    free = (name for name in (f"constant_{x}" for x in count()) if not hasattr(network, name))
    paths: dict[Node, str] = {}
    constants: dict[str, Tensor] = {}
    for each in program.graph_signature.input_specs:
        node = placeholders[each.arg.name]
        if each.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            paths[node] = str(each.target)
        elif each.kind is InputKind.CONSTANT_TENSOR:
            paths[node] = next(free)
            constants[paths[node]] = program.constants[str(each.target)]
        elif each.kind is not InputKind.USER_INPUT:
            raise ExportError(
                f"no Python source can hold what this network reads as {each.target}; "
                "use --to torch"
            )
    return paths, constants


def _result(output: Node) -> Node:
    (results,) = output.args
    if not isinstance(results, tuple) or len(results) != 1 or not isinstance(results[0], Node):
        raise ExportError("this network returns more than its logits; use --to torch")
    return results[0]


def _shape(node: Node) -> str:
    value = node.meta["val"]
    sizes = ", ".join(["n", *map(str, value.shape[1:])])
    kind = str(value.dtype).removeprefix("torch.")
    return f"({sizes}) {kind}"


def _title(provenance: Mapping[str, Any]) -> str:
    job, trial = provenance.get("job"), provenance.get("trial")
    origin = f", trial {plain(trial)} of job {plain(job)}" if job is not None else ""
    return f"{_model(provenance)}, pruned by autoprune{origin}."


def _summary(provenance: Mapping[str, Any], tree: Tree) -> str:
    parameters = {id(each): each.numel() for each in tree.network.parameters()}
    return f"{_model(provenance)} with {sum(parameters.values()):,} parameters."


def _model(provenance: Mapping[str, Any]) -> str:
    spec = provenance.get("model")
    found = (spec.get("name") or spec.get("import")) if isinstance(spec, Mapping) else None
    return plain(found) if found else "A network"
