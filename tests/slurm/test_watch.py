"""`symbench sync --watch` while a suite runs on a real SLURM."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_support import IGNORED_WARNINGS, Server
from slurm.login_node import WAITING, LoginNode

pytestmark = IGNORED_WARNINGS
NewLoginNode = Callable[..., LoginNode]
EPOCHS = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of an MLflow server on the loopback address, which the nodes cannot reach."""
    server = Server(tmp_path)
    server.start()
    yield server.url
    server.kill(signal.SIGTERM)


def cell_runs(server: str) -> dict[str, tuple[str, str, list[int]]]:
    """Cell id -> run id, status and logged epochs."""
    from mlflow.tracking import MlflowClient

    client, shown = MlflowClient(server), {}
    experiment: Any = client.get_experiment_by_name("symbench/tiny")
    for run in client.search_runs([experiment.experiment_id] if experiment else [], "tags.`symbench.kind` = 'cell'"):
        curve = client.get_metric_history(run.info.run_id, "validation_rmse")
        epochs = sorted(point.step for point in curve)
        shown[run.data.tags["symbench.cell"]] = run.info.run_id, run.info.status, epochs
    return shown


def test_epochs_of_running_cells_appear_in_mlflow(new_login_node: NewLoginNode, server: str) -> None:
    """Only the login node reaches the server. Ctrl-C ends the watch but no job, and a second watch continues."""
    node = new_login_node(cells_per_job=1)
    node.plug_in("waiting", WAITING)
    suite = node.declare("[{waiting: {hidden: 4}}]", seeds="[0, 1]", epochs=EPOCHS)
    node.run()
    watching = ("sync", suite, "--watch", "--tracking-uri", server, "--plugin", node.plugin)
    node.wait_for_epoch(1, cells=2)
    watch = node.start(*watching)
    node.wait_until(lambda: len(cell_runs(server)) == 2)
    first = cell_runs(server)

    def grown() -> bool:
        now = cell_runs(server)
        return all(len(now[cell][2]) > len(epochs) for cell, (_, _, epochs) in first.items())

    node.wait_until(grown)
    assert [status for _, status, _ in cell_runs(server).values()] == ["RUNNING", "RUNNING"]
    assert watch.poll() is None
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=60)
    assert (watch.returncode, errors.strip()) == (130, "interrupted")
    assert len(node.jobs("RUNNING")) > 0

    watch = node.start(*watching)
    (node.folder / "go").touch()
    output, errors = watch.communicate(timeout=300)
    assert watch.returncode == 0, errors
    assert "2 of 2 cells final" in output.splitlines()[-1]
    last = cell_runs(server)
    assert {cell: run_id for cell, (run_id, _, _) in last.items()} == {
        cell: run_id for cell, (run_id, _, _) in first.items()
    }
    for cell, (_, status, epochs) in last.items():
        assert status == "FINISHED"
        assert epochs == sorted(set(epochs)), "each once"
        assert set(first[cell][2]) | {1, EPOCHS} <= set(epochs)
    node.wait_for_all()
    assert node.states() == ["done", "done"], node.logs()
