"""`make paper` with scripts in place of symbench and of the benches."""

import os
import subprocess
import sys
from pathlib import Path

from benchmark.discovery import ROOT


def test_boards_are_made_although_a_bench_fails(tmp_path: Path) -> None:
    """The script names the failed ones, and ends with status 1."""
    python = f'[ "$1" = -m ] || exec {sys.executable} "$@"\ncase "$*" in *ddp*) exit 1;; esac'
    for name, code in (("python", python), ("symbench", "")):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\n{code}\necho "{name} $*" >> {tmp_path}/calls\n', encoding="utf-8")
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    choices = {"SUITES": "quickstart", "MODELS": "convnet", "SEEDS": "0", "INTO": str(tmp_path / "boards")}
    command = ["sh", str(ROOT / "docs/paper-size.sh")]
    done = subprocess.run(command, env=environment | choices, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "paper-size.sh: failed benches: ddp-demo ddp-paper\n")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls if call.startswith("python")] == ["benchmark.bench.epoch"] * 2
    assert calls[-2:] == ["symbench run quickstart", f"symbench publish quickstart --into {tmp_path}/boards"]
