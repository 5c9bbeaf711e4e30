"""Trivial forecasts of a board: skill of the models against them, and the contests in which they win."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.models.task import TASKS
from results.board.quantities import METRICS, SKILLS, is_number, written
from results.board.row import Row

TRIVIAL = tuple(name for task in TASKS.values() for name in task.trivial)
MOST_NAMED = 6
"""Contests that the first line of a board names; it counts the others."""


@dataclass(frozen=True)
class Line:
    """Mean RMSE of one model in one contest; `place` names the contest in a sentence."""

    contest: Hashable
    place: str
    model: str
    label: str
    rmse: float


def skilled(recorded: Sequence[Sequence[Mapping[str, Any]]], models: Sequence[str]) -> list[list[Mapping[str, Any]]]:
    """Records of one contest, (rows, seeds), with the skill of each: 1 - RMSE / RMSE of the best trivial forecast.

    `models` names the model of each row. No skill without a trivial forecast, or if its RMSE is 0.
    """
    trivial = [seed for model, seeds in zip(models, recorded, strict=True) if model in TRIVIAL for seed in seeds]
    best: dict[str, float] = {}
    for name, rmse in SKILLS.items():
        values = [seed[rmse] for seed in trivial if is_number(seed.get(rmse))]
        if values and min(values) > 0:
            best[name] = min(values)

    def skill(seed: Mapping[str, Any]) -> dict[str, float]:
        return {name: 1 - seed[SKILLS[name]] / best[name] for name in best if is_number(seed.get(SKILLS[name]))}

    return [[{**seed, **skill(seed)} for seed in seeds] for seeds in recorded]


def first_line(rows: Sequence[Row], metric: str) -> str:
    """Sentence that names the contests in which no network beats a trivial forecast; empty if there is none."""
    rmse = rmse_of(metric)
    lines = [
        Line(
            row.contest,
            place_of(row.dataset, row.grid, row.level, row.budget),
            row.model,
            row.label,
            row.metrics[rmse].mean,
        )
        for row in rows
        if rmse in row.metrics
    ]
    return sentence(lines, rmse)


def place_of(dataset: str, grid: str, level: object, budget: str) -> str:
    """Contest in a sentence; `grid` may name a layout after it."""
    layout = grid.partition(", ")[2]
    return f"{dataset} level {level}" + (f" in the {layout}" if layout else "") + (f" at {budget}" if budget else "")


def rmse_of(metric: str) -> str:
    """RMSE on the split of `metric`: `rmse_domain` for metrics of that split, otherwise `rmse_future`."""
    return "rmse_domain" if metric.endswith("_domain") else "rmse_future"


def skill_of(metric: str) -> str:
    """Skill on the split of `metric`."""
    return next(skill for skill, rmse in SKILLS.items() if rmse == rmse_of(metric))


def sentence(lines: Sequence[Line], rmse: str) -> str:
    """Sentence of `first_line`."""
    contests: dict[Hashable, list[Line]] = defaultdict(list)
    for line in lines:
        contests[line.contest].append(line)
    texts = []
    for members in contests.values():
        ranked = sorted(members, key=lambda line: line.rmse)
        trivial = next((line for line in ranked if line.model in TRIVIAL), None)
        network = next((line for line in ranked if line.model not in TRIVIAL), None)
        if trivial is not None and network is not None and network.rmse >= trivial.rmse:
            numbers = f"{trivial.label} {written(trivial.rmse)}, best network {network.label} {written(network.rmse)}"
            texts.append(f"{trivial.place} ({numbers})")
    if not texts:
        return ""
    more = [f"{len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    where = "; ".join([*texts[:MOST_NAMED], *more])
    return f"No network beats the best trivial forecast in {METRICS[rmse].title} on {where}."
