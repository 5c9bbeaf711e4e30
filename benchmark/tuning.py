"""Studies: what is searched for which model on which levels, as pure data; and what came of it, put into a suite.

A study looks for the settings of one model on one group of levels of a dataset, under one protocol. Its name is made
of all that the search leaves as it is, so that the same suite finds the same studies, whatever its defaults for what
is searched. Nothing here knows how trials are run.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import random
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from . import budget, costs, registry
from .baseline import LogUniform
from .cell import FIRST_TUNING_SEED, Cell, DatasetChoice, Frozen, Level, ModelChoice, PositiveInt, Protocol, Training
from .errors import UserError
from .files import tuned_folder
from .suite import SUITES_FOLDER, Domain, Range, Suite

TUNING_SEED = FIRST_TUNING_SEED
"""All trials of all studies have this one, so that they see the same shuffling and differ in their settings alone."""
LEARNING_RATES = Range(low=1e-4, high=1e-2)
LEARNING_RATE_DECAYS = (0.85, 0.9, 0.95, 0.98, 1.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 4e-4, 1e-3)
Settings = Mapping[str, Any]
"""`model.<field>` and `train.<field>` -> value; a network within a model has a point more: `model.network.hidden`."""


class Study(Frozen):
    """One search. `dataset` stands at the first of `levels`; `model` and `train` are as the suite writes them first."""

    name: str
    dataset: DatasetChoice
    levels: tuple[Level, ...]
    model: ModelChoice
    protocol: Protocol
    train: Training
    budget: PositiveInt | None
    """Parameters, which decide the width of each trial's model."""
    space: Mapping[str, Domain]
    defaults: tuple[Mapping[str, Any], ...] = Field(min_length=1)
    """The settings that the suite writes, tried first."""

    @property
    def contest(self) -> str:
        """Equal for studies whose models meet on the board."""
        keys = {"dataset", "levels", "protocol"}
        return json.dumps(self.model_dump(mode="json", include=keys), sort_keys=True)

    @property
    def training_space(self) -> dict[str, Domain]:
        """What is searched of the training, which no family may have more of than another."""
        return {key: domain for key, domain in self.space.items() if key.startswith("train.")}

    def __str__(self) -> str:
        levels = ", ".join(map(str, self.levels))
        return f"{self.dataset.name} level {levels} ({self.dataset.preset}), {self.model.name}"


def studies(suite: Suite) -> dict[str, Study]:
    """Cell id -> its study, for the cells of the whole `suite` that are trained and whose model can run there.

    UserError: `keep` names nothing.
    """
    members: dict[str, list[Cell]] = {}
    known: dict[str, str] = {}  # cells that differ in their seeds alone are of one study
    for cell in suite.cells:
        setting = cell.model_dump_json(exclude={"seed"})
        if setting not in known:
            known[setting] = _identity(suite, cell) if _is_trained(cell) else ""
        if known[setting]:
            members.setdefault(known[setting], []).append(cell)
    _check_keep(suite)
    found: dict[str, Study] = {}
    for identity, cells in members.items():
        study = _study(suite, identity, cells)
        found |= {cell.id: study for cell in cells}
    return found


def _is_trained(cell: Cell) -> bool:
    baseline, config = registry.configured(cell.model)
    return baseline.trained and baseline.refusal(config, costs.task_of(cell.dataset, cell.protocol)) is None


def model_space(choice: ModelChoice) -> dict[str, Domain]:
    """What a model declares, and what a network within it does."""
    space: dict[str, Domain] = {}
    for key, domain in registry.model(choice.name).search_space.items():
        if isinstance(domain, LogUniform):
            space[key] = Range(low=float(domain.low), high=float(domain.high))
        else:
            space[key] = tuple(domain.values)
    for key, value in choice.config.items():
        if _is_network(value):
            space |= {f"{key}.{inner}": domain for inner, domain in model_space(ModelChoice(**value)).items()}
    return space


