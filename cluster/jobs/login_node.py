"""Consideration for other users of a login node: heavy commands take two cores there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import click

CORES = 2


@contextmanager
def few_cores(chosen: int | None, option: str) -> Iterator[None]:
    """Warn on a login node, and use two cores during the block, also in child processes.

    Not if the user has `chosen` how much runs at a time, with `option`.
    """
    is_login_node = shutil.which("sbatch") is not None and "SLURM_JOB_ID" not in os.environ
    if chosen is not None or not is_login_node or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    click.echo(
        f"this may be a login node, as sbatch is here and this is no job: at most {CORES} cores are used; "
        f"`--on SITE` sends jobs, `{option}` takes more cores here",
        err=True,
    )
    os.sched_setaffinity(0, sorted(before)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
