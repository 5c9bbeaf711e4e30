"""Shell commands that compute a row again."""

import shlex
from collections import defaultdict

from benchmark import discovery
from benchmark.suite.suite import Suite, describe
from results.board.row import Row


class Commands:
    """Shortest `symbench run SUITE --only ...` for each row of a suite.

    The command selects no other cell of the suite, not even untuned ones, which `run` refuses. Sets of cells are bits
    of an integer, since a suite may have ten thousand.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite.argument
        self.chosen = [suite.only_expression] if suite.only_expression else []
        given = [path for path in discovery.plugin_paths() if path not in suite.plugins]
        plugins = [word for path in given for word in ("--plugin", shlex.quote(str(path)))]
        self.options = [*(["--tuned"] if suite.tuned_by_option else []), *plugins]
        cells = (*suite.cells, *suite.untuned)
        self.bits = {cell.id: 1 << index for index, cell in enumerate(cells)}
        self.all = (1 << len(cells)) - 1
        self.having: dict[tuple[str, str], int] = defaultdict(int)
        for cell in cells:
            for key, value in describe(cell).items():
                self.having[key, str(value)] |= self.bits[cell.id]

    def of_row(self, row: Row) -> str:
        """Shell commands that run the cells of `row` and no others: one line if `--only` can select them by settings,
        otherwise a line for each cell."""
        wanted = 0
        for seed in row.seeds:
            wanted |= self.bits[seed.cell_id]
        settings = {"dataset": row.dataset, "preset": row.preset, "model": row.model, "level": row.level, **row.config}
        clauses: list[str] = []
        selected = self.all
        for key, value in settings.items():
            narrowed = selected & self._selected(key, str(value))
            if wanted & ~narrowed == 0 and narrowed != selected:
                clauses, selected = [*clauses, f"{key}={value}"], narrowed
        if selected == wanted:
            return self._run([*self.chosen, *clauses])
        return "\n".join(self.of_cell(seed.cell_id) for seed in row.seeds)

    def of_cell(self, cell_id: str) -> str:
        return self._run([f"id={cell_id}"])

    def _selected(self, key: str, value: str) -> int:
        """Cells that `--only key=value` selects; none if its syntax cannot express key or value."""
        is_plain = value == value.strip() and key == key.strip()
        expressible = is_plain and not set(",[]") & set(key + value) and not set("=<>!") & set(key)
        return self.having[key, value] if expressible else 0

    def _run(self, clauses: list[str]) -> str:
        only = ["--only", shlex.quote(",".join(clauses))] if clauses else []
        return " ".join(["symbench run", self.suite, *only, *self.options])
