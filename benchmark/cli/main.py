"""Command line of symbench.

Imports of torch, phiflow and mlflow take seconds: a command imports what it needs when it runs.
"""

import errno
import io
import os
import signal
import sys
from pathlib import Path

import click

from benchmark.cli.boards import COMMANDS as BOARD_COMMANDS
from benchmark.cli.data import data
from benchmark.cli.jobs import COMMANDS as JOB_COMMANDS
from benchmark.cli.mlflow import COMMANDS as MLFLOW_COMMANDS
from benchmark.cli.models import COMMANDS as MODEL_COMMANDS
from benchmark.cli.options import json_option, plugin_option
from benchmark.cli.plan import plan
from benchmark.cli.results import COMMANDS as RESULT_COMMANDS
from benchmark.cli.run import COMMANDS as RUN_COMMANDS
from benchmark.cli.store import COMMANDS as STORE_COMMANDS
from benchmark.cli.tune import tune
from benchmark.errors import MachineError, SymbenchError
from benchmark.terminal import Commands, Examples, print_json, print_table

OUTPUT_ERRORS = {errno.ENOSPC, errno.EPIPE, errno.EIO}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="symbench")
def cli() -> None:
    """Benchmark approximately equivariant networks on dynamics.

    A suite names datasets, symmetry-breaking levels, models and seeds; each combination is a cell, trained once.
    """


@click.command("list", cls=Examples, epilog="symbench list models")
@click.argument("what", type=click.Choice(["models", "datasets", "suites", "sites"]), required=False)
@json_option
@plugin_option
def list_(what: str | None, as_json: bool) -> None:
    """List the available models, datasets, suites and sites."""
    from benchmark.cli import catalogue
    from cluster import site as sites

    sections = {
        "models": catalogue.models,
        "datasets": catalogue.datasets,
        "suites": catalogue.suites,
        "sites": sites.rows,
    }
    rows = {name: list_rows() for name, list_rows in sections.items() if what in (None, name)}
    if as_json:
        print_json(rows if what is None else rows[what])
        return
    for name, section in rows.items():
        print_table(name, catalogue.for_people(name, section))


for one in (
    *(list_, data, plan, tune),
    *(*RUN_COMMANDS, *JOB_COMMANDS, *RESULT_COMMANDS, *BOARD_COMMANDS, *STORE_COMMANDS),
    *(*MLFLOW_COMMANDS, *MODEL_COMMANDS),
):
    cli.add_command(one)


def main() -> None:
    """Entry point of the console script: errors become one message and an exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which stops child processes, too
    prepare_output()
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SymbenchError as error:
        click.echo(f"symbench: {error}", err=True)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered cannot be written, either
        click.echo(f"symbench: the output cannot be written: {error.strerror}", err=True)
        sys.exit(MachineError.exit_status)


def prepare_output() -> None:
    """Show what the terminal's encoding lacks as a question mark, and write to nowhere where an output is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
