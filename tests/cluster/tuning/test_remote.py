"""Studies sent to a cluster: the sbatch script, the submission note, and studies that are already queued."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from support import symbench
from tuning_support import EPOCHS, MakeSuite

from benchmark import discovery
from benchmark.errors import MachineError
from benchmark.files import write_json
from benchmark.models import convnet
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.suite.suite import Resources, Suite
from cluster.site import Site
from cluster.slurm import submissions
from cluster.slurm.submissions import TuningSubmission
from cluster.tuning import remote
from cluster.tuning.remote import Layout
from results.store.store import Store
from results.store.studies import Effort

SITE = Site(scheduler="slurm", minutes=60, max_array_size=1000)


@pytest.fixture
def suite(make_suite: MakeSuite) -> Suite:
    return suites.load(str(make_suite(models="[{convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)))


def send(suite: Suite, store: Store) -> str:
    return remote.tune_on_cluster(suite, distinct_studies(suite), Effort(trials=2), store, SITE, Layout())


def test_studies_are_sent_once(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    assert "tiny: 2 studies, a job each (100); the logs are in" in send(suite, store)
    (text,) = fake.sent
    assert "#SBATCH --array=0-1" in text
    assert "#SBATCH --no-kill" in text
    (note,), broken = submissions.notes(store, TuningSubmission)
    assert not broken
    first, second = (study.name for study in distinct_studies(suite))
    assert note.jobs == {"100_0": (first,), "100_1": (second,)}
    fake.says("squeue", "100_0 RUNNING", "100_1 PENDING")
    assert send(suite, store) == "tiny: nothing to send; 2 studies are in earlier jobs"
    assert submissions.live_jobs(store, suite.name, TuningSubmission) == ["100_0", "100_1"]


def test_the_time_limit_is_that_of_the_suite(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    send(replace(suite, resources=Resources(minutes=240)), store)
    assert "#SBATCH --time=240\n" in fake.sent[0]


def test_a_job_has_the_plugins_of_the_suite(
    fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    plugin = suite.path.with_name("mine.py")
    plugin.write_text(Path(convnet.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    suite.path.write_text(suite.path.read_text().replace("convnet", "mine") + "plugins: [mine.py]\n")
    send(suites.load(str(suite.path)), store)
    jobs = [json.loads(path.read_text()) for path in store.root.glob("jobs/*/*.json") if path.name != "tuning.json"]
    assert [job["plugins"] for job in jobs] == 2 * [[str(plugin)]]


def test_jobs_whose_note_cannot_be_written_are_cancelled(
    fake: FakeSlurm, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise MachineError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(remote, "write_text", full)
    with pytest.raises(MachineError, match=r"tuning.json: cannot be written: No space left"):
        send(suite, store)
    assert fake.cancelled == {"100"}


def test_a_damaged_note_of_jobs_in_the_queue_is_named(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    send(suite, store)
    (note,) = store.root.glob("jobs/*/tuning.json")
    note.write_text("{", encoding="utf-8")
    fake.says("squeue", "100_1 RUNNING")
    with pytest.raises(MachineError, match=r"tuning.json cannot be read: .*`scancel 100`"):
        send(suite, store)
    fake.says("squeue", "")
    assert "2 studies, a job each (101)" in send(suite, store)


def test_the_jobs_of_a_suite_are_those_that_wait_or_run(fake: FakeSlurm, suite: Suite, store: Store) -> None:
    for folder, name, jobs in (("a", suite.name, {"7_0": ["x"], "7_1": ["y"]}), ("b", "another", {"8": ["z"]})):
        write_json(store.root / "jobs" / folder / TuningSubmission.FILE, {"suite": name, "jobs": jobs})
    fake.says("squeue", "7_1 RUNNING", "8 PENDING")
    assert submissions.live_jobs(store, suite.name, TuningSubmission) == ["7_1"]
    text = suite.path.read_text(encoding="utf-8").replace("models: [", "models: [of_a_plugin_that_is_gone, ")
    assert "plugin" in text
    suite.path.write_text(text, encoding="utf-8")
    fake.script("scancel", "exit 0")
    assert symbench("cancel", suite.path, store=store).stdout.startswith(f"{suite.name}: 1 jobs cancelled; ")
    fake.script("squeue", "exit 1")
    with pytest.raises(MachineError, match="squeue does not answer"):
        submissions.live_jobs(store, suite.name, TuningSubmission)
