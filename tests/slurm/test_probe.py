"""Probe on the cluster: a short two-node job times training steps; its result is used for this site alone."""

import json
from typing import Any

from slurm.login_node import SITE, LoginNode


def plan(node: LoginNode, *options: object) -> tuple[dict[str, dict[str, Any]], str]:
    """Rows by model, and stderr."""
    done = node.symbench("plan", node.suite, "--on", node.site, "--json", *options)
    assert done.returncode == 0, done.stderr
    return {row["model"]: row for row in json.loads(done.stdout)["rows"]}, done.stderr


def test_steps_timed_on_two_nodes_are_used_for_that_site_alone(login_node: LoginNode) -> None:
    login_node.declare("[persistence, {convnet: {hidden: 4}}]", nodes=2, ranks=2, seeds="[0, 1]", epochs=50)
    guessed, _ = plan(login_node)
    probed, messages = plan(login_node, "--probe")
    assert [guessed["convnet"]["estimate"], probed["convnet"]["estimate"]] == ["from FLOPs", "probe"]
    assert probed["persistence"]["estimate"] == "from FLOPs"
    assert "times 1 kind of cells" in messages
    login_node.wait_for_all()
    (kept,) = (login_node.store.root / "step_timings").glob("*.json")
    document = json.loads(kept.read_text())
    assert document["shape"] == {"device": "cpu", "ranks": 2, "nodes": 2, "lanes": 1}
    assert document["step_timing"]["data"] == "real"
    again, messages = plan(login_node, "--probe")
    assert again["convnet"] == probed["convnet"]
    assert "job" not in messages
    login_node.site.write_text(json.dumps(SITE | {"cpus": 2}), encoding="utf-8")
    assert plan(login_node)[0]["convnet"]["estimate"] == "from FLOPs"


def test_a_probe_that_does_not_start_in_time_is_cancelled(login_node: LoginNode) -> None:
    login_node.declare()
    login_node.site.write_text(json.dumps(SITE | {"setup": ["sleep 120"]}), encoding="utf-8")
    done = login_node.symbench("plan", login_node.suite, "--on", login_node.site, "--probe", "--patience", 3)
    assert done.returncode == 3
    assert "after 3 s and was cancelled; wait longer with --patience, or plan without --probe" in done.stderr
    login_node.wait_for_all()


def test_a_python_that_does_not_start_is_reported(login_node: LoginNode) -> None:
    login_node.declare()
    login_node.site.write_text(json.dumps(SITE | {"python": "/no/such/python"}), encoding="utf-8")
    rows, messages = plan(login_node, "--probe")
    assert rows["convnet"]["estimate"] == "from FLOPs"
    assert "not probed: convnet on smoke_rotation_levels (small)" in messages
    assert "/no/such/python: No such file or directory" in messages
