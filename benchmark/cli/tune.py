"""`symbench tune`: searches for the settings of a suite's models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from benchmark.cli.options import (
    Selection,
    live_code_option,
    only_option,
    selecting,
    set_option,
    site_of,
    site_option,
    suite_argument,
)
from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.search_space import check_keep
from benchmark.terminal import Examples, print_table

if TYPE_CHECKING:
    from results.store.studies import StudyFolder

DEFAULT_TRIALS = 20


@click.command(
    cls=Examples,
    epilog="symbench tune quickstart --trials 8\nsymbench tune my-suite.yaml --gpu-hours 20 --search optuna\n"
    "symbench tune my-suite.yaml --on my-site.yaml --nodes 2\nsymbench run my-suite.yaml --tuned",
)
@selecting(suite_argument, only_option, set_option)
@site_option
@click.option("--trials", type=click.IntRange(min=1), help=f"Trials of each study (default: {DEFAULT_TRIALS}).")
@click.option(
    "--gpu-hours",
    "hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Instead of --trials: hours of each study, over all its GPUs, or its ranks on a CPU.",
)
@click.option("--search", type=click.Choice(["random", "optuna"]), default="random", show_default=True)
@click.option("--scheduler", type=click.Choice(["asha", "none"]), default="asha", show_default=True)
@click.option(
    "--trials-per-gpu",
    type=click.IntRange(min=1),
    help="One-rank trials that share a GPU (default: 1, or as in the site's file).",
)
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="On a cluster: nodes per study."
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    help="On a cluster: trials of a study at a time (default: GPUs of a node, or 4 on CPUs).",
)
@live_code_option
@click.option("--allow-unequal", is_flag=True, help="Tune although models of one contest are not tuned alike.")
@click.option("--dry-run", is_flag=True, help="Show the studies and their search spaces, and start nothing.")
def tune(
    selection: Selection,
    site: str,
    trials: int | None,
    hours: float | None,
    search: Literal["random", "optuna"],
    scheduler: Literal["asha", "none"],
    trials_per_gpu: int | None,
    nodes: int,
    parallel: int | None,
    live_code: bool,
    allow_unequal: bool,
    dry_run: bool,
) -> None:
    """Search for the settings of each model of SUITE, by validation RMSE alone, with equal effort for all models.

    A study is the search for one model on one level, or on a group of levels if the suite groups them. Its first trial
    has the settings of the suite. `symbench run SUITE --tuned` uses the best ones. The same command continues an
    interrupted search; more --trials extend it.
    """
    from cluster.jobs import snapshot
    from cluster.tuning.local import tune_locally
    from cluster.tuning.plan import inequalities, require_ray, selected_studies, without_result
    from cluster.tuning.remote import Layout, tune_on_cluster
    from results.store.studies import Effort, StudyFolder

    place = site_of(site, live_code=live_code)
    if place is None and (nodes != 1 or parallel is not None):
        raise UserError("--nodes and --parallel: are for a cluster, with `--on SITE`")
    if trials is not None and hours is not None:
        raise UserError("--trials and --gpu-hours: give one of them")
    trials = trials if hours or trials else DEFAULT_TRIALS
    effort = Effort(search=search, scheduler=scheduler, trials=trials, hours=hours)
    suite, store = selection.declared(), selection.store
    selected = [cell.id for cell in (suite.only(selection.only) if selection.only else suite).cells]
    chosen = selected_studies(suite, selected)
    print_table(f"{suite.name}: studies", _rows([StudyFolder(store.root, study) for study in chosen]))
    click.echo(f"settings of every training: {', '.join(_own(chosen[0].space, 'train.')) or 'nothing'}")
    unequal = inequalities(suite, chosen, effort, store)
    for line in (*check_keep(suite), *(f"not tuned alike: {line}" for line in unequal)):
        click.echo(line, err=True)
    if dry_run:
        return
    if unequal and not allow_unequal:
        raise UserError(f"{suite.name}: its models would not be tuned alike (above); --allow-unequal does it anyway")
    require_ray(effort)
    suites.keep(suite, store.root)
    if place is not None:
        layout = Layout(nodes, parallel, trials_per_gpu, None if live_code else snapshot.take(store.root))
        click.echo(tune_on_cluster(suite, chosen, effort, store, place, layout))
        sys.exit(1 if without_result(chosen, effort, store) else 0)
    try:
        status = tune_locally(suite, chosen, effort, store, trials_per_gpu or 1)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from the trials' last steps", err=True)
        sys.exit(130)
    status = status or int(bool(without_result(chosen, effort, store)))
    if status == 0:
        click.echo(f"{suite.name}: {len(chosen)} studies complete; `symbench run {suite.argument} --tuned` uses them")
    sys.exit(status)


def _rows(folders: Sequence[StudyFolder]) -> list[dict[str, Any]]:
    return [
        {
            "dataset": folder.study.dataset.name,
            "level": ", ".join(map(str, folder.study.levels)),
            "model": folder.study.model.name,
            "settings of the model": ", ".join(_own(folder.study.space, "model.")) or "-",
            "trials done": folder.closed_trials(),
        }
        for folder in folders
    ]


def _own(space: Any, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in space if key.startswith(prefix)]
