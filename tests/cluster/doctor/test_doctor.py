"""Findings of the doctor; a real cluster is examined in tests/slurm."""

import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm

from benchmark.errors import MachineError, UserError
from cluster.doctor import doctor, probe
from cluster.doctor.doctor import Finding, examine_site, rank_findings
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import waiting

CPUS = Site(scheduler="slurm")
GPUS = Site(scheduler="slurm", gpus_per_node=4)
QUESTION = "/shared/jobs/x"


def rank(**changes: Any) -> dict[str, Any]:
    """Answer of a rank without problems."""
    return {
        "host": "n1",
        **probe.versions(),
        "executable": "/shared/.venv/bin/python",
        "broken": [],
        "compile": "",
        "gpus": [],
        "peers": True,
        "shm_bytes": 64e9,
        "slices": 0,
        "compute_modes": [],
        "cpus": 8,
        "network": "",
        "scratch": "",
        "question": QUESTION,
        "missing_commands": [],
        "controller": True,
        "ahead_of_disk": 0.0,
        **changes,
    }


def findings_of(*ranks: dict[str, Any], site: Site = CPUS, disk: float = 0.0) -> dict[str, Finding]:
    return {finding.check: finding for finding in rank_findings(site, ranks, QUESTION, disk)}


@pytest.mark.parametrize(
    ("modes", "slices", "cells_per_gpu", "expected"),
    [
        (["Default", "Default"], 0, 4, {}),
        (
            ["Exclusive_Process"],
            0,
            1,
            {"gpu mode": "ok: a GPU takes one process (Exclusive_Process), and one cell runs"},
        ),
        (["Default", "Exclusive_Process"], 0, 4, {"gpu mode": "failed: cells_per_gpu 4, but a GPU takes one process"}),
        (["Prohibited"], 0, 1, {"gpu mode": "failed: a GPU takes no process (Prohibited)"}),
        (["Default"], 7, 1, {"gpu slices": "ok: 7 MIG slices: a cell has one"}),
    ],
)
def test_divided_and_exclusive_gpus(
    modes: list[str], slices: int, cells_per_gpu: int, expected: dict[str, str]
) -> None:
    answer = rank(gpus=["NVIDIA A100"], compute_modes=modes, slices=slices)
    findings = findings_of(answer, answer, site=GPUS.model_copy(update={"cells_per_gpu": cells_per_gpu}))
    shown = {check: f"{one.verdict}: {one.detail}" for check, one in findings.items() if check.startswith("gpu ")}
    assert shown.keys() == expected.keys()
    assert all(shown[check].startswith(text) for check, text in expected.items())


def test_without_problems_there_is_no_advice() -> None:
    findings = findings_of(rank(), rank(host="n2"))
    assert {finding.verdict for finding in findings.values()} == {"ok"}
    assert {finding.advice for finding in findings.values()} == {""}
    assert "n1, n2" in findings["shared folder"].detail


@pytest.mark.parametrize(
    ("changes", "site", "check", "verdict", "detail"),
    [
        (
            {"question": "No such file"},
            CPUS,
            "shared folder",
            "failed",
            "n2 does not see a file written here: No such file",
        ),
        ({"symbench": "0.0.1"}, CPUS, "versions", "warning", "0.0.1 in the job"),
        ({"checkout": "/opt/symbench"}, CPUS, "versions", "warning", "/opt/symbench in the job"),
        ({"broken": ["e2cnn: ImportError: no"]}, CPUS, "libraries", "failed", "e2cnn: ImportError"),
        ({}, GPUS, "gpu", "failed", "torch sees none in the job on n1, n2"),
        ({"network": "the name n2 stands for 127.0.1.1"}, CPUS, "network", "failed", "n2 stands for 127.0.1.1"),
        ({"scratch": "/tmp/x: full"}, CPUS, "scratch", "warning", "n2: /tmp/x: full"),
        ({"ahead_of_disk": -45.0}, CPUS, "clock", "warning", "45 s apart"),
    ],
)
def test_a_problem_on_one_node_is_reported_with_advice(
    changes: dict[str, Any], site: Site, check: str, verdict: str, detail: str
) -> None:
    finding = findings_of(rank(), rank(host="n2", **changes), site=site)[check]
    assert finding.verdict == verdict
    assert detail in finding.detail
    assert finding.advice


def test_the_clock_of_this_machine_is_compared() -> None:
    assert findings_of(rank(), disk=-120.0)["clock"].verdict == "warning"


def test_gpus_are_named() -> None:
    findings = findings_of(rank(gpus=["A100"]), rank(host="n2", gpus=["A100"]), site=GPUS)
    assert findings["gpu"] == Finding("gpu", "ok", "A100")


def test_gpus_of_a_node_need_shared_memory() -> None:
    with_gpus = rank(gpus=["A100"])
    assert findings_of(with_gpus, site=GPUS)["gpus of a node"].verdict == "ok"
    small = findings_of(with_gpus, {**with_gpus, "peers": False, "shm_bytes": 64e6}, site=GPUS)["gpus of a node"]
    assert (small.verdict, small.detail) == ("warning", "they do not reach each other's memory; /dev/shm has 0.064 GB")
    assert "bind /dev/shm" in small.advice


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"missing_commands": ["sbatch", "squeue"], "controller": False}, "not found: sbatch, squeue"),
        ({"controller": False}, "squeue does not answer there"),
    ],
)
def test_a_container_without_slurm_is_reported(changes: dict[str, Any], detail: str) -> None:
    finding = findings_of(rank(**changes))["commands in a job"]
    assert (finding.verdict, finding.detail) == ("warning", detail)
    assert "container" in finding.advice


