"""Loads suites: reads the YAML, expands it into cells, and replaces settings by tuned ones."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ruamel.yaml import YAML

from benchmark.errors import MachineError, UserError, unknown_name
from benchmark.files import write_text
from benchmark.suite.cells import expanded
from benchmark.suite.reader import SuiteReader
from benchmark.suite.suite import SUITES_FOLDER, Suite
from benchmark.suite.tuned import resolved
from benchmark.suite.yaml_file import overrides_of, plain
from benchmark.terminal import one_line


def available() -> list[str]:
    """Names of the suites in `suites/`."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def load(
    name_or_path: str,
    store: Path | None = None,
    tuned: bool = False,
    only: str = "",
    skip_untuned: bool = False,
    overrides: Iterable[str] = (),
) -> Suite:
    """Read, validate and expand a suite, named or as a path. UserError: all that is wrong with it, a line each.

    If the suite or the caller asks for `tuned` settings, and a `store` is given, they are the results of
    `symbench tune` there; a suite that does not ask for them itself gets the name `<name>-tuned`. UserError if a cell
    (of `only` these) is not tuned; with `skip_untuned` such cells are left out. With `overrides`, as of `--set`, it is
    a suite of its own, whose name has them.
    """
    suite = declared(name_or_path, store, overrides)
    if tuned and not suite.tuned:
        suite = replace(suite, tuned=True, tuned_by_option=True, name=f"{suite.name}-tuned")
    if suite.tuned and store is not None:
        return resolved(suite, store, only, skip_untuned)
    return suite.only(only) if only else suite


def declared(name_or_path: str, store: Path | None = None, overrides: Iterable[str] = ()) -> Suite:
    """The suite with the settings that it writes, or that `overrides` write, whether or not it asks for tuned ones."""
    reader = SuiteReader(path_of(name_or_path, store), overrides_of(overrides))
    return replace(expanded(reader.declaration(), reader.grid), overrides=reader.file.replaced)


def name_of(name_or_path: str, store: Path | None = None, overrides: Iterable[str] = ()) -> str:
    """Name of a suite, whose plug-ins and tuned settings may be absent. UserError: it has none."""
    reader = SuiteReader(path_of(name_or_path, store), overrides_of(overrides))
    name = reader.name()
    reader.file.stop_on_errors()
    return name


def path_of(name_or_path: str, store: Path | None = None) -> Path:
    """File of a suite: a path, a name in `suites/`, or the name of one with overrides that `store` keeps."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SUITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file() and store is not None:
            path = _kept_file(store, name_or_path)
        if not path.is_file():
            names = [*available(), *kept(store)]
            raise UserError(f"{unknown_name('suite', name_or_path, names)}; or give a path to a .yaml file")
    return path


def copied(suite: Suite, plugins: Sequence[str]) -> str:
    """Text of the file of `suite` for another folder, with these paths of its plug-ins. MachineError: it is gone.

    Overrides are written out, with the name that they give.
    """
    try:
        text = suite.path.read_text(encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{suite.path}: cannot be read: {error.strerror}") from error
    if not suite.plugins and not suite.overrides:
        return text
    yaml = YAML(typ="rt")
    yaml.preserve_quotes, yaml.width = True, 10_000
    tree, copy = yaml.load(text), io.StringIO()
    if suite.overrides:
        reader = SuiteReader(suite.path, overrides_of(suite.overrides))
        tree = {**plain(reader.tree), "name": reader.name()}  # without anchors, whose values may differ now
        copy.write(f"# {one_line(suite.argument)}\n")
    if suite.plugins:
        tree["plugins"] = list(plugins)
    yaml.dump(tree, copy)
    return copy.getvalue()


def keep(suite: Suite, store: Path) -> None:
    """Write a suite with overrides into `store`, where later commands name it; of another one, do nothing."""
    if suite.overrides:
        name = name_of(str(suite.path), store, suite.overrides)
        write_text(_kept_file(store, name), copied(suite, [str(path) for path in suite.plugins]))


def kept(store: Path | None) -> list[str]:
    """Names of the suites with overrides that `store` keeps, as its files have them."""
    return [] if store is None else sorted(path.stem for path in (store / "suites").glob("*.yaml"))


def _kept_file(store: Path, name: str) -> Path:
    return store / "suites" / f"{re.sub(r'[^A-Za-z0-9._=+,-]+', '-', name)[:200]}.yaml"
