"""Who wins where, by how much, and whether it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from results.board.leaderboard import contests, letters_of
from results.board.quantities import METRICS
from results.board.row import Row
from results.statistics.multiple_comparisons import SIGNIFICANT
from results.statistics.paired import Comparison, compare


@dataclass(frozen=True)
class Verdict:
    """One contest: its best row, the second, what lies between them, and who cannot be told from the best."""

    best: Row | None
    second: Row | None
    comparison: Comparison | None
    alike: tuple[str, ...]
    tested: bool
    unfinished: int
    example: Row

    @property
    def words(self) -> str:
        """Whether it is sure, in a few words."""
        if self.best is None:
            return "no model has finished all its seeds"
        if self.second is None:
            return "no other model has finished all its seeds"
        if not self.tested:
            return "not known: it takes two seeds"
        if not self.alike:
            rest = f" that has all its seeds ({self.unfinished} without)" if self.unfinished else ""
            return f"yes: told from every other{rest}"
        names = ", ".join(self.alike[:2]) + (f" and {len(self.alike) - 2} more" if len(self.alike) > 2 else "")
        return f"no: cannot be told from {names}"


def verdicts(rows: Sequence[Row], metric: str) -> list[Verdict]:
    """One for each contest, in the order of the board."""
    letters = letters_of(rows, metric)
    found = []
    for positions in contests(rows):
        ranked = [i for i in positions if rows[i].ranks(metric)]
        ranked.sort(key=lambda i: rows[i].merit(metric))
        best = rows[ranked[0]] if ranked else None
        second = rows[ranked[1]] if len(ranked) > 1 else None
        comparison = None
        if best is not None and second is not None:
            comparison = compare(second.sample(metric), best.sample(metric), METRICS[metric].higher_is_better)
        alike = tuple(rows[i].label for i in ranked[1:] if "a" in letters[i]) if ranked else ()
        tested = bool(ranked) and "a" in letters[ranked[0]]
        unfinished = sum(not rows[i].ranks(metric) and not rows[i].reason for i in positions)
        found.append(Verdict(best, second, comparison, alike, tested, unfinished, rows[positions[0]]))
    return found


def sure(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison.p is not None and comparison.p < SIGNIFICANT
