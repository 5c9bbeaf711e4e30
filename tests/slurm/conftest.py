"""The environment in which sbatch, srun and sacct speak to the test cluster, and people who work there."""

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from slurm.login_node import LoginNode, manage
from support import store_in

from results.store.record import Record

NewLoginNode = Callable[..., LoginNode]


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Our environment and SLURM_CONF. A cluster that runs is emptied and left; else one is started for the tests."""
    answer = manage("status")
    started = answer.returncode != 0
    if started:
        answer = manage("up")
    if answer.returncode != 0:
        if os.environ.get("SYMBENCH_REQUIRE_SLURM") == "1":
            pytest.fail(f"no SLURM, and SYMBENCH_REQUIRE_SLURM=1 asks for it: {answer.stderr}")
        pytest.skip(f"no SLURM: {answer.stderr.splitlines()[0]}")
    exports = [line.removeprefix("export ") for line in answer.stdout.splitlines() if line.startswith("export ")]
    environment = os.environ | dict(line.split("=", 1) for line in exports)
    subprocess.run(["scancel", "--user=root"], env=environment, check=True)
    yield environment
    if started:
        manage("down")


@pytest.fixture(scope="session")
def new_login_node(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewLoginNode]:
    """Makes one with a store and a site file of its own; keywords go into the site file."""
    made = []

    def make(**site: object) -> LoginNode:
        folder = tmp_path_factory.mktemp("login")
        made.append(LoginNode(slurm, store_in(folder / "störe with spaces"), folder, **site))
        return made[-1]

    yield make
    for node in made:
        node.clear()


@pytest.fixture
def login_node(new_login_node: NewLoginNode) -> Iterator[LoginNode]:
    node = new_login_node()
    yield node
    node.clear()


@pytest.fixture(scope="session")
def undisturbed(new_login_node: NewLoginNode) -> Callable[[int], Record]:
    """The cell that others are stopped in, run in one go: by how many ranks, on as many nodes."""
    nodes = {1: new_login_node(), 2: new_login_node()}
    for ranks, node in nodes.items():
        node.declare(epochs=60, ranks=ranks, nodes=ranks)
        node.run()

    def wait(ranks: int) -> Record:
        nodes[ranks].wait_for_all()
        (record,) = nodes[ranks].records()
        assert record.status.state == "done", nodes[ranks].logs()
        return record

    return wait
