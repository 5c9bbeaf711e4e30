"""`symbench tune`: the studies of a suite, here or in allocations of a cluster."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import submitit

from benchmark import registry
from benchmark.cell import Cell
from benchmark.data.layout import data_path, require
from benchmark.environment import available_cpus
from benchmark.errors import MachineError, UserError
from benchmark.files import write_json, write_text
from benchmark.studies import distinct_studies, studies
from benchmark.study import Study, trial_cells
from benchmark.suite import Suite
from results import lease
from results.store import Store
from results.studies import Effort, StudyFolder

from . import failures, slurm
from .launch import job_folder, place
from .packing import Shape, require_precision, shape_of
from .site import Site
from .submit import cluster_folder, executor_for, refusals, requeue_if_marked
from .tuning.allocation import run_allocation
from .tuning.job import TuneJob
from .tuning.ray_node import LOOPBACK, write_token
from .tuning.summary import conclude, is_complete, is_used_up
from .tuning.supervise import run_studies

CTRL_C_PATIENCE_SECONDS = 10.0
"""How long trials may take to save where they are; a step and a little more."""
NOTE = "tuning.json"
"""Beside the jobs of studies: which job has which."""
CPU_TRIALS = 4
"""Side by side in an allocation without GPUs, where nothing is said."""
RAY_MEMORY_GB = 2.0
"""Of Ray's own processes on each node, and of the driver."""


@dataclass(frozen=True)
class Planned:
    """A study that `tune` is to bring to its end; `done` trials of it are."""

    study: Study
    done: int


def require_ray(effort: Effort) -> None:
    """MachineError: what `tune` needs is not installed."""
    missing = [name for name in ("ray", *(["optuna"] if effort.search == "optuna" else [])) if find_spec(name) is None]
    if missing:
        raise MachineError(f"tune needs {' and '.join(missing)}: pip install -e '.[tune]'")


def planned(suite: Suite, selected: Iterable[str], store: Store) -> list[Planned]:
    """The studies of the whole `suite` that hold one of the `selected` cells (by id)."""
    of_cell = studies(suite)
    wanted = {of_cell[cell_id].name: of_cell[cell_id] for cell_id in selected if cell_id in of_cell}
    if not wanted:
        raise UserError(f"{suite.name}: nothing to tune; no model of it is trained")
    return [
        Planned(study, sum(trial.closed for trial in StudyFolder(store.root, study).trials()))
        for study in wanted.values()
    ]


