"""Recovery of candidates: what a rung's recipe is given to train with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autoprune import plugins
from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Batch, Recovery, Teacher, Training
from autoprune.errors import NonFiniteError
from autoprune.evaluation.batches import Batches
from autoprune.evaluation.checkpoint import FileCheckpoint
from autoprune.evaluation.distillation import Distillation, Known
from autoprune.evaluation.keyed_file import KeyedFile, key_of
from autoprune.evaluation.teachers import Teachers
from autoprune.evaluation.workbench import Workbench, fingerprint
from autoprune.job.spec import PluginSpec, RungSpec
from autoprune.policy import Policy
from autoprune.surgery.removal import Removal
from autoprune.surgery.sparsify import Sparsity


def training_steps(rung: RungSpec, samples: int) -> int:
    """Return how many steps a rung's recovery takes on `samples` training samples."""
    if rung.finetune_epochs is not None:
        return rung.finetune_epochs * math.ceil(samples / rung.batch_size)
    return rung.finetune_steps or 0


def recovery_of(policy: Policy, rung: RungSpec) -> PluginSpec:
    """Return the recovery that a policy names, or that of the rung.

    One that is not the rung's has the options that it has by itself.
    """
    named = policy.recipe.recovery
    return rung.recovery if named in (None, rung.recovery.name) else PluginSpec(name=named)


def obstacle(kind: type[Recovery], policy: Policy, rung: RungSpec, path: str = "") -> str | None:
    """Return what a recovery does that does not go with a policy at a rung; None where it goes.

    `path` is where the keys of the rung stand in the job, as `rungs.1.`.
    """
    if not kind.begins_dense:
        return None
    if policy.is_sparse or policy.factorises or policy.recipe.pruning_net is not None:
        return (
            "trains the dense network before units leave, and more than units leave here, by "
            "weights, by rank, or by generated kernels"
        )
    if rung.quantize_aware == "lsq":
        return (
            f"trains the dense network, and {path}quantize_aware: lsq learns steps of the "
            "carved one; without it the network is rounded afterwards"
        )
    return None


class Recoveries:
    """Trains candidates of a workbench as their rungs say.

    `files` is where checkpoints go, and where teachers lie; without it there are none.
    """

    def __init__(self, bench: Workbench, files: Path | None) -> None:
        self.bench = bench
        self.files = files
        self.teachers = Teachers(bench, files)

    def kind(self, policy: Policy, rung: RungSpec) -> type[Recovery] | None:
        """Return what a policy's network is trained by at a rung, None where it is not."""
        if training_steps(rung, len(self.bench.dataset.train)) == 0:
            return None
        kind: type[Recovery] = plugins.load("recovery", recovery_of(policy, rung).name)
        return kind

    def recover(
        self,
        network: nn.Module,
        item: WorkItem,
        sparsity: Sparsity | None = None,
        removal: Removal | None = None,
    ) -> None:
        """Train the network of an item in place; it is left in eval mode.

        The same item gives the same weights on the same machine, also where an earlier attempt
        was killed on the way: what it left is gone on from. The item's teacher is the best
        larger network, for rungs that learn from the front; `sparsity` says which single weights
        leave, and `removal` which units of a network that still has them. Raises `NonFiniteError`
        with the step.
        """
        bench, rung, teacher = self.bench, self.bench.job.rungs[item.rung], item.teacher
        recipe: Recovery = plugins.create("recovery", recovery_of(item.policy, rung))
        checkpoint = FileCheckpoint(self._file(network, item, teacher))
        with self._loss(network, item, is_whole=removal is not None) as loss:
            training = Training(
                network,
                steps=training_steps(rung, len(bench.dataset.train)),
                seed=item.seed,
                learning_rate=rung.learning_rate,
                batch=Batches(bench.dataset, rung.batch_size, item.seed, bench.device),
                loss=loss,
                checkpoint=checkpoint,
                sparsity=sparsity,
                removal=removal,
            )
            try:
                recipe.recover(training)
            except NonFiniteError:
                checkpoint.remove()
                raise
        checkpoint.remove()

    def _file(
        self, network: nn.Module, item: WorkItem, teacher: Teacher | None
    ) -> KeyedFile | None:
        """Return the checkpoint's file, named by all that the training follows from."""
        if self.files is None:
            return None
        what = {
            "policy": item.policy.sha256,
            "rung": self.bench.job.rungs[item.rung].model_dump(mode="json", by_alias=True),
            "seed": item.seed,
            "split": item.split,
            "teacher": teacher.weights if teacher else None,
            "weights": fingerprint(network),
        }
        return KeyedFile(self.files, key_of(what))

    @contextmanager
    def _loss(
        self, network: nn.Module, item: WorkItem, *, is_whole: bool
    ) -> Iterator[Callable[[Batch], Tensor]]:
        """Provide the loss of a batch, with what the rung's teacher adds.

        A network that `is_whole` has all that the policy removes.
        """
        spec = self.bench.job.rungs[item.rung].distill
        if spec is None:
            yield lambda batch: cross_entropy(network(batch.inputs).float(), batch.labels)
            return
        kept = {} if is_whole else self.bench.plan.kept_entries(item.policy)
        student = Known(network, kept)
        logits = self.teachers.logits(spec) if spec.cached else None
        teacher = self.teachers.of(spec, item.teacher)
        with Distillation(spec, student, teacher, logits) as distillation:
            yield distillation.loss
