"""Peak memory of a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn


IN_FLOATS = "of the rounded network in float32; whole numbers take less"


class Memory(Objective):
    """Peak bytes alive during one forward pass: weights and buffers, and activations.

    Activations are everything that is no weight: the input, and what operations make, from
    their making until the network lets go of it; views share the bytes of what they show. On
    the CPU the storages of the tensors are counted, so it is exact; what an operation needs
    only while it runs stays out. On CUDA it is what PyTorch's allocator had given out at most
    (in blocks of 512 bytes), the working space of its libraries included.

    Args:
        batch: samples per pass, copies of one.
    """

    name: ClassVar[str] = "memory_bytes"
    unit: ClassVar[str] = "bytes"
    stage: ClassVar[Stage] = Stage.NETWORK

    def __init__(self, *, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError("batch must be at least 1")
        self.batch = batch

    def measure(self, subject: Subject) -> Measurement:
        """Run the network once on the first sample (on CUDA, once more before that)."""
        import torch

        from autoprune.objectives._memory_storages import Storages, bytes_of
        from autoprune.quantization.form import quantised_layers

        assert subject.network is not None
        assert subject.example is not None
        network = subject.network
        inputs = torch.cat([subject.example[:1]] * self.batch)
        held = [*network.parameters(), *network.buffers()]
        weights = bytes_of(held)
        with torch.no_grad():
            if inputs.is_cuda:
                activations = _allocated(network, inputs)
            else:
                with Storages(held) as storages:
                    storages.count(inputs)
                    network(inputs)
                activations = storages.peak
        parts = {"weights": weights, "activations": activations}
        return Measurement(
            float(weights + activations),
            note=IN_FLOATS if quantised_layers(network) else "",
            parts={name: Measurement(float(each)) for name, each in parts.items()},
        )


def _allocated(network: nn.Module, inputs: Tensor) -> int:
    """Return the bytes of the input and of all that a pass allocates on the GPU, at the peak."""
    import torch

    network(inputs)  # libraries take their working space at the first pass and keep it
    torch.cuda.synchronize(inputs.device)
    torch.cuda.reset_peak_memory_stats(inputs.device)
    before = torch.cuda.memory_allocated(inputs.device)
    network(inputs)
    torch.cuda.synchronize(inputs.device)
    grown = torch.cuda.max_memory_allocated(inputs.device) - before
    return int(grown + inputs.untyped_storage().nbytes())