def tune_here(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store, trials_per_gpu: int = 1) -> int:
    """0, or 1 where a study came to nothing. KeyboardInterrupt after Ctrl-C, when all that ran has saved."""
    left = open_studies(chosen, effort, store)
    if not left:
        return 0
    for study in left:
        if holder := lease.live_holder(StudyFolder(store.root, study).root):
            raise MachineError(f"{study}: is being tuned by {holder}; wait for it")
    _require_data(left, store)
    placement = place(suite.resources, [study.train.batch_size for study in chosen])
    require_precision(_first_cells(left), placement.device)
    gpus = placement.device == "cuda"
    cpus = available_cpus()
    folder = job_folder(store.root)
    there = _visible_gpus() if gpus else 0
    job = TuneJob(
        store=store.root.resolve(),
        studies=tuple(left),
        effort=effort,
        plugins=registry.plugin_paths(),
        device=placement.device,
        ranks=placement.ranks,
        threads=max(1, cpus // (there * trials_per_gpu)) if gpus else 1,
        gpu_share=1.0 / trials_per_gpu if placement.ranks == 1 else 1.0,
        node_cpus=max(cpus, placement.ranks),
        node_gpus=there,
    )
    job_file = folder / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    with _asking() as interrupted:
        status = run_studies(job, job_file, write_token(folder), LOOPBACK, interrupted.is_set, CTRL_C_PATIENCE_SECONDS)
        if interrupted.is_set():
            raise KeyboardInterrupt
    return status


def open_studies(chosen: Sequence[Study], effort: Effort, store: Store) -> list[Study]:
    """Those that are not complete; of the others it is told what they found, and nothing has to be started.

    UserError: one of them was begun otherwise, or is not given the trials that its defaults take.
    """
    for study in chosen:
        _require_alike(study, effort, store)
    left = []
    for study in chosen:
        folder = StudyFolder(store.root, study)
        trials = folder.trials()
        if is_complete(folder, effort, trials):
            folder.begin(effort)
            print(conclude(folder, effort, is_used_up(folder, trials)), flush=True)
        else:
            left.append(study)
    return left


def _require_alike(study: Study, effort: Effort, store: Store) -> None:
    StudyFolder(store.root, study).require_alike(effort)
    if effort.trials is not None and effort.trials < len(study.defaults):
        raise UserError(
            f"{study}: the suite writes {len(study.defaults)} settings, and each is a trial;"
            f" --trials {len(study.defaults)} at least"
        )


def _require_data(chosen: Sequence[Study], store: Store) -> None:
    for study in chosen:
        for level in study.levels:
            require(data_path(store.data_folder, study.dataset.name, study.dataset.preset, level))


def _first_cells(chosen: Sequence[Study]) -> list[Cell]:
    return [cell for study in chosen for cell in trial_cells(study, study.defaults[0]) or ()]


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def _asking() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of what they do."""
    event = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def inequalities(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store) -> list[str]:
    """In what the models that meet on the board would be tuned differently; empty where all is equal.

    A model's own settings differ by nature; the training's may not, nor how long and how it is searched. Of studies
    that are not `chosen` now it counts what was done; none at all is a difference, too.
    """
    wanted = {study.name for study in chosen}
    told = []
    contests: dict[str, list[Study]] = {}
    for study in distinct_studies(suite):
        contests.setdefault(study.contest, []).append(study)
    for members in contests.values():
        if not any(study.name in wanted for study in members):
            continue
        first = next(study for study in members if study.name in wanted)
        wholes = {study.name: _in_all(study, effort, store) for study in members if study.name in wanted}
        for study in members:
            if study.training_space != first.training_space:
                told.append(f"{study}: another search space of the training than {first.model.name}'s")
            if len(study.defaults) != len(first.defaults):
                told.append(
                    f"{study}: the suite writes {len(study.defaults)} settings, and {len(first.defaults)} of"
                    f" {first.model.name}; each is a trial of full length"
                )
            if study.name in wanted:
                fewest, whole = min(one.trials or 0 for one in wholes.values()), wholes[study.name].trials or 0
                if whole > fewest:
                    told.append(f"{study}: has {whole} trials already, others would have {fewest}")
                continue
            begun = StudyFolder(store.root, study).begun()
            if begun is None:
                told.append(f"{study}: is not tuned at all, {first.model.name} is")
            elif (before := _in_all(study, begun.effort, store)) != (now := wholes[first.name]):
                told.append(f"{study}: was tuned with {_spoken(before)}, {first.model.name} with {_spoken(now)}")
    return told


def _in_all(study: Study, effort: Effort, store: Store) -> Effort:
    """What a study will have been given: trials that it has already count where fewer are asked for."""
    if effort.trials is None:
        return effort
    done = sum(trial.closed for trial in StudyFolder(store.root, study).trials())
    return effort.model_copy(update={"trials": max(done, effort.trials)})


def _spoken(effort: Effort) -> str:
    amount = f"{effort.hours:g} device-hours" if effort.hours else f"{effort.trials} trials"
    return f"{amount} ({effort.search}, {effort.scheduler})"


@dataclass(frozen=True)
class Allocation(Shape):
    """A task on each node, with GPUs for all trials of that node."""

    gpus: int = 0

    def gpus_per_node(self, site: Site) -> int:
        return self.gpus


def tune_there(
    suite: Suite,
    chosen: Sequence[Study],
    effort: Effort,
    store: Store,
    site: Site,
    nodes: int = 1,
    parallel: int | None = None,
    studies_per_job: int = 1,
    trials_per_gpu: int | None = None,
) -> str:
    """Send the studies that are not complete and that no job has in hand; what there is to say of it.

    `parallel` trials run side by side, spread over `nodes`. UserError: the site cannot; MachineError: SLURM refuses.
    """
    in_hand = _in_hand(store)
    left = [study for study in open_studies(chosen, effort, store) if study.name not in in_hand]
    if not left:
        return f"{suite.name}: nothing to send" + (f"; {len(in_hand)} studies are in earlier jobs" if in_hand else "")
    _require_data(left, store)
    job = _job_there(suite, left, effort, store, site, nodes, parallel, trials_per_gpu)
    folder = cluster_folder(store.root)
    parts = [left[first : first + studies_per_job] for first in range(0, len(left), studies_per_job)]
    files = []
    for index, part in enumerate(parts):
        file = folder / f"tune-{index}.json"
        write_text(file, job.model_copy(update={"studies": tuple(part)}).model_dump_json(indent=1))
        files.append(str(file))
    executor = _executor(folder, suite, site, job)
    with refusals():
        handles = executor.map_array(run_allocation, files)
    sent = {handle.job_id: [study.name for study in part] for handle, part in zip(handles, parts, strict=True)}
    write_json(folder / NOTE, {"suite": suite.name, "jobs": sent})
    arrays = ", ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in sent))
    return (
        f"{suite.name}: {len(left)} studies in {len(sent)} jobs ({arrays}); the logs are in {folder}\n"
        f"`symbench tune {suite.argument} --dry-run` shows how far they are, `symbench cancel` ends them"
    )


def _job_there(
    suite: Suite,
    left: Sequence[Study],
    effort: Effort,
    store: Store,
    site: Site,
    nodes: int,
    parallel: int | None,
    trials_per_gpu: int | None,
) -> TuneJob:
    """What each allocation is to do, the studies of all in it. UserError: a trial does not fit on a node."""
    shape = shape_of(suite.resources, site, [study.train.batch_size for study in left])
    require_precision(_first_cells(left), shape.device)
    if shape.nodes > 1:
        raise UserError("resources.nodes: the ranks of a trial share one node; ask for as many as one has")
    cuda = shape.device == "cuda"
    sharing = (trials_per_gpu or site.cells_per_gpu) if cuda and shape.ranks == 1 else 1
    usual = max(1, site.gpus_per_node * sharing // shape.ranks) * nodes if cuda else CPU_TRIALS
    each = -(-(parallel or usual) // nodes)
    gpus = -(-each * shape.ranks // sharing) if cuda else 0
    if gpus > site.gpus_per_node:
        raise UserError(f"--parallel: {each} trials on a node take {gpus} GPUs; the site has {site.gpus_per_node}")
    return TuneJob(
        store=store.root.resolve(),
        studies=tuple(left),
        effort=effort,
        plugins=registry.plugin_paths(),
        device=shape.device,
        ranks=shape.ranks,
        threads=site.cpus,
        gpu_share=1.0 / sharing,
        node_cpus=each * shape.ranks * site.cpus,
        node_gpus=gpus,
        nodes=nodes,
        requeues=failures.POLICIES["time_limit"].retries,
        signal_seconds=site.signal_seconds,
        scratch=site.scratch,
    )


def _executor(folder: Path, suite: Suite, site: Site, job: TuneJob) -> submitit.SlurmExecutor:
    """Where a node is lost, the others go on: Ray starts the trials anew that ran there."""
    ranks = job.node_cpus // site.cpus
    wide = site.model_copy(
        update={
            "cpus": job.node_cpus,
            "memory_gb": site.memory_gb * ranks + RAY_MEMORY_GB,
            "srun": ("--no-kill", "--wait=0", "--kill-on-bad-exit=0", *site.srun),
        }
    )
    shape = Allocation(job.device, job.nodes, job.nodes, gpus=job.node_gpus)
    executor = executor_for(folder, wide, shape, f"symbench tune {suite.name}", teardown=requeue_if_marked(folder))
    executor.update_parameters(additional_parameters={"requeue": True, "no-kill": True})
    return executor


def live_jobs(store: Store, suite: Suite) -> list[str]:
    """Jobs that tune `suite` and wait or run. MachineError where SLURM does not answer."""
    return [job for name, job, _ in _live(store) if name == suite.name]


def _in_hand(store: Store) -> set[str]:
    """Names of the studies whose jobs wait or run. MachineError where SLURM does not answer."""
    return {study for _, _, names in _live(store) for study in names}


def _live(store: Store) -> list[tuple[str, str, list[str]]]:
    """Suite, job and studies of all that was sent from this store and waits or runs."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in (store.root / "jobs").glob(f"*/{NOTE}")]
    queue = slurm.queue() if notes else {}
    if queue is None:
        raise MachineError("squeue does not answer, and jobs of this store may be in the queue; try again later")
    return [(note["suite"], job, names) for note in notes for job, names in note["jobs"].items() if job in queue]
