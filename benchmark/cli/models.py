"""`symbench new-baseline`, `new-dataset`, `check-baseline` and `check-dataset`: write and check plug-ins."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from benchmark import discovery
from benchmark.cli.options import complete_models, json_option, plugin_option
from benchmark.terminal import Examples, print_json, print_table, without_repetitions

if TYPE_CHECKING:
    from benchmark.contract.checks import Result
    from benchmark.contract.scaffold import Kind


@click.command(
    "new-baseline",
    cls=Examples,
    epilog="symbench new-baseline my_model\n"
    "symbench new-baseline my_model --from relaxed_steerable_rotation\n"
    "symbench new-baseline my_model --from convnet --folder benchmark/models",
)
@click.argument("name")
@click.option("--from", "model", metavar="MODEL", help="Baseline to copy (default: a plain convolutional network).")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Folder of the file (default: here); in benchmark/models it becomes a built-in.",
)
def new_baseline(name: str, model: str | None, folder: Path) -> None:
    """Write NAME.py, a working baseline: a copy of MODEL, or a plain network. Nothing is overwritten."""
    path, checked, plugin = _written(name, model, folder, "baseline")
    also = "" if plugin else f"; also pytest tests/contract -k {name}"
    _print_next(
        path,
        {
            f"symbench check-baseline {checked}": f"its contract{also}",
            f"symbench run SUITE.yaml{plugin}": f"with {name} under `models:`",
            f"symbench list models{plugin}": "its parameters beside the others'",
        },
    )


@click.command(
    "new-dataset", cls=Examples, epilog="symbench new-dataset my_flow\nsymbench new-dataset my_flow --from beta_plane"
)
@click.argument("name")
@click.option("--from", "original", metavar="DATASET", help="Dataset to copy (default: vortices in a wind).")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Folder of the file (default: here); in benchmark/data/datasets it becomes a built-in.",
)
def new_dataset(name: str, original: str | None, folder: Path) -> None:
    """Write NAME.py, a working dataset: a copy of DATASET, or a small one. Nothing is overwritten."""
    path, checked, plugin = _written(name, original, folder, "dataset")
    _print_next(
        path,
        {
            f"symbench check-dataset {checked}": "its contract",
            f"symbench data prepare SUITE.yaml{plugin}": f"with {name} under `datasets:`",
            f"symbench run SUITE.yaml{plugin}": "trains on it",
        },
    )


def _written(name: str, original: str | None, folder: Path, kind: Kind) -> tuple[Path, str, str]:
    """The new file, how commands name it, and their option for it; a built-in needs none."""
    from benchmark.contract import scaffold

    path = scaffold.write(name, original, folder, kind)
    if scaffold.is_built_in(folder, kind):
        return path, name, ""
    quoted = shlex.quote(str(path))
    return path, quoted, f" --plugin {quoted}"


def _print_next(path: Path, steps: Mapping[str, str]) -> None:
    click.echo(f"wrote {path}")
    click.echo("next:")
    for command, meaning in steps.items():
        click.echo(f"  {command:{max(map(len, steps))}}  # {meaning}")


@click.command(
    "check-baseline", cls=Examples, epilog="symbench check-baseline convnet\nsymbench check-baseline my_model.py --json"
)
@click.argument("baseline", metavar="NAME|FILE", shell_complete=complete_models)
@json_option
@plugin_option
def check_baseline(baseline: str, as_json: bool) -> None:
    """Check the contract of a baseline, given by NAME or in a FILE of its own, on small random states."""
    from benchmark.contract.candidate import Candidate
    from benchmark.contract.checks import examine_all

    name = discovery.add_plugin(Path(baseline)) if baseline.endswith(".py") else baseline
    _show(name, examine_all(Candidate.named(name)), as_json)


@click.command(
    "check-dataset", cls=Examples, epilog="symbench check-dataset beta_plane\nsymbench check-dataset my_flow.py --json"
)
@click.argument("dataset", metavar="NAME|FILE")
@json_option
@plugin_option
def check_dataset(dataset: str, as_json: bool) -> None:
    """Check the contract of a dataset, given by NAME or in a FILE of its own, at its smallest preset."""
    from benchmark.contract.datasets import DatasetCandidate, examine_all

    name = discovery.add_plugin(Path(dataset)) if dataset.endswith(".py") else dataset
    _show(name, examine_all(DatasetCandidate.named(name)), as_json)


def _show(name: str, outcomes: Iterable[Result], as_json: bool) -> None:
    """Run and show the checks; exit status 1 if one failed."""
    from benchmark.contract.checks import OUTCOMES

    results = []
    with Console(stderr=True).status("") as status:
        for result in outcomes:
            results.append(result)
            status.update(f"after {result.check.name.replace('_', ' ')}")
    failed = [result for result in results if result.outcome == "failed"]
    if as_json:
        checks = [
            {
                "check": result.check.name,
                "demand": result.check.demand,
                "outcome": result.outcome,
                "reason": result.reason,
                "seconds": round(result.seconds, 2),
            }
            for result in results
        ]
        print_json({"name": name, "passed": not failed, "checks": checks})
    else:
        shown = [result for result in results if result.outcome != "not run"]
        reasons = without_repetitions([(result.check.name.replace("_", " "), result.reason) for result in failed])
        reason_of = {result.check: reason for result, reason in zip(failed, reasons, strict=True)}
        rows = [
            {
                "check": result.check.name.replace("_", " "),
                "result": ": ".join(
                    filter(
                        None, (result.outcome.replace("failed", "FAILED"), reason_of.get(result.check, result.reason))
                    )
                ),
                "seconds": f"{result.seconds:.2f}",
            }
            for result in shown
        ]
        print_table(name, rows)
        counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in OUTCOMES}
        skipped = counts.pop("not run")
        click.echo(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
        if skipped:
            click.echo(f"{skipped} not run: they need a forecast")
    if failed:
        sys.exit(1)


COMMANDS = (new_baseline, check_baseline, new_dataset, check_dataset)
