"""Check of what symbench asks of a GPU: `make gpu-check`. Without one, what a CPU can show.

Each step runs in a process of its own, which ends at the step's time limit. The table says what was expected and what
was seen.
"""

import subprocess
import sys
import time
from pathlib import Path

import click
import torch

from benchmark.bench import harness
from benchmark.bench.gpu_steps import STEPS, Step
from benchmark.bench.harness import ON_GPU, Row

COLUMNS = {
    "step": "{step}",
    "expected": "{expected}",
    "seen": "{seen}",
    "verdict": "{verdict}",
    "time": "{seconds:.0f} s",
}


@click.command(help=__doc__)
@click.option("--only", metavar="NAME", help="Run this step in this process; a wrong result is a traceback.")
@harness.json_option
def main(only: str | None, json_file: Path | None) -> None:
    """Run all steps and print the table; the module's docstring is the help text."""
    if only is not None:
        torch.set_num_threads(1)  # on a busy CPU, more would wait for each other at every small tensor
        click.echo(STEPS[only].run())
        return
    rows = []
    for step in STEPS.values():
        click.echo(f"{step.name} ...", err=True)
        rows.append(row(step))
    harness.report(harness.formatted(rows, COLUMNS), rows, json_file)
    if failed := [str(row["step"]) for row in rows if row["verdict"] == "failed"]:
        click.echo(
            f"failed: {', '.join(failed)}; `python -m benchmark.bench.gpu_check --only NAME` shows why", err=True
        )
        sys.exit(1)


def row(step: Step) -> Row:
    """Run one step in a process of its own."""
    started = time.monotonic()
    if step.needs_gpu and not ON_GPU:
        seen, verdict = "", "not run: no GPU"
    else:
        command = [sys.executable, "-m", __spec__.name, "--only", step.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=step.limit_s, check=False)
        except subprocess.TimeoutExpired:
            seen, verdict = f"no end after {step.limit_s} s", "failed"
        else:
            lines = (done.stdout if done.returncode == 0 else done.stderr).split("\n")
            seen = next((line for line in reversed(lines) if line.strip()), f"status {done.returncode}")
            verdict = "failed" if done.returncode else "passed"
    seconds = time.monotonic() - started
    return {"step": step.name, "expected": step.expected, "seen": seen, "verdict": verdict, "seconds": seconds}


if __name__ == "__main__":
    main()
