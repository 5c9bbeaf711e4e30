"""Expands the declaration of a suite into cells, one for each point of the grid."""

import itertools
import json
import math
from dataclasses import asdict
from functools import partial

from benchmark.cell import RELAXATION_RATE, Cell, DatasetChoice, ModelChoice, Protocol, Training
from benchmark.errors import UserError
from benchmark.suite import budget, facts
from benchmark.suite.grid import MAX_CELLS, GridReader
from benchmark.suite.reader import Declaration, DeclaredModel
from benchmark.suite.suite import Resources, Suite


def expanded(declared: Declaration, grid: GridReader) -> Suite:
    """Suite with its cells, each once, in the order of the file.

    The width of a model with a budget is solved on each task. A model that is not trained has one cell per dataset and
    protocol. UserError: a width cannot be solved, a seed is invalid, or there are too many cells.
    """
    axes = declared.datasets, declared.models, declared.protocols, declared.trainings, declared.seeds
    if (count := math.prod(map(len, axes))) > MAX_CELLS:
        raise UserError(
            f"{grid.file.path}: has {count:,} cells, and a suite has at most {MAX_CELLS:,}; make several of it"
        )
    cells: dict[str, Cell] = {}
    budgets: dict[str, tuple[budget.Budget, ...]] = {}
    resources: dict[str, Resources] = {}
    for dataset, entry, protocol, train in itertools.product(*axes[:-1]):
        model = _sized(entry, dataset, protocol, grid)
        if model is None:
            continue
        seeds = declared.seeds
        if not facts.model_facts(model.name).trained:
            train, seeds = Training(), seeds[:1]  # one cell, whatever the training of the others
        rate = train.relaxation_rate or RELAXATION_RATE if facts.has_deviations(model) else None
        train = train.model_copy(update={"relaxation_rate": rate})
        own = entry.resources or declared.resources
        for seed in seeds:
            make = partial(Cell, dataset=dataset, model=model, protocol=protocol, train=train, seed=seed)
            cell = grid.checked(("seeds",), make)
            if cell is None:
                continue
            if resources.setdefault(cell.id, own) != own:
                grid.file.error(entry.where, f"these settings of {model.name} stand above with other resources")
            cells.setdefault(cell.id, cell)
            if entry.budget is not None and entry.budget not in budgets.get(cell.id, ()):
                budgets[cell.id] = (*budgets.get(cell.id, ()), entry.budget)
    grid.file.stop_on_errors()
    return Suite(
        name=declared.name,
        path=grid.file.path,
        cells=tuple(cells.values()),
        resources=declared.resources,
        tuned=declared.tuned,
        tuning=declared.tuning,
        budgets=budgets,
        plugins=declared.plugins,
        keeps_checkpoints=declared.keeps_checkpoints,
        own_resources={key: own for key, own in resources.items() if own != declared.resources},
    )


def _sized(entry: DeclaredModel, dataset: DatasetChoice, protocol: Protocol, grid: GridReader) -> ModelChoice | None:
    """The model with the width for its budget on this task, or None after reporting a mistake."""
    if entry.budget is None:
        return entry.choice
    choice, size = entry.choice, entry.budget
    task = asdict(facts.task_of(dataset, protocol))
    question = f"sized {size} {json.dumps([choice.config, task, dataset.preset])}"
    try:
        config = facts.about_model(choice.name, question, lambda: budget.sized(choice, size, dataset, protocol).config)
        return choice.model_copy(update={"config": config})
    except ValueError as error:
        grid.file.error(entry.where, str(error))
        return None
