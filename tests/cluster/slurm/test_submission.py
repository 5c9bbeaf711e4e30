"""Jobs that are sent: notes, waves, refusals, with scripts in place of SLURM's commands."""

import json
from pathlib import Path

import pytest
from fake_slurm import SITE, FakeSlurm, begin
from support import suite_in, symbench

from benchmark import discovery
from benchmark.errors import MachineError
from benchmark.models import convnet
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from cluster.jobs.packing import Shape
from cluster.slurm import collector, submissions, submit
from cluster.slurm import commands as slurm
from cluster.slurm.submissions import Submission, notes
from cluster.slurm.submit import Batch
from results.store.store import Store

REFUSED = "echo 'error: job violates accounting/QOS policy (job submit limit, ...)' >&2; exit 1"


def sent_later(store: Store, first: Submission) -> list[tuple[str, ...]]:
    """Cells of the jobs of the other submissions."""
    others = [note for note in notes(store, Submission)[0] if note.collector != first.collector]
    return [cells for note in others for cells in note.jobs.values()]


def test_hundreds_of_cells_in_two_calls(fake: FakeSlurm, store: Store, tmp_path: Path) -> None:
    """An array, and the job that collects."""
    suite = suite_in(tmp_path, seeds=str(list(range(300))))
    site = tmp_path / "site.yaml"
    site.write_text("{scheduler: slurm, cells_per_job: 5}", encoding="utf-8")
    sent = symbench("run", suite, "--on", site, store=store)
    assert "300 cells in 60 jobs (100)" in sent.stdout
    assert len(fake.sent) == 2


class TestWaves:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        """At most three jobs in the queue, the collecting one counted."""
        path = tmp_path / "site.yaml"
        path.write_text("{scheduler: slurm, max_jobs: 3, cells_per_job: 1}", encoding="utf-8")
        return path

    def test_the_collector_sends_the_next_wave(self, fake: FakeSlurm, suite: Suite, store: Store, site: Path) -> None:
        sent = symbench("run", suite.path, "--on", site, "--live-code", store=store)
        assert "2 cells in 2 jobs (100)" in sent.stdout
        assert "more jobs may not be in the queue: job 101 sends 1 more cells" in sent.stderr
        fake.says("squeue", "101 RUNNING")
        rows = json.loads(symbench("status", suite.path, "--json", store=store).stdout)
        assert [row["state"] for row in rows].count("queued") == 1
        (first,), _ = notes(store, Submission)
        assert submissions.queued_ids(store, Submission) == set(first.unsent)
        fake.says("sacct", "100_0|CANCELLED", "100_1|CANCELLED")
        collector.collect(str(first.suite_file.with_name(Submission.FILE)))
        assert sent_later(store, first) == [first.unsent]

    def test_a_full_queue(self, fake: FakeSlurm, suite: Suite, store: Store, site: Path) -> None:
        """The collector fails, so that `status` names it."""
        fake.says("squeue", "1 RUNNING", "2 RUNNING")
        refused = symbench("run", suite.path, "--on", site, store=store)
        assert refused.returncode == 3
        assert "no room: 2 jobs of yours are in the queue, and max_jobs of the site is 3" in refused.stderr
        fake.says("squeue", "")
        symbench("run", suite.path, "--on", site, "--live-code", store=store)
        fake.says("squeue", "1 RUNNING", "101 RUNNING")
        with pytest.raises(MachineError, match="no room"):
            collector.collect(str(next(store.root.glob("jobs/*/submission.json"))))

    @pytest.mark.parametrize(
        ("account", "partition", "limit"),
        [(None, "gpu", 40), (None, None, 50), ("debug", None, 1), ("free", None, None)],
    )
    def test_the_limit_of_the_association(
        self, fake: FakeSlurm, account: str | None, partition: str | None, limit: int | None
    ) -> None:
        fake.says("sacctmgr", "physics|physics||50", "physics|physics|gpu|40", "physics|debug||1", "physics|free||")
        assert slurm.max_submit(account, partition) == limit


