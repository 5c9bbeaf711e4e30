"""5,000 mutated files: an error of ours or none, within 12 CPU seconds and 1 GiB each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz


def test_no_mutated_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """In a process of its own, with limits. `python tests/fuzz.py FOLDER KIND NUMBER` repeats one file."""
    path = os.pathsep.join([str(Path(fuzz.__file__).parent), str(Path(fuzz.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, fuzz.__file__, str(tmp_path)]
    run = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    outcome = json.loads(run.stdout.splitlines()[-1])
    assert outcome["failures"] == []
    assert outcome["files"] == 5000
    assert outcome["slowest"] < fuzz.MOST_SECONDS
