"""Fixtures: the environment in which SLURM's commands reach the test cluster, and login nodes."""

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from slurm.login_node import LoginNode, exported_by, manage
from support import store_in

from results.store.record import Record

NewLoginNode = Callable[..., LoginNode]


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment with SLURM_CONF. Uses a running cluster after emptying its queue, or starts one for the session."""
    answer = manage("status")
    started = answer.returncode != 0
    if started:
        answer = manage("up")
    if answer.returncode != 0:
        if os.environ.get("SYMBENCH_REQUIRE_SLURM") == "1":
            pytest.fail(f"SYMBENCH_REQUIRE_SLURM=1, but there is no SLURM: {answer.stderr}")
        pytest.skip(f"no SLURM: {answer.stderr.splitlines()[0]}")
    environment = exported_by(answer)
    subprocess.run(["scancel", "--user=root"], env=environment, check=True)
    yield environment
    if started:
        manage("down")


@pytest.fixture(scope="session")
def new_login_node(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewLoginNode]:
    """Factory of login nodes, each with its own store and site file; keywords go into the site file."""
    made = []

    def make(**site: object) -> LoginNode:
        folder = tmp_path_factory.mktemp("login")
        made.append(LoginNode(slurm, store_in(folder / "störe with spaces", "small"), folder, **site))
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
    """Record of the same cell trained without interruption, by number of ranks; each rank is on its own node."""
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
