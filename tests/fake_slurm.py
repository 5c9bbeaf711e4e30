"""Scripts in place of SLURM's commands, with answers that a test chooses, and what jobs leave in a store."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmark.cell import Cell
from benchmark.suite.suite import Suite
from benchmark.training.recorder import Epoch
from cluster.site import Site
from cluster.slurm.submissions import Submission
from results.store.store import Store


class FakeSlurm:
    """Scripts in place of SLURM's commands. sbatch gives job numbers from 100; `sent` are its batch scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.script("sbatch", 'n=$(ls "$HERE" | grep -c "^sent-"); cp "$1" "$HERE/sent-$n"; echo "job $((100 + n))"')
        self.script("scancel", 'echo "$@" >> "$HERE/cancelled"')
        self.script("srun", "true")
        self.says("squeue", "")
        self.says("sacct", "")
        self.says("scontrol", "")
        self.says("sacctmgr", "")

    @classmethod
    def on_path(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
        """Write the scripts to a new `folder` and put it on the path."""
        made = cls(folder)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
        return made

    def script(self, command: str, text: str) -> None:
        path = self.folder / command
        path.write_text(f"#!/bin/bash\nHERE='{self.folder}'\n{text}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def says(self, command: str, *lines: str) -> None:
        self.script(command, "\n".join(f"echo '{line}'" for line in lines if line) or "true")

    def says_in_turn(self, command: str, *answers: str) -> None:
        """Set the shell code of each call in turn; the last one repeats."""
        cases = "\n".join(f"{number}) {answer} ;;" for number, answer in enumerate(answers[:-1]))
        count = f'n=$(cat "$HERE/{command}.n" 2>/dev/null || echo 0); echo $((n + 1)) > "$HERE/{command}.n"'
        self.script(command, f"{count}\ncase $n in\n{cases}\n*) {answers[-1]} ;;\nesac")

    @property
    def sent(self) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("sent-*"))]

    @property
    def cancelled(self) -> set[str]:
        path = self.folder / "cancelled"
        return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


SITE = Site(scheduler="slurm", minutes=60, poll_seconds=0.01, max_array_size=1000, setup=("module load python",))


def submission_of(suite: Suite, store: Store, jobs: Mapping[str, Sequence[Cell]], **more: object) -> Submission:
    ids = {job: tuple(cell.id for cell in cells) for job, cells in jobs.items()}
    fields = {"suite": suite.name, "suite_file": suite.path, "store": store.root, "site": SITE, **more}
    return Submission(plugins=(), jobs=ids, **fields)


def note_of(submission: Submission, store: Store, name: str = "earlier") -> Path:
    note = store.root / "jobs" / name / "submission.json"
    note.parent.mkdir(parents=True)
    note.write_text(submission.model_dump_json(), encoding="utf-8")
    return note


def begin(store: Store, cell: Cell, failure: str = "", epochs: int = 0) -> None:
    """Make an attempt that failed with `failure`, or that died without an error, after some epochs."""
    with store.recorder(cell) as recorder:
        assert recorder is not None
        recorder.start()
        recorder.progress([Epoch(number, 1.0, 1.0, 1.0, 0.1, 1.0) for number in range(epochs)], 3)
        if failure:
            recorder.fail(failure, "in words")
