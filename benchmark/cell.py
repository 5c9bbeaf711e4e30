"""A cell: one training, fully resolved, as plain data with an identity.

A cell holds every setting that changes the result. Ranks, device and time limit are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

SCHEMA_VERSION = 1
"""Version of the fields. A field whose meaning changes needs a new version, so that old results do not count as new."""

RELAXATION_RATE = 0.1
"""Default of `Training.relaxation_rate`, from the study on docs/relaxation.md."""

FIRST_TUNING_SEED = 2**30
"""First seed reserved for tuning. Suites may not use these seeds, so that no result is selected by its own seed."""

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Level = int | float | str
Target = Literal["frame", "change"]
Grid = Literal["centered", "staggered"]
Layout = Literal["physical", "published"]
GroupName = Literal["C4", "translation", "scale", "O"]
"""Symmetry of level 0; O are the rotations of the cube."""
Component = Literal["vector", "scalar"]
Components = tuple[Component, ...]
SIZES: Mapping[Component, int] = {"vector": 2, "scalar": 1}
"""Numbers of a component in each cell; those of a vector are along x and y."""
VELOCITY: Components = ("vector",)
"""Components of a field that is one velocity in the plane."""


def channels(components: Iterable[Component]) -> int:
    """Numbers in a cell."""
    return sum(SIZES[component] for component in components)


def main_channels(components: Components) -> slice:
    """Channels of the main component: the first vector, or else the first scalar.

    >>> main_channels(("scalar", "vector"))
    slice(1, 3, None)
    """
    first = components.index("vector") if "vector" in components else 0
    return slice(channels(components[:first]), channels(components[: first + 1]))


TestRuns = Literal["designed", "sampled"]


class Frozen(BaseModel):
    """Immutable, strict model: a wrong type, an unknown key or a number that is not finite is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __copy__(self) -> Self:
        """Copy without cached properties, since `model_copy` may update what they are made of."""
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Extended(Frozen):
    """Settings that have gained fields. A cell from before a field of `later` lacks it.

    The default of such a field is omitted from the JSON, so that the identity of older cells stays.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        for name, default in _later_defaults(type(self)).items():
            if fields.get(name) == default:
                fields.pop(name, None)
        return fields

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The JSON. Cells of a suite share their parts, so that a board of 10,000 cells makes few of them."""
        return self.model_dump(mode="json")

    @cached_property
    def canonical(self) -> str:
        """Text of the JSON, equal for equal settings."""
        return _canonical(self.document)


@cache
def _later_defaults(settings: type[Extended]) -> dict[str, Any]:
    return {name: settings.model_fields[name].default for name in settings.later}


class DatasetChoice(Extended):
    """The field that a model learns.

    `level` is the setting of symmetry breaking, `preset` the size. `grid` is the place of the velocities: `centered`
    averages staggered faces to cell centres, where a quarter turn is an exact permutation of the array, so that a
    strictly equivariant network has no error from half a cell; `staggered` keeps the faces as published.

    `layout` is the order of the axes that a model sees: `physical` is (x, y), `published` (y, x) as in the published
    smoke files, with the components (x, y) in both. A turn of the `published` arrays, with their components, is no turn
    of the flow: see docs/handedness.md.
    """

    later = ("layout",)

    name: str
    level: Level
    preset: str
    grid: Grid = "centered"
    layout: Layout = "physical"

    @property
    def place(self) -> str:
        """Grid, and the layout if it is not the physical one, for boards."""
        return self.grid if self.layout == "physical" else f"{self.grid}, {self.layout} layout"


class ModelChoice(Extended):
    """A baseline, with every field of its Config written out.

    `version` is that of the baseline's class, which a new meaning of its weights or settings raises.
    """

    name: str
    config: dict[str, Any]
    version: PositiveInt = 1
    later = ("version",)

    def settings(self) -> dict[str, Any]:
        """Fields of the Config, and the version from 2 on.

        A nested network gives its name and its fields by dotted names, as `network.hidden`; without fields its version,
        by which it is told from a text.
        """
        flat: dict[str, Any] = {} if self.version == 1 else {"version": self.version}
        for key, value in self.config.items():
            if is_network(value):
                inner = ModelChoice(**value)
                fields = inner.settings() or {"version": inner.version}
                flat |= {key: inner.name, **{f"{key}.{field}": own for field, own in fields.items()}}
            else:
                flat[key] = value
        return flat

    @classmethod
    def of_settings(cls, name: str, settings: Mapping[str, Any]) -> ModelChoice:
        """Model with the `settings` that the method of that name gives."""
        fields = {key: value for key, value in settings.items() if key != "version" and "." not in key}
        for key, value in fields.items():
            prefix = f"{key}."
            inner = {each.removeprefix(prefix): own for each, own in settings.items() if each.startswith(prefix)}
            if inner:
                fields[key] = cls.of_settings(value, inner).model_dump(mode="json")
        return cls(name=name, config=fields, version=settings.get("version", 1))