def test_a_wrong_sum_is_a_failure() -> None:
    two = Shape("cuda", 2, nodes=2)
    assert doctor._sum(two, "nccl", {"sum": 2.0, "seconds": 0.1}).verdict == "ok"
    wrong = doctor._sum(two, "nccl", {"sum": 1.0, "seconds": 0.1})
    assert wrong.verdict == "failed"
    assert "the sum of 2 ones is 1 (nccl)" in wrong.detail


def test_the_probe_describes_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / probe.QUESTION).write_text(f'"{QUESTION}"')
    environment = probe.describe(tmp_path, "$NO_SUCH_VARIABLE")
    assert environment["question"] == QUESTION
    assert environment["missing_commands"] == list(probe.IN_JOB_COMMANDS)
    assert not environment["controller"]
    assert "the job has no such variable" in environment["scratch"]
    assert environment["broken"] == []
    assert environment.keys() >= rank().keys() - {"ahead_of_disk", "compile"}
    assert probe.describe(tmp_path, str(tmp_path / "scratch"))["scratch"] == ""


def test_without_a_compiler_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial job says so, and what is needed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = probe.compile_problem("cpu")
    assert "InvalidCxxCompiler: No working C++ compiler found" in problem
    finding = findings_of(rank(compile=problem))["compiler"]
    assert (finding.verdict, finding.detail) == ("warning", problem)


@pytest.mark.parametrize(
    ("state", "answers", "check", "detail"),
    [
        ("PENDING Priority", 0, "job", "100 is PENDING (Priority) after 0 s"),
        ("RUNNING None", 1, "job", "100 is RUNNING after 0 s"),
        ("RUNNING None", 2, "ranks", "no connection between ranks: they have started, and hang for more than 0 s"),
    ],
)
def test_ranks_that_hang_are_told_from_a_full_queue(
    state: str, answers: int, check: str, detail: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CONNECTION_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
    fake.says("squeue", f"100 {state}")
    for number in range(answers):
        answer = rank(question=str(tmp_path), time=0.0)
        (tmp_path / probe.ANSWER.format(number)).write_text(json.dumps(answer), encoding="utf-8")
    *_, last = doctor._job(CPUS, Shape("cpu", 2, nodes=2), tmp_path, 0.0)
    assert (last.check, last.verdict) == (check, "failed")
    assert last.detail.startswith(detail)
    assert fake.cancelled == {"100"}


def test_a_partition_that_demands_a_gpu(fake: FakeSlurm, tmp_path: Path) -> None:
    """Untrained models and the last job of a submission ask for none, and may go to another partition."""
    refuses = "grep -qE 'gpus-per-node|partition=cpu' \"${@: -1}\" || { echo 'job needs a GPU' >&2; exit 1; }"
    fake.script("sbatch", f"{refuses}; exit 0")
    fake.says("scontrol", "MaxArraySize = 1000", "SLURM_VERSION = 23.02")

    def findings(site: Site) -> dict[str, Finding]:
        until_limits = itertools.takewhile(lambda one: one.check != "job", examine_site(site, tmp_path, 0.0))
        return {finding.check: finding for finding in until_limits}

    refused = findings(GPUS)["jobs without a GPU"]
    assert (refused.verdict, refused.detail) == ("failed", "job needs a GPU")
    assert "`cpu_partition`" in refused.advice
    shown = findings(GPUS.model_copy(update={"cpu_partition": "cpu"}))
    assert "jobs without a GPU" not in shown
    assert shown["limits"].verdict == "ok"


def test_the_store_is_checked_and_not_made(tmp_path: Path) -> None:
    finding = doctor._store(tmp_path / "not" / "yet")
    assert finding.verdict in ("ok", "warning")
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    assert "is a file" in doctor._store(tmp_path / "file" / "runs").detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert doctor._store(tmp_path / "closed" / "runs").verdict == "failed"


def test_without_slurm_the_missing_commands_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = list(examine_site(CPUS, tmp_path / "runs", 1.0))
    assert findings[-1].check == "commands"
    assert "sbatch, srun" in findings[-1].detail
    with pytest.raises(MachineError, match="not ready: commands"):
        doctor.require_ready(findings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["100%", "back\\slash", "line\nbreak"])
def test_a_path_that_slurm_would_change_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be given to SLURM"):
        list(examine_site(CPUS, tmp_path / name, 1.0))


def test_the_last_log_line_of_a_job_is_not_from_srun(tmp_path: Path) -> None:
    assert waiting.last_log_line(tmp_path, "7") == ""
    (tmp_path / "7_0_log.out").write_text("starts\nexecve(): No such file\n\nsrun: error: n1: task 0: Exited\n")
    assert waiting.last_log_line(tmp_path, "7") == "execve(): No such file"
    (tmp_path / "8_0_log.out").write_text("srun: error: n1: task 0: Exited\n")
    assert waiting.last_log_line(tmp_path, "8") == "srun: error: n1: task 0: Exited"


def test_each_state_is_reported_once_with_its_reason(
    fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ("echo 7 PENDING Priority", "echo 7 PENDING Priority", "exit 1", "echo 7 RUNNING None", "true")
    fake.says_in_turn("squeue", *answers)
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
    reported: list[str] = []
    assert waiting.wait_for("7", tmp_path, 60.0, 0.0, reported.append) is None
    assert reported == ["PENDING (Priority)", "unknown, squeue does not answer", "RUNNING"]


def test_slurm_is_asked_once_while_a_job_runs(fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the job is seen on the disk."""
    fake.script("squeue", 'echo asked >> "$HERE/asked"; echo 7 RUNNING')
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.01)
    end = threading.Timer(0.3, (tmp_path / "7_0_result.pkl").touch)
    assert waiting.wait_for("7", tmp_path, 60.0, CPUS.poll_seconds, lambda state: end.start()) is None
    assert (fake.folder / "asked").read_text() == "asked\n"
