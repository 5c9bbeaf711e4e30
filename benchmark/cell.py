"""A cell: one training, fully resolved, as pure data with an identity.

Whatever changes the result is part of a cell; where and how fast it runs (ranks, device, time limit) is not.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

SCHEMA_VERSION = 1
"""Raised when the meaning of a field changes, so that old results are not taken for new ones."""

FIRST_TUNING_SEED = 2**30
"""Seeds from here on are those of tuning: no suite may use them, so that no result was chosen by its own seed."""

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Level = int | float | str
Target = Literal["frame", "change"]
Grid = Literal["centered", "staggered"]
GroupName = Literal["C4", "translation", "scale"]


class Frozen(BaseModel):
    """Strict, immutable, closed, finite: a wrong type or an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DatasetChoice(Frozen):
    """Which field is learnt.

    `level` is the dataset's knob of symmetry breaking; `preset` its size; `grid` says where the velocity lives:
    `centered` averages the staggered faces to cell centres, where a quarter turn is an exact permutation of the
    array, so that a strictly equivariant network is not punished for half a cell; `staggered` keeps the faces as
    published.
    """

    name: str
    level: Level
    preset: str
    grid: Grid = "centered"


class ModelChoice(Frozen):
    """Which baseline, with every field of its Config written out."""

    name: str
    config: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """The Config's fields; a network within them by its name and by fields of its own, as `network.hidden`."""
        flat: dict[str, Any] = {}
        for key, value in self.config.items():
            if isinstance(value, dict) and value.keys() == {"name", "config"}:
                inner = ModelChoice(**value)
                flat |= {key: inner.name, **{f"{key}.{field}": own for field, own in inner.settings().items()}}
            else:
                flat[key] = value
        return flat


class Protocol(Frozen):
    """How the frames are divided and rolled out (Wang, Walters, Yu 2022, section 5).

    `disjoint` shares no frame between training, validation and test; `icml2022` keeps the published windows,
    whose training targets run into the validation inputs. With `target: change` a model gives the difference to the
    last frame; published is `frame`. Either way it is the next frame that is compared and fed back.
    """

    name: Literal["disjoint", "icml2022"] = "disjoint"
    input_frames: PositiveInt = 10
    train_steps: PositiveInt = 6
    test_steps: PositiveInt = 20
    target: Target = "frame"


class Training(Frozen):
    """Optimisation; the defaults are the published ones. `batch_size` is global, whatever the number of ranks.

    The learning rate is multiplied by `learning_rate_decay` after each epoch. Training ends early when, after
    `early_stop_after` epochs, the mean validation RMSE of the last five is not below that of the five before.
    `rollout_steps` is how many steps the loss rolls out, at most and by default the protocol's `train_steps`; the
    validation RMSE is over those of the protocol in any case, so that it compares trainings of different lengths.
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

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The default of a field that older cells do not have is left out, so that their identity stays."""
        written: dict[str, Any] = handler(self)
        if written.get("rollout_steps", 1) is None:
            del written["rollout_steps"]
        return written


class Cell(Frozen):
    """One training and its evaluation."""

    dataset: DatasetChoice
    model: ModelChoice
    protocol: Protocol
    train: Training
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    @model_validator(mode="after")
    def _windows_hold_the_roll_out(self) -> Cell:
        steps, most = self.train.rollout_steps, self.protocol.train_steps
        if steps is not None and steps > most:
            raise ValueError(f"train.rollout_steps: {steps} is more than the protocol's train_steps, {most}")
        return self

    @cached_property
    def id(self) -> str:
        """16 hex digits: equal for equal cells on every machine and in every suite."""
        document = {"schema": SCHEMA_VERSION, **self.model_dump(mode="json")}
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        dataset = self.dataset
        return f"{dataset.name} level {dataset.level} ({dataset.preset}), {self.model.name}, seed {self.seed}"
