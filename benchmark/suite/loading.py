"""Finds and loads suites: reads the YAML, expands it into cells, and puts in tuned settings if asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.errors import UserError, unknown_name
from benchmark.suite.cells import expanded
from benchmark.suite.reader import SuiteReader
from benchmark.suite.suite import SUITES_FOLDER, Suite
from benchmark.suite.tuned import resolved


def available() -> list[str]:
    """Names of the suites that come with symbench."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def load(
    name_or_path: str, store: Path | None = None, tuned: bool = False, only: str = "", partly: bool = False
) -> Suite:
    """Read, validate and expand a suite, named or as a path. UserError: all that is wrong with it, a line each.

    Where the suite asks for `tuned` settings, or the caller does, they are those that `symbench tune` left in `store`,
    if one is named. A suite that does not ask for them itself is then called `<name>-tuned`. UserError where a cell of
    it (of `only` these) is not tuned; with `partly`, for those who look at what there is, such cells are left out.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SUITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"{unknown_name('suite', name_or_path, available())}; or give a path to a .yaml file")
    reader = SuiteReader(path)
    suite = expanded(reader.declaration(), reader.grid)
    if tuned and not suite.tuned:
        suite = replace(suite, tuned=True, asked=True, name=f"{suite.name}-tuned")
    if suite.tuned and store is not None:
        return resolved(suite, store, only, partly)
    return suite.only(only) if only else suite
