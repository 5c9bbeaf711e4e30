"""Tuning on a cluster: SLURM jobs, each with a study and a Ray cluster of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from benchmark.data.layout import require_data
from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from cluster.jobs import policies
from cluster.jobs.packing import Shape, require_precision, shape_of
from cluster.jobs.snapshot import plugins_in, with_code
from cluster.site import Site
from cluster.slurm import commands as slurm
from cluster.slurm.sbatch import cancel_on_error, cluster_folder, executor_for, requeue_if_marked, room, submit_array
from cluster.slurm.submissions import TuningSubmission, queued_ids
from cluster.tuning.allocation import run_allocation
from cluster.tuning.job import TuneJob
from cluster.tuning.plan import first_cells, open_studies
from results.store.store import Store
from results.store.studies import Effort

CPU_TRIALS = 4
"""Default number of parallel trials in an allocation without GPUs."""
RAY_MEMORY_GB = 2.0
"""Memory of Ray's own processes and the driver, on each node."""


@dataclass(frozen=True)
class Allocation(Shape):
    """One task on each node, with GPUs for all trials of that node."""

    gpus: int = 0

    def gpus_per_node(self, site: Site) -> int:
        return self.gpus


@dataclass(frozen=True)
class Layout:
    """Nodes of a job, and the trials that run at a time (None: as many as the site's devices allow).

    `code` is the snapshot of the code that jobs import, as in `Submission`.
    """

    nodes: int = 1
    parallel: int | None = None
    trials_per_gpu: int | None = None
    code: Path | None = None


def tune_on_cluster(
    suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store, site: Site, layout: Layout
) -> str:
    """Send the incomplete studies that are not in an earlier job; returns a summary for the user.

    Raises UserError if the site cannot run them, and MachineError if SLURM refuses.
    """
    sent = queued_ids(store, TuningSubmission)
    studies = [study for study in open_studies(chosen, effort, store) if study.name not in sent]
    if not studies:
        return f"{suite.name}: nothing to send" + (f"; {len(sent)} studies are in earlier jobs" if sent else "")
    require_data(store.data_folder, first_cells(studies))
    sendable = studies[: room(site)]
    job = _job(suite, studies, effort, store, site, layout)
    folder = cluster_folder(store.root)
    documents = {
        f"tune-{index}.json": job.model_copy(update={"studies": (study,)}) for index, study in enumerate(sendable)
    }
    note = folder / TuningSubmission.FILE
    with cancel_on_error(note) as taken:
        ids = submit_array(
            _executor(folder, suite, with_code(site, layout.code), job), run_allocation, folder, documents
        )
        taken += slurm.arrays_of(ids)
        jobs = {job_id: (study.name,) for job_id, study in zip(ids, sendable, strict=True)}
        write_text(note, TuningSubmission(suite=suite.name, jobs=jobs, code=layout.code).model_dump_json(indent=1))
    beyond = f"; {len(studies) - len(jobs)} more have no room, the same command sends them later"
    return (
        f"{suite.name}: {len(jobs)} studies, a job each ({', '.join(taken)}); the logs are in {folder}"
        f"{beyond if len(jobs) < len(studies) else ''}\n"
        f"`symbench tune {suite.argument} --dry-run` shows how far they are, `symbench cancel` ends them"
    )


def _job(suite: Suite, studies: Sequence[Study], effort: Effort, store: Store, site: Site, layout: Layout) -> TuneJob:
    """Job with all `studies`. Raises UserError if a trial does not fit on a node."""
    shape = shape_of(suite.resources, site, [study.train.batch_size for study in studies])
    require_precision(first_cells(studies), shape.device)
    if shape.nodes > 1:
        raise UserError("resources.nodes: the ranks of a trial share one node; ask for as many as one has")
    cuda, nodes = shape.device == "cuda", layout.nodes
    sharing = (layout.trials_per_gpu or site.cells_per_gpu) if cuda and shape.ranks == 1 else 1
    default = max(1, site.gpus_per_node * sharing // shape.ranks) * nodes if cuda else CPU_TRIALS
    trials = -(-(layout.parallel or default) // nodes)
    gpus = -(-trials * shape.ranks // sharing) if cuda else 0
    if gpus > site.gpus_per_node:
        raise UserError(f"--parallel: {trials} trials on a node take {gpus} GPUs; the site has {site.gpus_per_node}")
    return TuneJob(
        store=store.root.resolve(),
        studies=tuple(studies),
        effort=effort,
        plugins=plugins_in(layout.code),
        code=layout.code,
        device=shape.device,
        ranks=shape.ranks,
        threads=site.cpus,
        gpu_share=1.0 / sharing,
        node_cpus=trials * shape.ranks * site.cpus,
        node_gpus=gpus,
        nodes=nodes,
        requeues=policies.POLICIES["time_limit"].retries,
        signal_seconds=site.signal_seconds,
        scratch=site.scratch,
    )


def _executor(folder: Path, suite: Suite, site: Site, job: TuneJob) -> submitit.SlurmExecutor:
    """Executor for jobs that survive the loss of a node, whose trials Ray restarts elsewhere."""
    ranks = job.node_cpus // site.cpus
    node = site.model_copy(
        update={
            "cpus": job.node_cpus,
            "memory_gb": site.memory_gb * ranks + RAY_MEMORY_GB,
            "srun": ("--no-kill", "--wait=0", "--kill-on-bad-exit=0", *site.srun),
        }
    )
    shape = Allocation(job.device, job.nodes, job.nodes, minutes=suite.resources.minutes, gpus=job.node_gpus)
    executor = executor_for(folder, node, shape, f"symbench tune {suite.name}", teardown=requeue_if_marked(folder))
    executor.update_parameters(additional_parameters={"requeue": True, "no-kill": True})
    return executor
