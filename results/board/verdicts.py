"""Winner of each contest, its margin, and the significance of the difference."""

from collections.abc import Sequence
from dataclasses import dataclass

from results.board.leaderboard import contests, letters_of
from results.board.quantities import METRICS
from results.board.row import Row
from results.statistics.multiple_comparisons import SIGNIFICANT
from results.statistics.paired import Comparison, compare


@dataclass(frozen=True)
class Verdict:
    """Result of one contest: the best row, the second, and the difference second - best.

    `tied` are the labels that do not differ significantly from the best; `tested` is false if no test was possible.
    `unfinished` counts the rows that lack a seed. `example` is any row of the contest.
    """

    best: Row | None
    second: Row | None
    comparison: Comparison | None
    tied: tuple[str, ...]
    tested: bool
    unfinished: int
    example: Row

    @property
    def significant(self) -> bool:
        """Whether the best row differs significantly from every other."""
        p = None if self.comparison is None else self.comparison.p
        return self.tested and not self.tied and p is not None and p < SIGNIFICANT

    @property
    def text(self) -> str:
        """Whether the best row is significantly better than every other, in a few words."""
        if self.best is None:
            return "no model has finished all its seeds"
        if self.second is None:
            return "no other model has finished all its seeds"
        if not self.tested:
            return "unknown: a test needs two seeds"
        if not self.tied:
            rest = f" that has all its seeds ({self.unfinished} without)" if self.unfinished else ""
            return f"yes: differs significantly from every other{rest}"
        names = ", ".join(self.tied[:2]) + (f" and {len(self.tied) - 2} more" if len(self.tied) > 2 else "")
        return f"no: does not differ significantly from {names}"


def verdicts(rows: Sequence[Row], metric: str) -> list[Verdict]:
    """Verdict of each contest, in the order of the board."""
    letters = letters_of(rows, metric)
    results = []
    for positions in contests(rows):
        ranked = [i for i in positions if rows[i].ranks(metric)]
        ranked.sort(key=lambda i: rows[i].merit(metric))
        best = rows[ranked[0]] if ranked else None
        second = rows[ranked[1]] if len(ranked) > 1 else None
        comparison = None
        if best is not None and second is not None:
            comparison = compare(second.sample(metric), best.sample(metric), METRICS[metric].higher_is_better)
        tied = tuple(rows[i].label for i in ranked[1:] if "a" in letters[i])
        tested = bool(ranked) and "a" in letters[ranked[0]]
        unfinished = sum(not rows[i].ranks(metric) and not rows[i].reason for i in positions)
        results.append(Verdict(best, second, comparison, tied, tested, unfinished, rows[positions[0]]))
    return results
