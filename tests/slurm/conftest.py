"""The environment in which sbatch, srun and sacct speak to the test cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CLUSTER = Path(__file__).with_name("cluster.py")


def cluster(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CLUSTER), command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Our environment and SLURM_CONF. A cluster that runs is used and left alone; else one is started for the tests."""
    answer = cluster("status")
    started = answer.returncode != 0
    if started:
        answer = cluster("up")
    if answer.returncode != 0:
        if os.environ.get("SYMBENCH_REQUIRE_SLURM") == "1":
            pytest.fail(f"no SLURM, and SYMBENCH_REQUIRE_SLURM=1 asks for it: {answer.stderr}")
        pytest.skip(f"no SLURM: {answer.stderr.splitlines()[0]}")
    exports = [line.removeprefix("export ") for line in answer.stdout.splitlines() if line.startswith("export ")]
    yield os.environ | dict(line.split("=", 1) for line in exports)
    if started:
        cluster("down")