class TestSubmission:
    def send(self, suite: Suite, store: Store) -> None:
        work = [Batch(Shape("cpu", 2), (suite.cells[:1], suite.cells[1:2])), Batch(Shape("cpu", 1), (suite.cells[2:],))]
        submit.submit(suite, store, SITE, work, collector.collect)

    def test_the_note_has_every_job_and_the_attempts_before(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        begin(store, suite.cells[0], "code_error")
        self.send(suite, store)
        (note,), broken = notes(store, Submission)
        assert not broken
        assert note.jobs == {job: (cell.id,) for job, cell in zip(("100_0", "100_1", "101"), suite.cells, strict=True)}
        assert note.collector == "102"
        assert note.seen == {suite.cells[0].id: 1}
        assert "#SBATCH --dependency=afterany:100:101" in fake.sent[-1].replace("'", "")

    def test_plugins_of_the_suite_reach_jobs_and_the_collector(
        self, fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The collector reads the suite from the folder of the jobs."""
        monkeypatch.setattr(discovery.BASELINES, "plugins", {})
        plugin = suite.path.with_name("mine.py")
        plugin.write_text(Path(convnet.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        suite.path.write_text(suite.path.read_text().replace("convnet", "mine") + "plugins: [mine.py]\n")
        suite = suites.load(str(suite.path))
        self.send(suite, store)
        (note,), _ = notes(store, Submission)
        jobs = [json.loads(path.read_text()) for path in note.suite_file.parent.glob("job-*.json")]
        assert [job["plugins"] for job in jobs] == 3 * [[str(plugin)]]
        discovery.replace_plugins([])
        begin(store, suite.cells[0], "node_failure")
        fake.says("sacct", *(f"{job}|FAILED" for job in note.jobs))
        collector.collect(str(note.suite_file.parent / Submission.FILE))
        again = [sent for sent in notes(store, Submission)[0] if sent.collector != note.collector]
        assert [sent.plugins for sent in again] == [(plugin,)]

    def test_a_refusal_of_the_first_array(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.script("sbatch", REFUSED)
        with pytest.raises(MachineError, match=r"SLURM does not take the jobs: .*job submit limit.*set `max_jobs`"):
            self.send(suite, store)
        assert notes(store, Submission) == ([], [])

    def test_after_a_refusal_the_collector_sends_the_rest(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.says_in_turn("sbatch", "echo job 100", REFUSED, "echo job 101", "echo job 102", "echo job 103")
        self.send(suite, store)
        (note,), _ = notes(store, Submission)
        assert (set(note.jobs), note.collector, note.unsent) == ({"100_0", "100_1"}, "101", (suite.cells[2].id,))
        assert "job submit limit" in note.refusal
        assert not fake.cancelled
        fake.says("squeue", "101 RUNNING")
        fake.says("sacct", "100_0|CANCELLED", "100_1|CANCELLED")
        collector.collect(str(note.suite_file.with_name(Submission.FILE)))
        assert sent_later(store, note) == [(suite.cells[2].id,)]

    def test_a_refusal_of_the_collector(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        fake.says_in_turn("sbatch", "echo job 100", REFUSED)
        match = "jobs 100 stay in the queue, but none follows .* and 1 cells are not sent: `symbench run` again"
        with pytest.raises(MachineError, match=match):
            self.send(suite, store)
        (note,), _ = notes(store, Submission)
        assert (set(note.jobs), note.collector) == ({"100_0", "100_1"}, None)
        assert not fake.cancelled
        fake.says("squeue", "100_0 RUNNING", "100_1 PENDING")
        assert submissions.queued_ids(store, Submission) == {cell.id for cell in suite.cells[:2]}

    def fill_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = submit.write_text

        def full(path: Path, text: str) -> None:
            if '"collector":"102"' in text.replace(" ", ""):
                raise MachineError(f"{path}: cannot be written: No space left on device")
            written(path, text)

        monkeypatch.setattr(submit, "write_text", full)

    def test_a_full_disk_cancels_all_jobs(
        self, fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last write fails, when SLURM has all jobs."""
        self.fill_the_disk(monkeypatch)
        with pytest.raises(MachineError, match="No space left"):
            self.send(suite, store)
        assert fake.cancelled == {"100", "101", "102"}
        assert notes(store, Submission) == ([], [])

    def test_jobs_that_cannot_be_cancelled_are_reported(
        self, fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fill_the_disk(monkeypatch)
        fake.script("scancel", "echo 'controller is away' >&2; exit 1")
        with pytest.raises(MachineError, match=r"jobs 100, 101, 102 are .* cannot be cancelled \(controller is"):
            self.send(suite, store)
        assert set(notes(store, Submission)[0][0].jobs) == {"100_0", "100_1", "101"}

    def test_a_deleted_suite_file_is_reported(self, fake: FakeSlurm, suite: Suite, store: Store) -> None:
        suite.path.unlink()
        with pytest.raises(MachineError, match=r"tiny.yaml: cannot be read: No such file"):
            self.send(suite, store)
        assert not fake.sent
