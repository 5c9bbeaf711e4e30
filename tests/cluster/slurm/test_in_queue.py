"""States that `symbench status` shows, with scripts in place of SLURM's commands."""

import json
from dataclasses import asdict, replace

import pytest
from fake_slurm import FakeSlurm, begin, note_of, submission_of
from support import symbench

from benchmark.files import write_json
from benchmark.suite.suite import Suite
from results.store import lease
from results.store.store import Store


def states_of(suite: Suite, store: Store) -> tuple[list[str], str]:
    shown = symbench("status", suite.path, "--json", store=store)
    return [row["state"] for row in json.loads(shown.stdout)], shown.stderr


def test_what_is_sent_again_and_what_is_given_up(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    """The last job waits: the first cell has a retry left, the second has none."""
    begin(store, suite.cells[0], "communication")
    begin(store, suite.cells[1], "code_error")
    note_of(submission_of(suite, store, {"7": suite.cells}, collector="8"), store)
    fake.says("squeue", "8 PENDING")
    assert states_of(suite, store) == (["retrying", "failed", "waiting"], "")


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED by 0"])
def test_a_last_job_that_ended_badly(fake: FakeSlurm, suite: Suite, store: Store, state: str) -> None:
    begin(store, suite.cells[0], "communication")
    note_of(submission_of(suite, store, {"7": suite.cells}, collector="8"), store)
    fake.says("squeue")
    fake.says("sacct", "7|COMPLETED", f"8|{state}")
    states, said = states_of(suite, store)
    assert states == ["failed", "waiting", "waiting"]
    assert f"job 8, which sends failed cells again, ended as {state}; `symbench retry" in said
    fake.says("sacct", "7|COMPLETED", "8|COMPLETED")
    assert states_of(suite, store) == (states, "")


def test_the_queue_knows_better_than_the_lease_of_a_dead_node(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    """Job 7_0 was requeued; its lease gets stale only later."""
    begin(store, suite.cells[0])
    holder = replace(lease.Holder.this_process(), host="lost", job="7_0")
    write_json(store.cell_folder(suite.cells[0].id) / "lease-2.json", asdict(holder))
    note_of(submission_of(suite, store, {"7_0": suite.cells}), store)
    fake.says("squeue", "7_0 RUNNING")
    assert states_of(suite, store)[0] == ["running", "queued", "queued"]
    fake.says("squeue", "7_0 PENDING")
    assert states_of(suite, store)[0] == ["queued", "queued", "queued"]


def test_half_of_a_record_is_no_result(suite: Suite, store: Store) -> None:
    with store.recorder(suite.cells[0]) as recorder:
        assert recorder is not None
        recorder.start()
        recorder.finish("done", {"rmse_future": 1.0})
    path = store.cell_folder(suite.cells[0].id) / "record.json"
    path.write_text(path.read_text()[:8], encoding="utf-8")
    states, said = states_of(suite, store)
    assert states == ["waiting"] * 3
    assert f"{path.parent.name}: record.json: " in said


def test_a_message_cannot_control_the_terminal(suite: Suite, store: Store) -> None:
    with store.recorder(suite.cells[0]) as recorder:
        assert recorder is not None
        recorder.start()
        recorder.fail("error", "\x1b]0;no\x07 \udcff")  # a file name that is not UTF-8
    shown = symbench("status", suite.path, store=store)
    assert "error: ]0;no ?" in shown.stdout
    assert all(letter.isprintable() for line in shown.stdout.split("\n") for letter in line)
    (row, *_) = json.loads(symbench("status", suite.path, "--json", store=store).stdout)
    assert row["message"] == "error: \x1b]0;no\x07 ?"
