"""Cells of ended jobs, retries, and submission notes, with scripts in place of SLURM's commands."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_slurm import SITE, FakeSlurm, begin, note_of, submission_of
from support import symbench

from benchmark.errors import MachineError
from benchmark.suite.suite import Suite
from cluster.slurm import collector, submissions
from cluster.slurm import commands as slurm
from cluster.slurm.in_queue import InQueue
from cluster.slurm.submissions import Submission, notes
from results.board.contests import BoardTests
from results.board.leaderboard import aggregate
from results.report import report
from results.store import lease
from results.store.store import Store
from results.tracking import suite_runs as mlflow_suite_runs
from results.tracking import sync as mlflow_sync


class TestClassesOfFailures:
    def test_cells_after_a_failed_one(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        """A job of several ranks ends with its first error; later cells did not fail themselves."""
        first, second, third = suite.cells
        fake.says("sacct", "7|FAILED")
        submission = submission_of(suite, store, {"7": suite.cells})
        begin(store, first, "code_error")
        expected = {first.id: "code_error", second.id: "not_begun", third.id: "not_begun"}
        assert collector.classify(suite, store, submission) == expected
        assert set(store.statuses(suite.cells)[0]) == {first.id}

    @pytest.mark.parametrize(
        ("state", "failure"),
        [
            ("FAILED", "no_start"),
            ("", "no_start"),
            ("PREEMPTED", "preempted"),
            ("NODE_FAIL", "node_failure"),
            ("CANCELLED by 0", "cancelled"),
        ],
    )
    def test_a_job_that_began_no_cell(
        self, fake: FakeSlurm, suite: Suite, store: Store, state: str, failure: str
    ) -> None:
        fake.says("sacct", f"7|{state}" if state else "")
        submission = submission_of(suite, store, {"7": suite.cells})
        assert collector.classify(suite, store, submission) == {cell.id: failure for cell in suite.cells}

    def test_all_cells_of_a_cancelled_job(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.says("sacct", "7|CANCELLED by 0")
        begin(store, suite.cells[0], "preempted")
        submission = submission_of(suite, store, {"7": suite.cells})
        assert set(collector.classify(suite, store, submission).values()) == {"cancelled"}
        assert store.statuses(suite.cells)[0][suite.cells[0].id].failure == "cancelled"

    def test_failures_of_earlier_submissions(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        """Attempts are compared, not times, since the clocks of nodes may differ."""
        old, again, _ = suite.cells
        fake.says("sacct", "7|FAILED", "8|FAILED")
        begin(store, old, "code_error")
        begin(store, again, "code_error")
        seen = {key: status.attempt for key, status in store.statuses(suite.cells)[0].items()}
        submission = submission_of(suite, store, {"7": [old], "8": [again]}, seen=seen)
        begin(store, again, "communication")
        assert collector.classify(suite, store, submission) == {old.id: "no_start", again.id: "communication"}
        assert store.statuses([old])[0][old.id].failure == "code_error"

    def test_a_job_that_knows_why_a_rank_lost_its_peer(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        """Memory ran out on another rank than the first, which saw a closed connection."""
        cell = suite.cells[0]
        fake.says("sacct", "7|FAILED", "7.batch|FAILED", "7.0|OUT_OF_MEMORY")
        begin(store, cell, "communication")
        submission = submission_of(suite, store, {"7": [cell]})
        assert collector.classify(suite, store, submission) == {cell.id: "host_out_of_memory"}
        assert store.statuses([cell])[0][cell.id].failure == "host_out_of_memory"

    def test_a_time_limit_without_another_epoch_is_a_hang(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        """Unless the worker could save: then it was within an epoch that is longer than the limit."""
        hanging, slow, saving = suite.cells
        fake.says("sacct", "7|TIMEOUT", "8|TIMEOUT", "9|TIMEOUT")
        begin(store, hanging, epochs=1)
        begin(store, slow, epochs=2)
        begin(store, saving, "time_limit")
        jobs = {"7": [hanging], "8": [slow], "9": [saving]}
        submission = submission_of(suite, store, jobs, epochs={hanging.id: 1, slow.id: 1})
        failed = collector.classify(suite, store, submission)
        assert failed == {hanging.id: "hang", slow.id: "time_limit", saving.id: "time_limit"}

    def test_a_record_that_cannot_be_written(
        self, fake: FakeSlurm, suite: Suite, store: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The record is named, and no other cell waits for it."""
        locked, other, _ = suite.cells
        fake.says("sacct", "7|NODE_FAIL", "8|NODE_FAIL")
        begin(store, locked)
        begin(store, other)
        acquire = lease.acquire

        def fail(folder: Path, patience_seconds: float = 0.0) -> lease.Lease | None:
            if folder == store.cell_folder(locked.id):
                raise MachineError(f"{folder}: cannot be written: Operation not permitted")
            return acquire(folder, patience_seconds)

        monkeypatch.setattr(lease, "acquire", fail)
        note = note_of(submission_of(suite, store, {"7": [locked], "8": [other]}), store)
        collector.collect(str(note))
        assert f"{locked.id}: cannot be written: Operation not permitted" in capsys.readouterr().out
        assert store.statuses([other])[0][other.id].failure == "node_failure"
        (again,) = [one for one in notes(store, Submission)[0] if one.sent_again]
        assert set(again.jobs.values()) == {(locked.id,), (other.id,)}  # each alone

    def test_a_tracking_server_that_drips_its_answer(
        self, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each byte comes within the limit of a request, and the answer never ends."""
        monkeypatch.setattr(collector, "SYNC_SECONDS", 1)
        monkeypatch.setattr(mlflow_sync, "sync", lambda *_, **__: [time.sleep(0.1) for _ in range(600)])
        monkeypatch.setattr(report, "Report", lambda *_: SimpleNamespace(html=""))
        with pytest.raises(MachineError, match="the sync takes longer than 1 s"):
            collector.show(suite, store)

    def test_a_second_call_gives_the_same_classes(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.says("sacct", "7|NODE_FAIL")
        submission = submission_of(suite, store, {"7": suite.cells[:2]})
        begin(store, suite.cells[0])
        expected = {suite.cells[0].id: "node_failure", suite.cells[1].id: "not_begun"}
        assert [collector.classify(suite, store, submission) for _ in range(2)] == [expected] * 2
        assert store.statuses(suite.cells)[0][suite.cells[0].id].failure == "node_failure"


class TestWithoutAnswersOfSlurm:
    @pytest.fixture
    def submission(self, fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch) -> Submission:
        """Jobs 7_0, 7_1 and 7_2 with one running cell each; squeue fails."""
        fake.script("squeue", "exit 1")
        for cell in suite.cells:
            begin(store, cell, epochs=1)
        monkeypatch.setattr(collector, "ANSWER_SECONDS", 0.0)
        return submission_of(suite, store, {f"7_{index}": [cell] for index, cell in enumerate(suite.cells)})

    def test_jobs_that_may_be_in_the_queue_have_not_failed(
        self, fake: FakeSlurm, suite: Suite, store: Store, submission: Submission
    ) -> None:
        """Accounting says that 7_0 has ended and 7_1 runs, and nothing about 7_2."""
        fake.says("sacct", "7_0|TIMEOUT", "7_1|RUNNING")
        assert collector.classify(suite, store, submission) == {suite.cells[0].id: "time_limit"}
        states = [store.statuses([cell])[0][cell.id].state for cell in suite.cells]
        assert states == ["failed", "running", "running"]

    def test_in_the_collecting_job_all_others_have_ended(
        self, suite: Suite, store: Store, submission: Submission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        assert collector.classify(suite, store, submission) == {cell.id: "killed" for cell in suite.cells}

    def test_slurm_is_asked_again(
        self, fake: FakeSlurm, suite: Suite, store: Store, submission: Submission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(collector, "ANSWER_SECONDS", 60.0)
        fake.says_in_turn("squeue", "exit 1", "exit 1", "echo 7_1 RUNNING")
        fake.says_in_turn("sacct", *["echo '7_0|RUNNING'"] * 4, "echo '7_0|PREEMPTED'")
        failed = collector.classify(suite, store, submission)
        assert failed == {suite.cells[0].id: "preempted", suite.cells[2].id: "killed"}

    def test_a_user_id_without_a_name_gives_no_empty_queue(self, fake: FakeSlurm) -> None:
        fake.script("squeue", "echo 'squeue: error: Invalid user: 4242' >&2")
        assert slurm.queue() is None

    def test_the_queue_is_that_of_the_user_id(self, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USER", "somebody-else")
        fake.script("squeue", f'[[ " $* " == *" --user={os.getuid()} "* ]] && echo "7 RUNNING"')
        assert slurm.queue() == {"7": "RUNNING"}


class TestRetries:
    @pytest.mark.parametrize(
        ("failure", "before", "is_sent"),
        [
            ("gpu_out_of_memory", {"preempted": 20, "communication": 3}, True),
            ("gpu_out_of_memory", {"gpu_out_of_memory": 2}, True),
            ("gpu_out_of_memory", {"gpu_out_of_memory": 3}, False),
            ("code_error", {}, False),
        ],
    )
    def test_each_class_has_its_own_count(
        self, fake: FakeSlurm, suite: Suite, store: Store, failure: str, before: dict[str, int], is_sent: bool
    ) -> None:
        cell = suite.cells[0]
        fake.says("sacct", "7|FAILED")
        submission = submission_of(suite, store, {"7": [cell]}, sent_again={cell.id: before})
        begin(store, cell, failure)
        collector.collect(str(note_of(submission, store)))
        assert bool(fake.sent) is is_sent
        counts = [note.sent_again[cell.id] for note in notes(store, Submission)[0]]
        assert ({**before, failure: before.get(failure, 0) + 1} in counts) is is_sent

    def test_not_begun_cells_are_sent_without_limit(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        failing, behind, _ = suite.cells
        fake.says("sacct", "7|FAILED")
        before = {behind.id: {"not_begun": 100, "communication": 3}}
        submission = submission_of(suite, store, {"7": [failing, behind]}, sent_again=before)
        begin(store, failing, "code_error")
        collector.collect(str(note_of(submission, store)))
        jobs = {job: cells for note in notes(store, Submission)[0] for job, cells in note.jobs.items() if job != "7"}
        assert list(jobs.values()) == [(behind.id,)]

    def test_a_job_that_begins_no_cell_is_given_up(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.says("sacct", "7|FAILED")
        before = {cell.id: {"no_start": 3} for cell in suite.cells}
        collector.collect(str(note_of(submission_of(suite, store, {"7": suite.cells}, sent_again=before), store)))
        assert not fake.sent

    def test_a_halved_micro_batch_stays_halved(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        """Batch 8 on two ranks: 4 windows on each, then 2, also after a communication error, then 1."""
        cell = suite.cells[0]
        note = note_of(submission_of(suite, store, {"7": [cell]}), store)
        parts, jobs = [], []
        for failure in ("gpu_out_of_memory", "communication", "gpu_out_of_memory", "killed"):
            begin(store, cell, failure)
            known = set((store.root / "jobs").glob("*/submission.json"))
            collector.collect(str(note))
            (note,) = set((store.root / "jobs").glob("*/submission.json")) - known
            parts.append(dict(submissions.read(note, Submission).micro_batches))
            jobs.append(json.loads((note.parent / "job-0-0.json").read_text())["micro_batches"])
        assert parts == jobs == [{cell.id: windows} for windows in (2, 2, 1, 1)]

    def test_a_cell_that_lacked_memory_beside_others_is_first_sent_alone(
        self, fake: FakeSlurm, suite: Suite, store: Store
    ) -> None:
        """With all its windows; after a second failure with half of them."""
        suite.path.write_text(suite.path.read_text().replace("{ranks: 2}", "{gpus: 1}"))
        cell, other, _ = suite.cells
        sharing = SITE.model_copy(update={"gpus_per_node": 1, "cells_per_gpu": 3})
        note = note_of(submission_of(suite, store, {"7": [cell, other]}, site=sharing), store)
        parts = []
        for _ in range(2):
            begin(store, cell, "gpu_out_of_memory")
            begin(store, other, "code_error")
            known = set((store.root / "jobs").glob("*/submission.json"))
            collector.collect(str(note))
            (note,) = set((store.root / "jobs").glob("*/submission.json")) - known
            parts.append(dict(submissions.read(note, Submission).micro_batches))
        assert parts == [{}, {cell.id: 4}]

    @pytest.mark.usefixtures("fake")
    def test_without_slurms_commands_failures_are_classified_and_nothing_is_sent(
        self, suite: Suite, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """For instance in a container."""
        shown = []
        monkeypatch.setattr(collector, "show", lambda suite, store: shown.append(suite.name))
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        begin(store, suite.cells[0])
        begin(store, suite.cells[1], "preempted")
        note = note_of(submission_of(suite, store, {"7": suite.cells}), store)
        for _ in range(2):
            collector.collect(str(note))
        assert shown == [suite.name] * 2
        statuses, _ = store.statuses(suite.cells)
        assert [statuses[cell.id].failure for cell in suite.cells[:2]] == ["killed", "preempted"]
        for cell in suite.cells[:2]:
            assert statuses[cell.id].message.count("not sent again: sbatch, srun, squeue not found") == 1
        assert f"not_begun: {suite.cells[2].id}\n" in capsys.readouterr().out


class TestNotes:
    def test_a_damaged_note_is_reported_and_skipped(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        note_of(submission_of(suite, store, {"7": suite.cells[:1]}), store)
        bad = note_of(submission_of(suite, store, {"8": suite.cells[1:]}), store, "damaged")
        fake.says("squeue", "7 RUNNING", "8 PENDING")
        for text in ("", "{", "[]", '{"suite": "tiny"}'):
            bad.write_text(text, encoding="utf-8")
            now = InQueue.now(store)
            assert (now.cells, [one.folder for one in now.broken]) == ({suite.cells[0].id}, [bad.parent])
        shown = symbench("status", suite.path, store=store)
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr.startswith("skipped ")
        assert "jobs/damaged: submission.json cannot be read: jobs: Field required" in shown.stderr
        assert "Traceback" not in shown.stderr

    def test_queued_jobs_of_a_damaged_note_block_a_launch(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        bad = note_of(submission_of(suite, store, {"8": suite.cells}), store)
        bad.write_text("{", encoding="utf-8")
        (bad.parent / "8_submission.sh").write_text("", encoding="utf-8")
        fake.says("squeue", "8_1 RUNNING")
        with pytest.raises(MachineError, match=r"earlier: submission.json cannot be read: .*`scancel 8`"):
            submissions.queued_ids(store, Submission)
        with pytest.raises(MachineError, match="cannot be read"):
            submissions.live_jobs(store, suite.name, Submission)
        fake.says("squeue", "80 RUNNING")
        assert submissions.queued_ids(store, Submission) == set()
        fake.script("squeue", "exit 1")
        with pytest.raises(MachineError, match="squeue does not answer"):
            submissions.queued_ids(store, Submission)

    def test_notes_of_other_versions_are_read(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        note = note_of(submission_of(suite, store, {"7": suite.cells}), store)
        document = json.loads(note.read_text(encoding="utf-8"))
        for key in ("seen", "sent_again", "micro_batches"):
            del document[key]
        document |= {"attempts": {suite.cells[0].id: 2}, "mood": "good"}
        document["site"] |= {"colour": "green"}
        note.write_text(json.dumps(document), encoding="utf-8")
        fake.says("squeue", "7 PENDING")
        assert submissions.queued_ids(store, Submission) == {cell.id for cell in suite.cells}
        assert notes(store, Submission)[0][0].site == SITE


def test_the_collector_draws_each_figure_once(full_board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report and MLflow share the figures. Requests to MLflow are skipped here."""
    draw, drawn, wanted = report.panels_of, [], []

    def draws(*arguments: object) -> object:
        drawn.append(draw(*arguments))
        return drawn[-1]

    def sync(store: Store, suite: Suite, report: report.Report) -> None:
        records, _ = store.read(suite.cells)
        wanted.append(
            mlflow_suite_runs.board_run(BoardTests(aggregate(suite.cells, records), "rmse_future"), records, report)
        )

    monkeypatch.setattr(report, "panels_of", draws)
    monkeypatch.setattr(mlflow_sync, "sync", sync)
    collector.show(full_board.suite, full_board.store)
    assert len(drawn) == 1
    (page,) = full_board.store.root.glob("*.html")
    assert wanted[-1].artifacts["report.html"] == page.read_text(encoding="utf-8")
    assert any(name.startswith("figures/") for name in wanted[-1].artifacts)
