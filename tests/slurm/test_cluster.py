"""The test cluster itself: the properties that the other SLURM tests rely on."""

import subprocess
import time
from pathlib import Path

import pytest
import submitit

SACCT_PATIENCE_SECONDS = 30
Environment = dict[str, str]


def call(slurm: Environment, *command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=slurm, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_two_hosts(slurm: Environment) -> None:
    names = call(slurm, "srun", "--nodes=2", "sh", "-c", "echo $(hostname) $SLURMD_NODENAME $(hostname -I)")
    assert sorted(names.splitlines()) == ["n1 n1 10.77.0.11", "n2 n2 10.77.0.12"]


def test_a_task_sees_the_gpu_that_it_was_given(slurm: Environment) -> None:
    seen = call(slurm, "srun", "--nodes=1", "--ntasks=2", "--gpus-per-task=1", "printenv", "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.splitlines()) == ["0", "1"]


def test_sacct_knows_how_a_job_ended(slurm: Environment, tmp_path: Path) -> None:
    answer = call(slurm, "sbatch", "--parsable", f"--output={tmp_path}/out", "--wrap=exit 7")
    deadline = time.monotonic() + SACCT_PATIENCE_SECONDS
    seen = ""
    while not seen.startswith(("FAILED", "COMPLETED")) and time.monotonic() < deadline:
        seen = call(slurm, "sacct", f"--jobs={answer}", "-X", "--noheader", "--parsable2", "--format=State,ExitCode")
        time.sleep(0.2)
    assert seen == "FAILED|7:0"


def test_an_array_runs_each_of_its_tasks(slurm: Environment, tmp_path: Path) -> None:
    call(slurm, "sbatch", "--wait", "--array=0-2", "--output=%a", "--wrap=echo task $SLURM_ARRAY_TASK_ID", cwd=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(i): f"task {i}\n" for i in range(3)}


def test_submitit_runs_an_array_of_two_node_jobs(
    slurm: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(index: int) -> tuple[int, int, int, str]:  # a closure: a job cannot import this file
        import socket

        import submitit

        job = submitit.JobEnvironment()
        return index, job.global_rank, job.num_tasks, socket.gethostname()

    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
    executor.update_parameters(nodes=2, tasks_per_node=1, timeout_min=5)
    jobs = executor.map_array(where, [10, 11])
    assert [job.results() for job in jobs] == [[(n, 0, 2, "n1"), (n, 1, 2, "n2")] for n in (10, 11)]
