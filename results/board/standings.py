"""Standings of the models over all levels of a board: ranks, interquartile means, probability of improvement.

Models are identified by their label. A block is one contest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, nan

import numpy as np

from benchmark.errors import UserError, unknown_name
from benchmark.models.task import TASKS
from results.board.contests import contests
from results.board.quantities import METRICS
from results.board.row import Row, merits
from results.board.trivial import skill_of
from results.statistics.bootstrap import Estimate, interquartile_estimate
from results.statistics.improvement import improvement_estimate
from results.statistics.multiple_comparisons import groups, ranks, signed_ranks
from results.statistics.two_models import Sample

MOST_STANDING = 1000
"""Rows above which a terminal shows the standings only if a baseline is named: resampling takes a second."""


@dataclass(frozen=True)
class Standing:
    """One model over all blocks.

    `mean_rank` is over the blocks in which the model has a number; 1 is the best. `relative` is the interquartile mean
    of metric / mean of the baseline in the same block, over blocks and seeds. `improvement` is the probability that a
    seed is better than one of the baseline. Both are None without a common block, and on a board with a single block.
    `skill` is the interquartile mean of the skill over blocks and seeds; None without trivial forecasts.
    Models that share a letter of `group` do not differ significantly; it is empty with too few blocks. A seed that
    diverged counts as worse than every number; `missing` seeds (failed, running, absent) are in no number.
    """

    label: str
    family: str
    blocks: int
    mean_rank: float
    relative: Estimate | None
    improvement: Estimate | None
    skill: Estimate | None
    group: str
    diverged: int
    missing: int


@dataclass(frozen=True)
class Standings:
    """All models of a board, the best mean rank first; `reason` is set if there are no groups."""

    metric: str
    baseline: str
    blocks: int
    models: tuple[Standing, ...]
    reason: str


def overall(rows: Sequence[Row], metric: str, baseline: str | None = None) -> Standings:
    """Standings of every label of the board. UserError: no such baseline."""
    labels = list(dict.fromkeys(row.label for row in rows))
    if baseline is not None and baseline not in labels:
        raise UserError(unknown_name("baseline", baseline, labels))
    merit = merits(rows, metric)
    blocks, table = [], []
    for positions in contests(rows):
        own = {
            rows[index].label: (one, merit[index]) for index in positions if (one := rows[index].sample(metric)).seeds
        }
        if own:
            blocks.append({label: one for label, (one, _) in own.items()})
            table.append([_ranked(*own[label]) if label in own else nan for label in labels])
    chosen = baseline or default_baseline(rows, blocks)
    higher = METRICS[metric].higher_is_better
    merit_table = np.array(table).reshape(len(blocks), len(labels))
    ranked = ranks(merit_table) if len(blocks) else merit_table
    counted = (~np.isnan(ranked)).sum(axis=0)
    mean_rank = np.where(counted, np.nansum(ranked, axis=0) / np.maximum(counted, 1), nan)
    order = sorted(range(len(labels)), key=lambda i: (not counted[i], mean_rank[i], labels[i]))
    letters = groups(order, partial(signed_ranks, merit_table))
    of_label: dict[str, list[Row]] = {label: [] for label in labels}
    for row in rows:
        of_label[row.label].append(row)
    compared = blocks if len(blocks) > 1 else []  # a single block has no standings table, and resampling is slow
    models = []
    for index in order:
        label, mine = labels[index], of_label[labels[index]]
        shared = [(block[label], block[chosen]) for block in compared if {label, chosen} <= block.keys()]
        models.append(
            Standing(
                label,
                mine[0].family,
                int(counted[index]),
                float(mean_rank[index]),
                _relative(shared),
                improvement_estimate([(one.values, other.values) for one, other in shared], higher) if shared else None,
                _skill(mine, metric) if compared else None,
                letters[index],
                sum(row.count("diverged") for row in mine),
                sum(len(row.seeds) - row.count("done") - row.count("diverged") - row.count("n/a") for row in mine),
            )
        )
    reason = "" if any(letters) else f"{len(blocks)} levels: the signed-rank test needs 6 that two models share"
    return Standings(metric, chosen, len(blocks), tuple(models), reason)


def default_baseline(rows: Sequence[Row], blocks: Sequence[dict[str, Sample]]) -> str:
    """Label of the plain network, `convnet` or `gnn`, since the question is what symmetry adds to it.

    Without one, another label of the family `cnn`, then of `free`, then of `reference`, then any. Among several, the
    one with the most blocks.
    """
    families, networks = zip(*(task.plain for task in TASKS.values()), strict=True)
    families += ("reference",)

    def preference(row: Row) -> tuple[int, int, int, str]:
        family = families.index(row.family) if row.family in families else len(families)
        return family, row.model not in networks, -sum(row.label in block for block in blocks), row.label

    return min(rows, key=preference).label if rows else ""


def _ranked(one: Sample, merit: float) -> float:
    """Merit of a row, the worst if a seed diverged."""
    return merit if all(map(isfinite, one.values)) else inf


def _mean(one: Sample) -> float:
    return float(np.mean(one.values))


def _skill(rows: Sequence[Row], metric: str) -> Estimate | None:
    name = skill_of(metric)
    samples = [row.sample(name).values for row in rows if name in row.metrics]
    return interquartile_estimate(samples) if samples else None


def _relative(shared: Sequence[tuple[Sample, Sample]]) -> Estimate | None:
    ratios = [np.asarray(one.values) / _mean(other) for one, other in shared if 0 < _mean(other) < inf]
    return interquartile_estimate(ratios) if ratios else None
