"""`symbench new-baseline` and `check-baseline`: write and check a baseline."""

import shlex
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmark.cli.options import complete_models, json_option, plugin_option
from benchmark.terminal import Examples, print_json, print_table, without_repetitions


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
    from benchmark.contract import scaffold

    path = scaffold.write(name, model, folder)
    click.echo(f"wrote {path}")
    if scaffold.is_built_in(folder):
        checked, plugin, also = name, "", f"; also pytest tests/contract -k {name}"
    else:
        checked = shlex.quote(str(path))
        plugin, also = f" --plugin {checked}", ""
    steps = {
        f"symbench check-baseline {checked}": f"its contract{also}",
        f"symbench run SUITE.yaml{plugin}": f"with {name} under `models:`",
        f"symbench list models{plugin}": "its parameters beside the others'",
    }
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
    """Check the contract of a baseline, given by NAME or in a FILE of its own, on small random fields."""
    from benchmark.contract.candidate import Candidate
    from benchmark.contract.checks import OUTCOMES, examine_all
    from benchmark.models import model_registry

    name = model_registry.add_plugin(Path(baseline)) if baseline.endswith(".py") else baseline
    candidate = Candidate.named(name)
    results = []
    with Console(stderr=True).status("") as status:
        for result in examine_all(candidate):
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


COMMANDS = (new_baseline, check_baseline)
