"""Study: the search for settings of one model on a group of levels under one protocol; cells of its trials."""

import copy
import json
import math
import random
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from benchmark.cell import (
    FIRST_TUNING_SEED,
    Cell,
    DatasetChoice,
    Frozen,
    Level,
    ModelChoice,
    Protocol,
    Training,
)
from benchmark.errors import UserError
from benchmark.models import model_registry
from benchmark.suite import budget
from benchmark.suite.suite import Domain, Range

TUNING_SEED = FIRST_TUNING_SEED
"""Seed of all trials of all studies: trials differ in their settings alone."""
Settings = Mapping[str, Any]
"""Values by `model.<field>` and `train.<field>`; of a network within a model as `model.network.hidden`."""


class Study(Frozen):
    """One search. `dataset` has the first of `levels`; `model` and `train` are the first ones of the suite."""

    name: str
    dataset: DatasetChoice
    levels: tuple[Level, ...]
    model: ModelChoice
    protocol: Protocol
    train: Training
    budget: budget.Budget | None
    """Budget that the width of each trial's model is solved for."""
    space: Mapping[str, Domain]
    defaults: tuple[Mapping[str, Any], ...] = Field(min_length=1)
    """Settings of the suite, tried first."""

    @property
    def contest(self) -> str:
        """Equal for studies whose models meet on the board."""
        keys = {"dataset", "levels", "protocol"}
        return json.dumps(self.model_dump(mode="json", include=keys), sort_keys=True)

    @property
    def training_space(self) -> dict[str, Domain]:
        """Search space of the training, which must be equal for all families that have these settings."""
        space = {key: domain for key, domain in self.space.items() if key.startswith("train.")}
        space.pop("train.relaxation_rate", None)
        return space

    def __str__(self) -> str:
        levels = ", ".join(map(str, self.levels))
        return f"{self.dataset.name} level {levels} ({self.dataset.preset}), {self.model.name}"


def trial_cells(study: Study, settings: Settings, seed: int = TUNING_SEED) -> tuple[Cell, ...] | None:
    """Cells of a trial, one per level; None if the settings are invalid."""
    try:
        model, train = trial_choice(study, settings)
        if study.budget is not None:
            model = budget.sized(model, study.budget, study.dataset, study.protocol)
        _, config = model_registry.configured(model)
        model = model.model_copy(update={"config": config.model_dump(mode="json")})
        return tuple(
            Cell(
                dataset=study.dataset.model_copy(update={"level": level}),
                model=model,
                protocol=study.protocol,
                train=train,
                seed=seed,
            )
            for level in study.levels
        )
    except (ValueError, UserError):
        return None


def trial_choice(study: Study, settings: Settings) -> tuple[ModelChoice, Training]:
    """Model, without the width that a budget decides, and training of a trial. ValueError: the settings are wrong."""
    return applied(study.model, settings), _training(study, settings)


def is_within(domain: Domain, value: Any) -> bool:
    """Whether a search may try `value`. TypeError: a range has no such values."""
    return domain.low <= value <= domain.high if isinstance(domain, Range) else value in domain


def applied(model: ModelChoice, settings: Settings) -> ModelChoice:
    """`model` with its part of `settings`."""
    config = copy.deepcopy(model.config)
    for key, value in settings.items():
        room, *path = key.split(".")
        if room == "model":
            at = config
            for part in path[:-1]:
                at = at[part]["config"]
            at[path[-1]] = value
    return model.model_copy(update={"config": config})


def _training(study: Study, settings: Settings) -> Training:
    train = {key.removeprefix("train."): value for key, value in settings.items() if key.startswith("train.")}
    if train.get("rollout_steps") == study.protocol.train_steps:
        train["rollout_steps"] = None  # the same training has one identity
    return Training.model_validate({**study.train.model_dump(), **train})


def draw(study: Study, number: int, attempt: int) -> dict[str, Any]:
    """Random settings, equal for equal trials on every machine."""
    chance = random.Random(f"{study.name} {number} {attempt}")
    drawn: dict[str, Any] = {}
    for key, domain in study.space.items():
        if isinstance(domain, Range):
            drawn[key] = rounded(math.exp(chance.uniform(math.log(domain.low), math.log(domain.high))))
        else:
            drawn[key] = chance.choice(domain)
    return drawn


def rounded(value: float) -> float:
    """Round to four digits, for readable settings."""
    return float(f"{value:.4g}")
