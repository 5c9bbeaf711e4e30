"""Loads suites: reads the YAML, expands it into cells, and replaces settings by tuned ones."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ruamel.yaml import YAML

from benchmark.errors import MachineError, UserError, unknown_name
from benchmark.suite.cells import expanded
from benchmark.suite.reader import SuiteReader
from benchmark.suite.suite import SUITES_FOLDER, Suite
from benchmark.suite.tuned import resolved


def available() -> list[str]:
    """Names of the suites in `suites/`."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def load(
    name_or_path: str, store: Path | None = None, tuned: bool = False, only: str = "", skip_untuned: bool = False
) -> Suite:
    """Read, validate and expand a suite, named or as a path. UserError: all that is wrong with it, a line each.

    If the suite or the caller asks for `tuned` settings, and a `store` is given, they are the results of
    `symbench tune` there; a suite that does not ask for them itself gets the name `<name>-tuned`. UserError if a cell
    (of `only` these) is not tuned; with `skip_untuned` such cells are left out.
    """
    reader = SuiteReader(_path_of(name_or_path))
    suite = expanded(reader.declaration(), reader.grid)
    if tuned and not suite.tuned:
        suite = replace(suite, tuned=True, tuned_by_option=True, name=f"{suite.name}-tuned")
    if suite.tuned and store is not None:
        return resolved(suite, store, only, skip_untuned)
    return suite.only(only) if only else suite


def name_of(name_or_path: str) -> str:
    """Name of a suite, whose plug-ins and tuned settings may be absent. UserError: it has none."""
    reader = SuiteReader(_path_of(name_or_path))
    name = reader.name()
    reader.file.stop_on_errors()
    return name


def _path_of(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SUITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"{unknown_name('suite', name_or_path, available())}; or give a path to a .yaml file")
    return path


def copied(suite: Suite, plugins: Sequence[str]) -> str:
    """Text of the file of `suite` for another folder, with these paths of its plug-ins. MachineError: it is gone."""
    try:
        text = suite.path.read_text(encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{suite.path}: cannot be read: {error.strerror}") from error
    if not suite.plugins:
        return text
    yaml = YAML(typ="rt")
    yaml.preserve_quotes, yaml.width = True, 10_000
    tree, copy = yaml.load(text), io.StringIO()
    tree["plugins"] = list(plugins)
    yaml.dump(tree, copy)
    return copy.getvalue()