def is_network(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether `value` is the JSON of a ModelChoice: a network within the settings of another."""
    return isinstance(value, dict) and value.keys() - {"version"} == {"name", "config"}


class Protocol(Extended):
    """Division of the frames into splits, and the length of roll-outs (Wang, Walters, Yu 2022, section 5).

    `disjoint` shares no frame between training, validation and test. `icml2022` keeps the published windows, whose
    training targets run into the validation inputs. With `target: change` a model predicts the difference to the last
    frame, with `frame` (published) the next frame. In both cases the next frame is compared and fed back.

    `train_runs` keeps the first so many of the training runs, for the splits train, validation and future. An epoch
    repeats them until it has as many runs as with all of them, so that trainings on fewer data are of equal length.
    """

    name: Literal["disjoint", "icml2022"] = "disjoint"
    input_frames: PositiveInt = 10
    train_steps: PositiveInt = 6
    test_steps: PositiveInt = 20
    target: Target = "frame"
    train_runs: PositiveInt | None = None
    later = ("train_runs",)


class Training(Extended):
    """Optimisation; the defaults are the published settings. `batch_size` is the sum over ranks.

    The learning rate is multiplied by `learning_rate_decay` after each epoch. Training ends early when, after
    `early_stop_after` epochs, the mean validation RMSE of the last five is not below that of the five before.
    `rollout_steps` is the number of steps in the loss: at most and by default the protocol's `train_steps`. The
    validation RMSE always covers the steps of the protocol, so that trainings of different lengths compare.

    `relaxation_rate` multiplies the learning rate of a model's deviations from its symmetry (`Baseline.deviations`). A
    suite writes RELAXATION_RATE for a model that has them, and null for every other model, whose cells do not depend on
    it.
    """

    epochs: PositiveInt = 1000
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    weight_decay: Annotated[float, Field(ge=0)] = 4e-4
    early_stop_after: PositiveInt | None = 100
    gradient_clip: PositiveFloat | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    channels_last: bool = False
    rollout_steps: PositiveInt | None = None
    relaxation_rate: PositiveFloat | None = None
    later = ("rollout_steps", "relaxation_rate")


class Cell(Frozen):
    """One training and its evaluation."""

    dataset: DatasetChoice
    model: ModelChoice
    protocol: Protocol
    train: Training
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    @model_validator(mode="after")
    def _check_rollout_steps(self) -> Cell:
        steps, most = self.train.rollout_steps, self.protocol.train_steps
        if steps is not None and steps > most:
            raise ValueError(f"train.rollout_steps: {steps} is more than the protocol's train_steps, {most}")
        return self

    @property
    def rollout_steps(self) -> int:
        """Rolled-out steps in the loss."""
        return self.train.rollout_steps or self.protocol.train_steps

    @property
    def document(self) -> dict[str, Any]:
        """The JSON, whose parts other cells share."""
        parts = {name: part.document for name, part in self._parts.items()}
        return {**parts, "seed": self.seed}

    @property
    def setting(self) -> tuple[str, ...]:
        """Key that is equal for cells that differ in their seeds alone."""
        return tuple(part.canonical for part in self._parts.values())

    @property
    def task(self) -> tuple[str, str]:
        """Key that is equal for cells with the same data and protocol."""
        return self.dataset.canonical, self.protocol.canonical

    @property
    def _parts(self) -> dict[str, Extended]:
        return {"dataset": self.dataset, "model": self.model, "protocol": self.protocol, "train": self.train}

    @cached_property
    def id(self) -> str:
        """16 hex digits: equal for equal cells on every machine and in every suite."""
        texts = {name: part.canonical for name, part in self._parts.items()}
        texts |= {"schema": str(SCHEMA_VERSION), "seed": str(self.seed)}
        canonical = "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"
        if "-0.0" in canonical:  # a number or the end of a text
            canonical = _canonical(json.loads(canonical, parse_float=lambda text: float(text) + 0.0))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return self.named(self.model.name)

    def named(self, label: str) -> str:
        """The cell in a sentence, with the label of its model."""
        dataset = self.dataset
        size = dataset.preset if dataset.place == "centered" else f"{dataset.preset}, {dataset.place}"
        return f"{dataset.name} level {dataset.level} ({size}), {label}, seed {self.seed}"


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
