"""The job file: everything a search needs, validated as a whole (pydantic, unknown keys
are errors). Plug-in options are kept as given here; `autoprune.plugins` checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoprune.job.constraint import Constraint
from autoprune.policy import Quantize, Repair, Rounding

Observer = Literal["min_max", "moving_average", "percentile", "mse"]
"""How the range of values is told from those that were seen."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginSpec(_Section):
    """A plug-in and its options: `name`, or `{name: ..., option: value}`.

    One of your own is named by `import: "package.module:Class"`.
    """

    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


def _plugin(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and "import" in value and "name" not in value:
        value = {"name" if key == "import" else key: each for key, each in value.items()}
    if isinstance(value, Mapping) and set(value) != {"name", "options"}:
        options = {key: each for key, each in value.items() if key != "name"}
        return {"name": value["name"], "options": options} if "name" in value else value
    return value


Plugin = Annotated[PluginSpec, BeforeValidator(_plugin)]


class ModelSpec(_Section):
    """Which network: a built-in `name` or the user's own `import`, and its checkpoint."""

    name: str | None = None
    import_: str | None = Field(default=None, alias="import", pattern=r"^[\w.]+:\w+$")
    checkpoint: str | None = None
    num_classes: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if (self.name is None) == (self.import_ is None):
            raise ValueError("give exactly one of 'name' and 'import'")
        return self

    @property
    def title(self) -> str:
        """Name of the model for people."""
        return self.name or self.import_ or ""


class SplitSpec(_Section):
    """How many labelled images guide the search (V) and how many only report (T).

    Both are drawn once, seeded and stratified, from the part that `source` names, and
    never overlap. Whole numbers are images, numbers below one are shares.
    """

    source: Literal["test", "train"] = "test"
    search: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.5
    report: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: int = 0


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class DataSpec(_Section):
    """Where the data comes from, how it is split, and by which groups results are judged.

    Each of `groups` is `class`, an attribute of the source, or several joined by `&`: their
    intersections. `attributes` adds attributes of your own: name → an .npy file with a value
    for every sample of the part that is split.
    """

    source: PluginSpec
    splits: SplitSpec = SplitSpec()
    groups: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    attributes: dict[str, str] = Field(default_factory=dict)


_OWN_DATA_KEYS = frozenset(DataSpec.model_fields) - {"source"}


def _data(value: object) -> object:
    if isinstance(value, Mapping) and "source" not in value:
        own = {key: each for key, each in value.items() if key in _OWN_DATA_KEYS}
        return {"source": _plugin({x: value[x] for x in value if x not in own}), **own}
    return {"source": _plugin(value)} if isinstance(value, str) else value


class DistillSpec(_Section):
    """What a network learns from a teacher's outputs beside the labels.

    `teacher` is the dense network, `front`: the best network of the same rung that is larger,
    or a model of its own. `weight` is the teacher's share of the loss, at a softness of
    `temperature` (Hinton et al., 2015). `features` are layers whose outputs are matched as
    well, `attention` maps of where they are strong (Zagoruyko and Komodakis, 2017), with their
    weights. With `cached` the teacher's logits are computed once per job, of every training
    image and its mirror image.
    """

    teacher: Literal["dense", "front"] | ModelSpec = "dense"
    temperature: float = Field(default=4.0, gt=0)
    weight: float = Field(default=0.7, gt=0, le=1)
    features: tuple[str, ...] = ()
    feature_weight: float = Field(default=1.0, gt=0)
    attention: tuple[str, ...] = ()
    attention_weight: float = Field(default=1000.0, gt=0)
    cached: bool = False


def _distill(value: object) -> object:
    teacher = value.get("teacher") if isinstance(value, Mapping) else None
    if isinstance(teacher, str) and teacher not in ("dense", "front"):
        raise ValueError(
            f"teacher must be 'dense', 'front', or a model of its own as in "
            f"{{name: cifar_resnet56, checkpoint: …}}; given: {teacher!r}"
        )
    if value is True:
        return DistillSpec()
    return None if value is False else value


class RungSpec(_Section):
    """One fidelity: how much repair and recovery, and how many images judge the result.

    `quantize` gives layers that the policy leaves at 32 bits those of a deployment. Where a
    rung trains, the network is trained as it will be quantised, unless `quantize_aware` is
    false; `lsq` learns the step sizes as well (Esser et al., ICLR 2020). What was trained so is
    rounded to the nearest, all else by `rounding`.
    """

    repair: Repair = "bn"
    repair_images: int = Field(default=1000, ge=1)
    ridge_images: int = Field(default=256, ge=1)
    images: int | None = Field(default=None, ge=1)
    finetune_steps: int | None = Field(default=None, ge=1)
    finetune_epochs: int | None = Field(default=None, ge=1)
    distill: Annotated[DistillSpec | None, BeforeValidator(_distill)] = None
    recovery: Plugin = PluginSpec(name="finetune")
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=0.01, gt=0)
    quantize: Quantize | None = None
    quantize_aware: Literal["lsq"] | bool = True
    rounding: Rounding = "adaptive"

    @property
    def trains(self) -> bool:
        """Say whether networks are trained at this rung."""
        return self.finetune_steps is not None or self.finetune_epochs is not None

    @model_validator(mode="after")
    def _consistent(self) -> RungSpec:
        if self.finetune_steps is not None and self.finetune_epochs is not None:
            raise ValueError("give only one of 'finetune_steps' and 'finetune_epochs'")
        if self.distill is not None and not self.trains:
            raise ValueError("'distill' needs 'finetune_steps' or 'finetune_epochs'")
        return self


