"""Studies of a suite: cells that share a search, its name and its defaults.

The name of a study depends on the settings that the search does not change. A suite whose defaults for searched
settings change has the same studies.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from benchmark.cell import Cell, Level
from benchmark.suite import facts
from benchmark.suite.budget import Budget
from benchmark.suite.search_space import check_keep, search_space, width_path
from benchmark.suite.study import Study
from benchmark.suite.suite import Domain, Range, Suite


def studies(suite: Suite) -> dict[str, Study]:
    """Study of each cell by its id, for trained cells whose model can run. `suite` must have all its cells.

    UserError: `tuning.keep` names a setting that no model has.
    """
    members: dict[str, list[Cell]] = {}
    known: dict[tuple[str, ...], str] = {}  # cells that differ in seed only have one study
    for cell in suite.cells:
        if cell.setting not in known:
            runs = facts.is_trained(cell) and not facts.refusal(cell.model, facts.task_of(cell.dataset, cell.protocol))
            known[cell.setting] = _identity(suite, cell) if runs else ""
        if known[cell.setting]:
            members.setdefault(known[cell.setting], []).append(cell)
    check_keep(suite)
    of_cell: dict[str, Study] = {}
    for identity, cells in members.items():
        of_cell |= dict.fromkeys((cell.id for cell in cells), _study(suite, identity, cells))
    return of_cell


def distinct_studies(suite: Suite) -> list[Study]:
    """Studies of `suite` in the order of its cells."""
    return list({study.name: study for study in studies(suite).values()}.values())


def _identity(suite: Suite, cell: Cell) -> str:
    """Settings that the search does not change, as canonical JSON."""
    space = search_space(suite, cell)
    model = cell.model.model_dump(mode="json")
    for path in (*_paths(space, "model."), *([width_path(cell.model)] if cell.id in suite.budgets else [])):
        at = model["config"]
        for part in path[:-1]:
            at = at[part]["config"]
        at.pop(path[-1], None)
    train = cell.train.model_dump(mode="json")
    for (key,) in _paths(space, "train."):
        train.pop(key, None)
    own = _budget(suite, cell)
    document = {
        "dataset": cell.dataset.model_dump(mode="json", exclude={"level"}),
        "levels": _levels(suite, cell),
        "model": model,
        "budget": None if own is None else TypeAdapter(Budget).dump_python(own, mode="json"),
        "protocol": cell.protocol.model_dump(mode="json"),
        "train": train,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _budget(suite: Suite, cell: Cell) -> Budget | None:
    """Budget of the cell; the first one if several give one width."""
    return next(iter(suite.budgets.get(cell.id, ())), None)


def _paths(space: Mapping[str, Domain], room: str) -> Iterator[tuple[str, ...]]:
    for key in space:
        if key.startswith(room):
            yield tuple(key.removeprefix(room).split("."))


def _study(suite: Suite, identity: str, cells: Sequence[Cell]) -> Study:
    first = cells[0]
    space = search_space(suite, first)
    defaults: list[dict[str, Any]] = []
    for cell in cells:
        written = {key: _written(cell, key) for key in space}
        if written not in defaults:
            defaults.append(written)
    for key, written in itertools.product(space, defaults):
        space[key] = _holding(space[key], written[key])
    levels = _levels(suite, first)
    title = f"{first.dataset.name}-{first.dataset.preset}-level-{'-'.join(map(str, levels))}-{first.model.name}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return Study(
        name=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', title)[:150]}-{digest}",
        dataset=first.dataset.model_copy(update={"level": levels[0]}),
        levels=levels,
        model=first.model,
        protocol=first.protocol,
        train=first.train,
        budget=_budget(suite, first),
        space=space,
        defaults=tuple(defaults),
    )


def _levels(suite: Suite, cell: Cell) -> tuple[Level, ...]:
    """Levels of the suite that share their settings with the level of `cell`."""
    grouping = suite.tuning.levels
    if grouping == "each":
        return (cell.dataset.level,)
    levels = [
        other.dataset.level
        for other in suite.cells
        if other.dataset.model_copy(update={"level": 0}) == cell.dataset.model_copy(update={"level": 0})
    ]
    own = (cell.dataset.level,)
    group = levels if grouping == "all" else next((g for g in grouping if cell.dataset.level in g), own)
    return tuple(dict.fromkeys(level for level in levels if level in group))


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
    """`domain` extended to `value`; a range is not extended to numbers without a logarithm."""
    if isinstance(domain, Range):
        if not isinstance(value, int | float) or value <= 0:
            return domain
        return Range(low=min(domain.low, value), high=max(domain.high, value))
    if value in domain:
        return domain
    values = (*domain, value)
    return tuple(sorted(values)) if all(isinstance(one, int | float) for one in values) else values
