"""Who teaches the networks of a job, and what teachers know of its training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.contracts.recovery import Batch, Teacher
from autoprune.data.dataset import Dataset
from autoprune.errors import InputError, ModelError, RunError, suggestion
from autoprune.evaluation.distillation import Distillation, Known
from autoprune.evaluation.inference import BATCH, cast
from autoprune.evaluation.keyed_file import KeyedFile, digest, key_of
from autoprune.evaluation.workbench import Workbench, fingerprint, kept_network, to_layout
from autoprune.job.spec import DistillSpec, Job, ModelSpec
from autoprune.models.catalog import build_model


class Teachers:
    """Teachers of a workbench's networks; those of a job are built once.

    `files` is where weights of trained networks lie, and where logits are kept.
    """

    def __init__(self, bench: Workbench, files: Path | None) -> None:
        self.bench = bench
        self.files = files
        self._built: dict[str, nn.Module] = {}
        self._logits: dict[str, Tensor] = {}

    def of(self, spec: DistillSpec, larger: Teacher | None) -> Known:
        """Return the teacher that `spec` asks for; `larger` is the best larger network.

        Where none is known yet, the dense network teaches: it is larger than all.
        """
        if isinstance(spec.teacher, ModelSpec):
            return Known(self._own(spec.teacher))
        if spec.teacher == "front" and larger is not None:
            return self._larger(larger)
        return Known(self.bench.model)

    def logits(self, spec: DistillSpec) -> Callable[[Batch], Tensor]:
        """Return how to look up a teacher's logits of a batch, float32 (n, classes).

        They are those of the images as they are, or mirrored where the batch has them
        mirrored, whatever else was done to them.
        """
        key = key_of(spec.model_dump(mode="json", include={"teacher"}))
        if key not in self._logits:
            self._logits[key] = self._gathered(self.of(spec, None).network).to(self.bench.device)
        table = self._logits[key]

        def of_batch(batch: Batch) -> Tensor:
            if batch.mirrored is None:
                return table[0].index_select(0, batch.rows)
            return table[batch.mirrored.long(), batch.rows]

        return of_batch

    def _own(self, spec: ModelSpec) -> nn.Module:
        key = key_of(spec.model_dump(mode="json"))
        if key not in self._built:
            model = own_teacher(spec, self.bench.dataset, self.bench.model)
            self._built[key] = to_layout(model, self.bench.device)
        return self._built[key]

    def _larger(self, teacher: Teacher) -> Known:
        """Rebuild a network that was trained before; raises `RunError` if its file is gone."""
        if self.files is None:
            raise RunError("a teacher of the front needs a directory: give the evaluator `files`")
        network = kept_network(self.bench, self.files, teacher.policy, teacher.weights)
        kept = self.bench.plan.kept_entries(teacher.policy)
        return Known(to_layout(network, self.bench.device), kept)

    def _gathered(self, teacher: nn.Module) -> Tensor:
        """Return the logits of a teacher from its file, which the first to come here writes."""
        dataset, is_dense = self.bench.dataset, teacher is self.bench.model
        # That the fast format agrees is known of the dense network alone.
        dtype = self.bench.preparation.dtype if is_dense else torch.float32
        if self.files is None:
            return training_logits(teacher, dataset, dtype)
        data = digest({"inputs": dataset.train.inputs})
        what = {"logits": fingerprint(teacher), "dtype": str(dtype), "data": data}
        file = KeyedFile(self.files, key_of(what))
        kept = file.made_once(lambda: {"logits": training_logits(teacher, dataset, dtype)})
        return kept["logits"]


@torch.no_grad()
def training_logits(teacher: nn.Module, dataset: Dataset, dtype: torch.dtype) -> Tensor:
    """Return float32 logits of all training samples, and of their mirror images where they
    are images, shape (2 or 1, n, classes), on the CPU.
    """
    form, device = cast(teacher, dtype), next(teacher.parameters()).device
    rows: list[Tensor] = []
    for inputs in dataset.train.inputs.split(BATCH):
        plain = dataset.normalise(inputs.to(device)).to(dtype)
        views = (plain, plain.flip(3)) if plain.dim() == 4 else (plain,)
        rows.append(torch.stack([form(each).float().cpu() for each in views]))
    return torch.cat(rows, dim=1)


def own_teacher(spec: ModelSpec, dataset: Dataset, student: nn.Module) -> nn.Module:
    """Build a teacher, on the CPU; raises `ModelError` unless it has the student's outputs."""
    teacher = build_model(spec, dataset.num_classes, dataset.input_shape)
    example = dataset.normalise(dataset.train.inputs[:2])
    device = next(student.parameters()).device
    with torch.inference_mode():
        theirs, own = teacher(example), student(example.to(device))
    if theirs.shape != own.shape:
        raise ModelError(
            f"the teacher {spec.title} gives outputs of shape {tuple(theirs.shape[1:])}, the "
            f"network that it teaches {tuple(own.shape[1:])}: both must tell the same classes "
            "apart; give a teacher trained on this data, or leave 'teacher' out for the dense one"
        )
    return teacher


def check_teacher(job: Job, dataset: Dataset, model: nn.Module) -> None:
    """Check that every rung's teacher can teach the job's dense `model`, layer by layer.

    Raises `ModelError` for a teacher that cannot be built or has other classes, and
    `InputError` for layers that are unknown, with the nearest, or cannot be compared.
    """
    for place, rung in enumerate(job.rungs):
        spec = rung.distill
        if spec is None:
            continue
        try:
            _check(spec, dataset, model)
        except InputError as error:
            raise type(error)(f"rungs.{place}.distill: {error}") from error


def _check(spec: DistillSpec, dataset: Dataset, model: nn.Module) -> None:
    device = next(model.parameters()).device
    teacher = model
    if isinstance(spec.teacher, ModelSpec):
        teacher = own_teacher(spec.teacher, dataset, model).to(device)
    for network in (model, teacher):
        modules = {name: each for name, each in network.named_modules() if name}
        if spec.teacher == "front":
            # Theirs give what the batch norm behind makes of it, once that is folded.
            modules = {x: each for x, each in modules.items() if not isinstance(each, _ConvNd)}
        # Which channels are kept is known where a layer's own weight has them.
        wide = [name for name, each in modules.items() if _has_channels(each)]
        for kind, allowed in (("features", wide), ("attention", [*modules])):
            for name in getattr(spec, kind):
                if name not in allowed:
                    raise InputError(f"{kind} cannot be at {name!r}; {suggestion(name, allowed)}")
    inputs = dataset.normalise(dataset.train.inputs[:2].to(device))
    labels, rows = dataset.train.labels[:2].to(device), torch.arange(2, device=device)
    with Distillation(spec, Known(model), Known(teacher)) as distillation, torch.no_grad():
        distillation.loss(Batch(inputs, labels, rows))


def _has_channels(layer: nn.Module) -> bool:
    has_weight = isinstance(getattr(layer, "weight", None), nn.Parameter)
    return has_weight and not isinstance(layer, _ConvTransposeNd)