class QuantizationSpec(_Section):
    """How layers with up to 8 bits are quantised, and where the networks will run.

    `observer` tells the range of what a layer reads, on `images` training images, and
    `weight_observer` that of every output channel of its kernels. `target` is what runs the
    networks of the front at the end: ONNX Runtime, OpenVINO or torchao; all three run whole
    numbers of 8 bits, others are counted as bytes and bit operations.
    """

    target: Literal["onnx", "openvino", "torchao"] = "onnx"
    observer: Observer = "percentile"
    weight_observer: Literal["min_max", "mse"] = "min_max"
    images: int = Field(default=256, ge=1)


class ScoringSpec(_Section):
    """On how many training images criteria judge units that look at more than weights."""

    images: int = Field(default=256, ge=1)


class BaselineSpec(_Section):
    """Which searchers serve as yardsticks, and how many trials each may spend."""

    searchers: tuple[Plugin, ...] = (PluginSpec(name="uniform"), PluginSpec(name="random"))
    trials: int = Field(default=20, ge=1)


class BudgetSpec(_Section):
    """When the search ends: trials evaluated at the lowest rung, minutes, or both."""

    trials: int | None = Field(default=100, ge=1)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> BudgetSpec:
        if self.trials is None and self.minutes is None:
            raise ValueError("give 'trials', 'minutes' or both")
        return self


class ResourceSpec(_Section):
    """What the evaluations run on. `serial` runs them in this process, one by one.

    `auto` workers are as many as the cluster has room for, and follow its size; with
    `max_workers` so many are asked for, and a cluster that can grow does. `min_workers` must
    be there for the search to start. `labels` are those that a node must have. A worker is
    replaced after `recycle_after` trials. Without any worker for `stall_timeout_s` the search
    ends as stalled.
    """

    workers: Literal["auto", "serial"] | Annotated[int, Field(ge=1)] = "auto"
    min_workers: int = Field(default=1, ge=1)
    max_workers: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus_per_worker: float = Field(default=1.0, gt=0)
    memory_gb_per_worker: float | None = Field(default=None, gt=0)
    labels: dict[str, str] = Field(default_factory=dict)
    trial_timeout_s: float = Field(default=600.0, gt=0)
    stall_timeout_s: float = Field(default=45.0, gt=0)
    recycle_after: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.min_workers:
            raise ValueError(
                f"max_workers ({self.max_workers}) must not be below min_workers "
                f"({self.min_workers})"
            )
        return self


class Job(_Section):
    """A search job. `name` is the file's stem unless given.

    With `significance` a network stays on the front only if no other one is better in
    something and worse in nothing at that level, by the intervals of what was measured.
    """

    name: str = Field(default="job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    model: ModelSpec
    data: Annotated[DataSpec, BeforeValidator(_data)]
    space: Plugin = PluginSpec(name="layerwise")
    objectives: tuple[Plugin, ...] = Field(
        default=(PluginSpec(name="error"), PluginSpec(name="macs")), min_length=1
    )
    constraints: tuple[Annotated[Constraint, BeforeValidator(Constraint.parse)], ...] = ()
    searchers: tuple[Plugin, ...] = ()
    baselines: BaselineSpec = BaselineSpec()
    rungs: tuple[RungSpec, ...] = Field(default=(RungSpec(),), min_length=1)
    quantization: QuantizationSpec = QuantizationSpec()
    scoring: ScoringSpec = ScoringSpec()
    promote_one_in: int = Field(default=4, ge=2)
    budget: BudgetSpec = BudgetSpec()
    resources: ResourceSpec = ResourceSpec()
    significance: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `Job.model_validate` turns back into an equal job."""
        return self.model_dump(mode="json", by_alias=True)
