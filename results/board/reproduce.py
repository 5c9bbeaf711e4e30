"""The command that makes a row again, and no other."""

from __future__ import annotations

import shlex
from collections import defaultdict

from benchmark.models import model_registry
from benchmark.suite.suite import SUITES_FOLDER, Suite, describe
from results.board.row import Row


class Commands:
    """Finds for each row of a suite the shortest `symbench run SUITE --only ...`, among all cells that it would meet.

    These are also those that nobody tuned, which `run` refuses. Sets of cells are the bits of an integer, for a suite
    may have ten thousand.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = shlex.quote(suite.path.stem if suite.path.parent == SUITES_FOLDER else str(suite.path))
        self.chosen = [suite.chosen] if suite.chosen else []
        plugins = [word for path in model_registry.plugin_paths() for word in ("--plugin", shlex.quote(str(path)))]
        self.options = [*(["--tuned"] if suite.asked else []), *plugins]
        cells = (*suite.cells, *suite.untuned)
        self.bits = {cell.id: 1 << index for index, cell in enumerate(cells)}
        self.all = (1 << len(cells)) - 1
        self.having: dict[tuple[str, str], int] = defaultdict(int)
        for cell in cells:
            for key, value in describe(cell).items():
                self.having[key, str(value)] |= self.bits[cell.id]

    def of_row(self, row: Row) -> str:
        """Shell commands that run the cells of `row` and no others."""
        wanted = 0
        for seed in row.seeds:
            wanted |= self.bits[seed.cell_id]
        settings = {"dataset": row.dataset, "preset": row.preset, "model": row.model, "level": row.level, **row.config}
        clauses: list[str] = []
        left = self.all
        for key, value in settings.items():
            narrowed = left & self._selected(key, str(value))
            if wanted & ~narrowed == 0 and narrowed != left:
                clauses, left = [*clauses, f"{key}={value}"], narrowed
        if left == wanted:
            return self._run([*self.chosen, *clauses])
        return "\n".join(self.of_cell(seed.cell_id) for seed in row.seeds)

    def of_cell(self, cell_id: str) -> str:
        return self._run([f"id={cell_id}"])

    def _selected(self, key: str, value: str) -> int:
        """The cells that `--only key=value` keeps; none where it cannot say that."""
        sayable = "," not in key + value and "=" not in key and value == value.strip() and key == key.strip()
        return self.having[key, value] if sayable else 0

    def _run(self, clauses: list[str]) -> str:
        only = ["--only", shlex.quote(",".join(clauses))] if clauses else []
        return " ".join(["symbench run", self.suite, *only, *self.options])
