"""2:4 sparsity as tensor cores read it; checked by unpacking, by ours and by PyTorch's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autoprune.contracts.exporter import Candidate, PolicyExporter
from autoprune.errors import ExportError
from autoprune.seal import check_seal

if TYPE_CHECKING:
    from torch import Tensor, nn

# PyTorch's `_DTYPE_SHAPE_CONSTRAINTS` for 16 bits, and what NVIDIA's ASP passes over otherwise.
ROWS, COLUMNS = 32, 64
_OUTPUTS, _INPUTS = 8, 16
_SHOWN = 12
_LAYOUT = (
    "NAME.weight.packed (m, k/2) and NAME.weight.meta, int16 (m, k/16), are `packed` and `meta` of "
    "torch.sparse.SparseSemiStructuredTensorCUTLASS for the matrix (m, k) of a kernel in `dtype`: "
    "weight.movedim(1, -1).flatten(1), so (outputs, inputs) of linear layers and (outputs, "
    "height x width x inputs) of convolutions. Two of every four consecutive inputs are stored; "
    "places have 2 bits, words lie as CUTLASS's reorder_meta and ColumnMajorInterleaved<2> put "
    "them. All other tensors are the plain state of the network."
)


class SemiStructured(PolicyExporter):
    """Safetensors file of a network some of whose kernels have 2:4 zeros, in both forms.

    The plain state is there in full, for TensorRT, cuSPARSELt or
    `torch.sparse.to_sparse_semi_structured`, which compress by themselves. Beside it lie, for
    linear layers and convolutions with at most two non-zeros in every four consecutive inputs,
    the packed values in `dtype` and their places, so that on a GPU

        SparseSemiStructuredTensorCUTLASS(shape, packed, meta, None, None, None)

    is a linear layer's weight. `semi_structured` in the header tells which layers, and why each
    other one stays dense; `layout` how entries lie. It writes zeros that are there:
    those of policies that ask for 2:4, or of a training of one's own.
    """

    suffix: ClassVar[str] = ".safetensors"

    def __init__(self, *, dtype: Literal["float16", "bfloat16"] = "float16") -> None:
        self._dtype = dtype

    def write(self, source: Candidate, path: Path) -> None:
        """Write the state, the packed kernels, and in the header how they lie.

        Raises `ExportError` for a quantised network, for one without a single 2:4 layer, and
        for kernels beyond the range of the number format.
        """
        from safetensors.torch import save_file

        from autoprune.exporters._two_four import packed

        matrices, dense = self._split(source.network)
        tensors = _state(source.network)
        for name, matrix in matrices.items():
            values, meta = packed(matrix)
            tensors |= {f"{name}.weight.packed": values, f"{name}.weight.meta": meta}
        header = {
            "autoprune": self.stamped(source.provenance),
            "semi_structured": json.dumps(self._contents(matrices, dense)),
            "layout": _LAYOUT,
        }
        save_file(tensors, path, metadata=header)

    def check(self, source: Candidate, path: Path) -> float:
        """Unpack everything, compare it bit for bit, and hold it against PyTorch's conversion."""
        from safetensors import SafetensorError, safe_open

        check_seal(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                contents = json.loads((file.metadata() or {}).get("semi_structured", "null"))
        except (OSError, ValueError, SafetensorError) as error:
            raise ExportError(f"cannot read {path}: {error}") from error
        matrices, dense = self._split(source.network)
        state = _state(source.network)
        extra = {f"{name}.weight.{part}" for name in matrices for part in ("packed", "meta")}
        if found.keys() != state.keys() | extra or contents != self._contents(matrices, dense):
            raise ExportError(f"{path.name} does not hold the layers of this network")
        wrong = [name for name, each in state.items() if not _is_same(found[name], each)]
        for name, matrix in matrices.items():
            parts = found[f"{name}.weight.packed"], found[f"{name}.weight.meta"]
            if not _is_packed(matrix, *parts):
                wrong.append(f"{name}.weight (packed)")
        if wrong:
            raise ExportError(f"{path.name}: not what was to be written: {', '.join(wrong)}")
        return 0.0

    def _contents(self, matrices: dict[str, Tensor], dense: dict[str, str]) -> dict[str, Any]:
        layers = {name: list(each.shape) for name, each in matrices.items()}
        return {"dtype": self._dtype, "layers": layers, "dense": dense}

    def _split(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the matrices of 2:4 layers by name, and why the others are none."""
        from autoprune.quantization.form import quantised_layers

        quantised = quantised_layers(network)
        if quantised:
            raise ExportError(
                f"2:4 kernels are written in {self._dtype}, and layers {_listed(quantised)} have "
                "fewer than 32 bits; use --to onnx_int8, or a policy without bits"
            )
        matrices: dict[str, Tensor] = {}
        dense: dict[str, str] = {}
        for name, layer in _layers(network):
            matrix = self._matrix(name, layer)
            if isinstance(matrix, str):
                dense[name] = matrix
            else:
                matrices[name] = matrix
        if not matrices:
            reasons = "; ".join(f"{name!r}: {why}" for name, why in list(dense.items())[:_SHOWN])
            raise ExportError(
                "no layer of this network can be written in 2:4 form, which is at most 2 "
                f"non-zeros in every 4 consecutive inputs: {reasons or 'it has no kernels'}. "
                "Policies cannot ask for it: zero the two smallest of every four (NVIDIA's ASP "
                "does) and train on, or use --to torch"
            )
        return matrices, dense

    def _matrix(self, name: str, layer: Any) -> Tensor | str:
        """Return the kernel of a layer as a 2:4 matrix in the number format, or why it is none."""
        import torch

        from autoprune.exporters._two_four import share_that_fits
        from autoprune.surgery.sparsify import matrix_of

        kernel = layer.weight.detach().cpu()
        outputs, inputs = kernel.shape[:2]
        if getattr(layer, "groups", 1) != 1:
            return f"it is a convolution in {layer.groups} groups"
        if inputs % 4:
            return f"its {inputs} inputs are not divided by 4"
        matrix = matrix_of(kernel)
        share = share_that_fits(matrix)
        if share < 1.0:
            return f"{100 * share:.1f} % of its blocks of 4 fit"
        rows, columns = matrix.shape
        if rows % ROWS or columns % COLUMNS:
            return f"its matrix {rows}×{columns} is no multiple of {ROWS}×{COLUMNS} (PyTorch)"
        if outputs % _OUTPUTS or inputs % _INPUTS:
            return f"{outputs}×{inputs} channels are no multiple of {_OUTPUTS}×{_INPUTS} (NVIDIA)"
        # Adding zero makes one zero of both, so that bits can be compared.
        half = matrix.to(getattr(torch, self._dtype)) + 0.0
        if not bool(half.isfinite().all()):
            raise ExportError(f"the kernel of {name!r} is beyond {self._dtype}; use bfloat16")
        return half


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers with a kernel of their own that NVIDIA's ASP would look at, by name."""
    from torch import nn

    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    named = network.named_modules()
    return [
        (x, each) for x, each in named if isinstance(each, kinds) and "weight" in each._parameters
    ]


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state; copies, since the format refuses tensors that share memory."""
    state = network.state_dict().items()
    return {name: each.detach().cpu().clone().contiguous() for name, each in state}


def _is_packed(matrix: Tensor, values: Tensor, meta: Tensor) -> bool:
    """Say whether a packed form is that of a matrix, by our own reading and by PyTorch's."""
    from torch.sparse import _semi_structured_conversions as theirs

    from autoprune.exporters._two_four import unpacked

    rows, columns = matrix.shape
    if values.shape != (rows, columns // 2) or meta.shape != (rows, columns // 16):
        return False
    expected_values, expected_meta = theirs.sparse_semi_structured_from_dense_cutlass(matrix)
    return (
        _is_same(unpacked(values, meta), matrix)
        and _is_same(theirs.sparse_semi_structured_to_dense_cutlass(values, meta), matrix)
        and _is_same(values, expected_values)
        and _is_same(meta, expected_meta)
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors are equal bit for bit."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    pair = (each.contiguous().flatten().view(torch.uint8) for each in (one, other))
    return torch.equal(*pair)


def _listed(names: dict[str, Any]) -> str:
    shown = ", ".join(map(repr, list(names)[:_SHOWN]))
    return shown + (", …" if len(names) > _SHOWN else "")
