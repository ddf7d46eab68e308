"""Running a network once and feeding what it does to the rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.errors import ModelError
from autoprune.tracing.example import Example, call, tensors_of
from autoprune.tracing.flow import Flow
from autoprune.tracing.modules import MODULE_RULES
from autoprune.tracing.rules import Rule, find_rule, unknown
from autoprune.tracing.trace import Call, Passage, Trace

COARSE_S = 20.0
"""Seconds after which nothing more is labelled: what follows stays whole."""
LIMIT_S = 60.0
"""Seconds after which a run is given up."""

_VALUE_READS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
)
_FLOAT_INPUT, _WHOLE_INPUT, _PARAMETER = 1, 2, 4


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and restore each one's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    # Through training: what modules have kept from earlier evaluations is let go.
    model.train()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def record(model: nn.Module, example: Example, *, couples: bool = False) -> tuple[Trace, Flow]:
    """Run `model` on `example` once and return what was seen.

    Raises `ModelError` when the model does not run, reads the values that it computes, or
    takes longer than `LIMIT_S`.
    """
    inputs = [each for each in tree_leaves(example) if isinstance(each, Tensor)]
    batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
    trace = Trace(model, batch=batch, couples=couples)
    recorder = _Recorder(trace, inputs)
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        # Fused kernels hide what they do: attention and encoder layers run step by step.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(without_fast_path())
        stack.enter_context(_hooks(model, recorder))
        stack.enter_context(recorder)
        outputs = call(model, example)
    results = tensors_of(outputs)
    if not results:
        raise ModelError(
            f"the model returns no floating-point tensor (it returns a {type(outputs).__name__}); "
            "return logits, alone or among other values"
        )
    recorder.flow.finish(results)
    for each in results:
        for ids in trace.get(each):
            if ids is not None:
                trace.ties.freeze(ids, "it makes the network's output")
    return trace, recorder.flow


class _Recorder(TorchDispatchMode):
    """Calls a rule for every operation, and watches the clock and the flow of values."""

    def __init__(self, trace: Trace, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.opaque = 0
        self.flow = Flow(inputs)
        self._start = time.monotonic()
        self._taint = {id(each): _PARAMETER for each in trace.tensors.values()}
        for each in inputs:
            self._taint[id(each)] = _FLOAT_INPUT if each.is_floating_point() else _WHOLE_INPUT
        self._kept: list[object] = list(inputs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and apply its rule."""
        elapsed = time.monotonic() - self._start
        if elapsed > LIMIT_S:
            raise ModelError(
                f"tracing was given up after {elapsed:.0f} s, in {self.trace.where}; "
                "try a smaller example input"
            )
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        rule = find_rule(name, func)
        if rule is None and not self.opaque and (steps := _decomposition(func)) is not None:
            with self:
                return steps(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        call = Call(name, _by_name(func, args, kwargs or {}), result)
        self._follow_values(call)
        self.flow.note(call, self.trace.path[-1])
        if not self.opaque:
            coarse = elapsed > COARSE_S
            self._apply(unknown if coarse or rule is None else rule, call)
        return result

    def _apply(self, rule: Rule, call: Call) -> None:
        try:
            rule(self.trace, call)
        except Exception:  # a form that the rule does not foresee is one without a rule
            unknown(self.trace, call)

    def _follow_values(self, call: Call) -> None:
        taint = 0
        for each in call.inputs:
            taint |= self._taint.get(id(each), 0)
            self.trace.reads(each)
        reads_computed = taint & _FLOAT_INPUT or (taint & _WHOLE_INPUT and taint & _PARAMETER)
        if reads_computed and (call.name in _VALUE_READS or _picks_by_mask(call)):
            raise ModelError(
                f"the forward pass depends on the values of its data: {self.trace.where} reads "
                f"them (aten.{call.name}); a network must do the same for every input"
            )
        for each in call.outputs:
            self._taint[id(each)] = taint | self._taint.get(id(each), 0)
            self._kept.append(each)
        if call.name == "_pack_padded_sequence":
            # The batch sizes follow from the lengths alone.
            self._taint[id(call.outputs[1])] = self._taint.get(id(call["lengths"]), 0)


def _picks_by_mask(call: Call) -> bool:
    """Say whether an operation picks as many entries as a mask has true ones."""
    masks = (torch.bool, torch.uint8)
    return call.name == "index" and any(
        each is not None and each.dtype in masks for each in call["indices"]
    )


def _by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [each.name for each in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _decomposition(func: Any) -> Callable[..., Any] | None:
    """Return how PyTorch itself writes an operation in simpler ones, if it does."""
    from torch._decomp import decomposition_table

    return decomposition_table.get(func)


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let attention run step by step."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _hooks(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Keep track of the running module, and hand whole modules to their own rules."""
    names = {module: name for name, module in model.named_modules()}
    trace = recorder.trace

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        trace.path.append(names[module])
        trace.called.add(names[module])
        given = (*args, *kwargs.values())
        trace.given.append(next((each for each in given if isinstance(each, Tensor)), None))
        recorder.opaque += type(module) in MODULE_RULES

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if type(module) in MODULE_RULES:
            recorder.opaque -= 1
            if not recorder.opaque:
                MODULE_RULES[type(module)](trace, module, args, kwargs, output)
        elif not recorder.opaque:
            _note_passage(trace, module, args, output)
        recorder.flow.returned(names[module], output)
        trace.path.pop()
        trace.given.pop()

    handles = []
    for module in names:
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_passage(trace: Trace, module: nn.Module, args: Sequence[Any], output: Any) -> None:
    """Note what goes through a user's module that writes out sizes but holds no tensors."""
    path = trace.path[-1]
    if (
        not module._modules
        and not module._parameters
        and not module._buffers
        and not type(module).__module__.startswith("torch.nn.")
        and any(use.module == path for use in trace.sizes)
        and len(args) == 1
        and isinstance(args[0], Tensor)
        and isinstance(output, Tensor)
    ):
        # A module that runs twice has no single width to go back to.
        twice = path in trace.passages
        passage = Passage(path, trace.get(args[0]), trace.get(output))
        trace.passages[path] = None if twice else passage
