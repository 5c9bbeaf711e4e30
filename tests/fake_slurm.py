"""Scripts in place of SLURM's commands, with answers that a test chooses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest


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