def training_space(train: Training, protocol: Protocol, windows: int, ranks: int) -> dict[str, Domain]:
    """What is searched of the training where the suite does not say; batches that ranks can share and windows fill."""
    sizes = {train.batch_size // 2, train.batch_size, train.batch_size * 2}
    lengths = {max(1, round(protocol.train_steps * part / 3)) for part in (1, 2, 3)}
    return {
        "learning_rate": LEARNING_RATES,
        "learning_rate_decay": LEARNING_RATE_DECAYS,
        "weight_decay": WEIGHT_DECAYS,
        "batch_size": tuple(sorted(size for size in sizes if 0 < size <= windows and size % ranks == 0)),
        "rollout_steps": tuple(sorted(lengths)),
    }


def trial_cells(study: Study, settings: Settings, seed: int = TUNING_SEED) -> tuple[Cell, ...] | None:
    """The cells of a trial, one for each level; None where there can be none with these settings."""
    try:
        model, train = applied(study.model, settings), _training(study, settings)
        if study.budget is not None:
            model = budget.sized(model, study.budget, study.dataset, study.protocol)
        _, config = registry.configured(model)
        model = ModelChoice(name=model.name, config=config.model_dump(mode="json"))
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


def applied(model: ModelChoice, settings: Settings) -> ModelChoice:
    """`model` with those of `settings` that are its own."""
    config = copy.deepcopy(model.config)
    for key, value in settings.items():
        room, *path = key.split(".")
        if room == "model":
            at = config
            for part in path[:-1]:
                at = at[part]["config"]
            at[path[-1]] = value
    return ModelChoice(name=model.name, config=config)


def _training(study: Study, settings: Settings) -> Training:
    train = {key.removeprefix("train."): value for key, value in settings.items() if key.startswith("train.")}
    if train.get("rollout_steps") == study.protocol.train_steps:
        train["rollout_steps"] = None  # the same training has one identity
    return Training.model_validate({**study.train.model_dump(), **train})


def draw(study: Study, number: int, attempt: int) -> dict[str, Any]:
    """Settings at random, the same for the same trial on every machine."""
    chance = random.Random(f"{study.name} {number} {attempt}")
    drawn: dict[str, Any] = {}
    for key, domain in study.space.items():
        if isinstance(domain, Range):
            drawn[key] = rounded(math.exp(chance.uniform(math.log(domain.low), math.log(domain.high))))
        else:
            drawn[key] = chance.choice(domain)
    return drawn


def rounded(value: float) -> float:
    """To four digits, so that settings can be read and written down."""
    return float(f"{value:.4g}")


def _identity(suite: Suite, cell: Cell) -> str:
    """What the search leaves as it is, as canonical JSON."""
    searched = _searched(suite, cell)
    model = cell.model.model_dump(mode="json")
    for path in (*_paths(searched, "model."), *([_width(cell.model)] if cell.id in suite.budgets else [])):
        at = model["config"]
        for part in path[:-1]:
            at = at[part]["config"]
        at.pop(path[-1], None)
    train = cell.train.model_dump(mode="json")
    for (key,) in _paths(searched, "train."):
        train.pop(key, None)
    document = {
        "dataset": cell.dataset.model_dump(mode="json", exclude={"level"}),
        "levels": _levels(suite, cell),
        "model": model,
        "budget": suite.budgets.get(cell.id),
        "protocol": cell.protocol.model_dump(mode="json"),
        "train": train,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _searched(suite: Suite, cell: Cell) -> dict[str, Domain]:
    """What is searched for the model of `cell`: its own settings but for a width that a budget decides."""
    own = model_space(cell.model)
    if cell.id in suite.budgets:
        own.pop(".".join(_width(cell.model)), None)
    split = registry.dataset(cell.dataset.name).splits(cell.protocol, cell.dataset.preset)["train"]
    ranks = suite.resources.gpus or suite.resources.ranks
    usual = training_space(cell.train, cell.protocol, len(split.runs) * len(split.starts), ranks)
    space = {f"model.{key}": domain for key, domain in own.items()}
    space |= {f"train.{key}": domain for key, domain in usual.items()}
    space |= {f"train.{key}": domain for key, domain in suite.tuning.train.items()}
    return {key: domain for key, domain in space.items() if not _is_kept(key, suite.tuning.keep)}


def _is_kept(key: str, keep: Sequence[str]) -> bool:
    return key.partition(".")[2] in keep or key.rpartition(".")[2] in keep


def _check_keep(suite: Suite) -> None:
    models = {cell.model.name: cell for cell in suite.cells if registry.model(cell.model.name).trained}.values()
    free = replace(suite, tuning=suite.tuning.model_copy(update={"keep": ()}), budgets={})
    known = {key for cell in models for key in _searched(free, cell)}
    for name in suite.tuning.keep:
        if not any(_is_kept(key, [name]) for key in known):
            names = sorted({key.rpartition(".")[2] for key in known})
            raise UserError(f"{suite.path}: tuning.keep: {registry.unknown('setting', name, names)}")


def _study(suite: Suite, identity: str, cells: Sequence[Cell]) -> Study:
    first = cells[0]
    space = _searched(suite, first)
    defaults: list[dict[str, Any]] = []
    for cell in cells:
        written = {key: _written(cell, key) for key in space}
        if written not in defaults:
            defaults.append(written)
    for key, written in itertools.product(space, defaults):
        space[key] = _holding(space[key], written[key])
    levels = _levels(suite, first)
    told = f"{first.dataset.name}-{first.dataset.preset}-level-{'-'.join(map(str, levels))}-{first.model.name}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return Study(
        name=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', told)[:150]}-{digest}",
        dataset=first.dataset.model_copy(update={"level": levels[0]}),
        levels=levels,
        model=first.model,
        protocol=first.protocol,
        train=first.train,
        budget=suite.budgets.get(first.id),
        space=space,
        defaults=tuple(defaults),
    )


def _levels(suite: Suite, cell: Cell) -> tuple[Level, ...]:
    """The levels of the suite that share their settings with that of `cell`."""
    asked = suite.tuning.levels
    if asked == "each":
        return (cell.dataset.level,)
    there = [
        other.dataset.level
        for other in suite.cells
        if other.dataset.model_copy(update={"level": 0}) == cell.dataset.model_copy(update={"level": 0})
    ]
    group = there if asked == "all" else next((g for g in asked if cell.dataset.level in g), (cell.dataset.level,))
    return tuple(dict.fromkeys(level for level in there if level in group))


def _written(cell: Cell, key: str) -> Any:
    room, *path = key.split(".")
    if room == "train":
        value = getattr(cell.train, path[0])
        return cell.protocol.train_steps if path[0] == "rollout_steps" and value is None else value
    at = cell.model.config
    for part in path[:-1]:
        at = at[part]["config"]
    return at[path[-1]]


def _holding(domain: Domain, value: Any) -> Domain:
    """`domain` with `value` in it; a range does not stretch to what has no logarithm."""
    if isinstance(domain, Range):
        if not isinstance(value, int | float) or value <= 0:
            return domain
        return Range(low=min(domain.low, value), high=max(domain.high, value))
    if value in domain:
        return domain
    values = (*domain, value)
    return tuple(sorted(values)) if all(isinstance(one, int | float) for one in values) else values


def _width(choice: ModelChoice) -> tuple[str, ...]:
    """Where the width stands that a budget decides."""
    field = registry.model(choice.name).width_field
    value = choice.config.get(field)
    return (field, *_width(ModelChoice(**value))) if _is_network(value) else (field,)


def _is_network(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and value.keys() == {"name", "config"}


def _paths(space: Mapping[str, Domain], room: str) -> Iterator[tuple[str, ...]]:
    for key in space:
        if key.startswith(room):
            yield tuple(key.removeprefix(room).split("."))


class Best(Frozen):
    """What a study found: the settings of a model and of its training, complete."""

    model: ModelChoice
    train: Training


def read_result(path: Path) -> dict[str, Any]:
    """A frozen result. UserError where it cannot be read."""
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, ValueError) as error:
        raise UserError(f"{path}: not a readable study ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a study; delete it and tune again")
    return document


def resolved(suite: Suite, store: Path, only: str = "", partly: bool = False) -> Suite:
    """`suite`, or `only` some of it, with the settings that its studies in `store` found.

    UserError: a cell is not tuned, or `partly` none is; then those that are not are left out, and named in `untuned`.
    """
    of_cell = studies(suite)
    best = {name: found for name in {s.name for s in of_cell.values()} if (found := _best(store, name)) is not None}
    cells: dict[str, Cell] = {}
    names: dict[str, str] = {}
    budgets: dict[str, int] = {}
    missing: dict[str, Study] = {}
    for cell in suite.cells:
        study, budgeted = of_cell.get(cell.id), suite.budgets.get(cell.id)
        if study is not None and study.name in best:
            found = best[study.name]
            cell = cell.model_copy(update={"model": found.model, "train": found.train})
            cell = Cell.model_validate_json(cell.model_dump_json())  # also: a copy keeps the id of the original
            names[cell.id] = study.name
            budgets |= {} if budgeted is None else {cell.id: budgeted}
        elif study is not None:
            missing[cell.id] = study
        cells.setdefault(cell.id, cell)
    whole = replace(suite, cells=tuple(cells.values()), budgets=budgets, studies=names)
    chosen = whole.only(only) if only else whole
    tuned = tuple(cell for cell in chosen.cells if cell.id not in missing)
    if partly and names and tuned:
        return replace(chosen, cells=tuned, untuned=tuple(cell for cell in chosen.cells if cell.id in missing))
    lacking = list({missing[cell.id].name: missing[cell.id] for cell in chosen.cells if cell.id in missing}.values())
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(
            f"{suite.name}: not tuned in store {store}: {lacking[0]}{more}; run `symbench tune {spoken(suite)}` first"
        )
    return chosen


def _best(store: Path, study: str) -> Best | None:
    """What a study found; None where it has not come to its end."""
    path = tuned_folder(store) / f"{study}.yaml"
    if not path.exists():
        return None
    try:
        return Best.model_validate_json(json.dumps(read_result(path).get("best")))
    except (ValidationError, TypeError) as error:
        raise UserError(f"{path}: not a study; delete it and tune again") from error


def spoken(suite: Suite) -> str:
    """How the suite is called on the command line."""
    return suite.path.stem if suite.path.parent == SUITES_FOLDER else shlex.quote(str(suite.path))


def provenance(store: Path, cell: Cell) -> dict[str, str]:
    """`study`, where the settings of `cell` are those that a study in `store` found for it; empty otherwise."""
    same_level = {"dataset": cell.dataset.model_dump(mode="json", exclude={"level"})}
    wanted = {**same_level, "protocol": cell.protocol.model_dump(mode="json")}
    best = {"model": cell.model.model_dump(mode="json"), "train": cell.train.model_dump(mode="json")}
    for path in sorted(tuned_folder(store).glob("*.yaml")):  # a long name is cut
        try:
            document = read_result(path)
        except UserError:  # who wants to be tuned by it is told; this one is trained in any case
            continue
        alike = all(document.get(key) == value for key, value in wanted.items())
        if alike and cell.dataset.level in document.get("levels", ()) and document.get("best") == best:
            return {"study": path.stem}
    return {}
