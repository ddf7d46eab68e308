"""Eager PyTorch that skips zeros in layers where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from autoprune.quantization.form import decision_of, quantised_layers
from autoprune.quantization.hooks import hooked, input_of
from autoprune.runtimes import timing
from autoprune.runtimes.remark import MULTIPLIED, Remarks, sparse_layers
from autoprune.runtimes.single_precision import in_single_precision, shared_copy
from autoprune.runtimes.sparse_product import Form, forms, has_kernels
from autoprune.runtimes.timing import Comparison
from autoprune.runtimes.torch_runtime import TorchEager, TorchRunner, evaluating

_ABLE = {
    False: "only linear layers and 2-d convolutions without groups can skip them",
    True: "on a GPU only linear layers of 16 bits with 2:4 kernels can skip them",
}
_CLEARLY = 0.9  # of the time with zeros is what a layer without them may take
_PRECISION, _SECONDS = 0.05, 0.03  # of one comparison


class TorchSparse(TorchEager):
    """Eager PyTorch; layers that single weights left run on sparse kernels where those win.

    On the CPU those may be linear layers and 2-d convolutions without groups, on CUDA linear
    layers of 16 bits with 2:4 kernels. Each is timed with and without its zeros on what it
    reads of the example, and skips them if it then takes a tenth less time; the network does if
    it is faster as a whole. That takes about as long as measuring it. All else, and a network
    without zeros, runs as on `torch`. `compare` is what times one runner beside another.
    """

    skips_zeros = True

    def __init__(
        self, threads: int = 1, *, compare: Callable[..., Comparison] = timing.compare
    ) -> None:
        super().__init__(threads)
        self._compare = compare

    def of_zeros(self, network: nn.Module) -> list[str]:
        """Say which layers may skip zeros, and which do not."""
        able = _able(network)
        said = _unable(network, able)
        for name in able:
            said.add(name, "zeros are skipped where that is faster")
        return said.sentences()

    def build(
        self, network: nn.Module, example: Tensor, samples: Tensor | None = None
    ) -> TorchRunner:
        """Return a runner whose notes say which layers skip zeros, and how much that gains."""
        eager, able = super().build(network, example, samples), _able(network)
        if not able:
            return eager
        twin = shared_copy(in_single_precision(network))
        read, gains = _read(twin, able, eager.example), dict[str, float]()
        said = _unable(network, able)
        for name, in_half in able.items():
            layer = twin.get_submodule(name)
            found = self._best(layer, read.get(name, ()), in_half=in_half)
            if isinstance(found, str):
                said.add(name, f"{found}: no time is saved")
                continue
            form, gains[name] = found
            _run_as(layer, form)
        runner = self._runner(twin, example)
        if not gains or self._share(runner, eager) >= 1.0:
            runner = eager
        for name in gains:
            said.add(name, _gained(gains.values(), are_used=runner is not eager))
        runner.notes = tuple(said.sentences())
        return runner

    def _best(
        self, layer: nn.Module, calls: Sequence[Tensor], *, in_half: bool
    ) -> tuple[Form, float] | str:
        """Return the fastest form of a layer without zeros and what it gains, or why there is none.

        `calls` are what the layer reads, call by call.
        """
        if not calls:
            return "the network reads its kernel past the layer, with zeros"
        shares: list[tuple[float, Form]] = []
        dense = self._alone(layer, layer, calls)
        try:
            for form in forms(layer, in_half=in_half):
                shares.append((self._share(self._alone(layer, form, calls), dense), form))
        except RuntimeError as error:
            return f"no kernels here skip its zeros ({str(error).splitlines()[0]})"
        share, form = min(shares, key=lambda pair: pair[0], default=(1.0, layer))
        return (form, 1.0 / share) if share <= _CLEARLY else "skipping zeros is not clearly faster"

    def _alone(self, layer: nn.Module, form: Form, calls: Sequence[Tensor]) -> TorchRunner:
        """Return a runner of all calls of a layer."""

        def run(_: Tensor) -> Tensor:
            return [form(each) for each in calls][-1]

        return TorchRunner(layer, run, calls[0], self.threads)

    def _share(self, runner: TorchRunner, eager: TorchRunner) -> float:
        """Return the time of a runner as a share of another's; 1 where they may be equal."""
        with eager, runner:
            ratio = self._compare(runner, eager, precision=_PRECISION, seconds=_SECONDS).ratio
        return ratio.value if ratio.high is None or ratio.high < 1.0 else 1.0


def _able(network: nn.Module) -> dict[str, bool]:
    """Return the sparse layers that may skip zeros, and whether they may run in half precision."""
    quantised, found = quantised_layers(network), dict[str, bool]()
    for name, layer in sparse_layers(network).items():
        bits = decision_of(layer) if name in quantised else None
        in_half = bits is not None and bits.weight_bits == bits.activation_bits == 16
        if has_kernels(layer, in_half=in_half):
            found[name] = in_half
    return found


def _unable(network: nn.Module, able: Collection[str]) -> Remarks:
    """Return what is to be said of all other sparse layers."""
    said = Remarks()
    for name, layer in sparse_layers(network).items():
        if name not in able:
            on_gpu = next(layer.parameters()).is_cuda
            said.add(name, f"{MULTIPLIED} ({_ABLE[on_gpu]})")
    return said


def _read(network: nn.Module, names: Collection[str], example: Tensor) -> dict[str, list[Tensor]]:
    """Return what layers read of an example, call by call; of those that are called."""
    found: dict[str, list[Tensor]] = {}

    def note(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.setdefault(name, []).append(input_of(args, kwargs))

    hooks = (
        network.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name in names
    )
    with hooked(hooks), evaluating(network):
        network(example)
    return found


def _run_as(layer: Any, form: Form) -> None:
    """Let a layer compute what it computes by a form of it, in place."""
    layer.forward = form
    # PyTorch's encoder layers read kernels past their layers, unless one of them has a hook.
    layer.register_forward_hook(_is_seen)


def _is_seen(*_: Any) -> None:
    return None


def _gained(gains: Collection[float], *, are_used: bool) -> str:
    """Say how many times as fast layers are without their zeros."""
    low, high = (f"{each:.1f}" for each in (min(gains), max(gains)))
    said = f"without zeros {low if low == high else f'{low} to {high}'} times as fast"
    return said if are_used else f"{said} alone, but not the network: no time is saved"
