"""One holder at a time: leases under rivals, after deaths, and when the dead come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from results import lease
from results.lease import STALE_SECONDS, acquire, live_holder


def elsewhere(folder: Path, age: float = 0.0, number: int = 1) -> None:
    """A lease of a process on another machine, which touched it `age` seconds ago."""
    path = folder / f"lease-{number}.json"
    path.write_text(json.dumps({"host": "far", "pid": 1, "started": 1.0, "job": "7"}), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    assert first is not None
    assert acquire(tmp_path) is None
    with first.kept():
        assert live_holder(tmp_path) == first.holder
        assert acquire(tmp_path) is None
    assert live_holder(tmp_path) is None
    second = acquire(tmp_path)
    assert second is not None
    assert second.number == first.number + 1


def test_rivals_get_one_lease_between_them(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=STALE_SECONDS + 10)
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: acquire(tmp_path), range(64)))
    assert [one.number for one in taken if one is not None] == [2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rival_processes_get_one_lease_between_them(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from results.lease import acquire; "
    code += "sys.stdin.readline(); print(acquire(Path(sys.argv[1])) is not None, flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    rivals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    answers = [rival.stdout.readline().strip() for rival in rivals if rival.stdout is not None]
    for rival in rivals:
        rival.communicate("end\n")
    assert sorted(answers) == ["False", "False", "False", "True"]


def test_a_silent_holder_elsewhere_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    assert acquire(tmp_path) is None
    assert str(live_holder(tmp_path)) == "job 7, process 1 on far"
    elsewhere(tmp_path, age=STALE_SECONDS + 10)
    assert live_holder(tmp_path) is None
    assert acquire(tmp_path) is not None


def test_a_process_that_died_here_is_taken_over_at_once(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from results.lease import acquire; "
    code += "os._exit(acquire(Path(sys.argv[1])) is None)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert live_holder(tmp_path) is None
    assert acquire(tmp_path) is not None


def test_one_who_comes_back_from_the_dead_sees_every_successor(tmp_path: Path) -> None:
    old = acquire(tmp_path)
    assert old is not None
    assert not old.lost
    for number in range(2, 6):  # they end one after another, and old files are cleared away
        elsewhere(tmp_path, age=STALE_SECONDS + 10, number=number)
    newest = acquire(tmp_path)
    assert newest is not None
    assert newest.number == 6
    assert old.lost
    assert not newest.lost
    with old.kept():
        pass  # what it leaves behind must not touch its successor
    assert live_holder(tmp_path) == newest.holder


def test_a_lease_that_cannot_be_read_is_a_dead_one(tmp_path: Path) -> None:
    (tmp_path / "lease-3.json").write_text("{", encoding="utf-8")
    taken = acquire(tmp_path)
    assert taken is not None
    assert taken.number == 4


def test_it_is_touched_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    mine = acquire(tmp_path)
    assert mine is not None
    os.utime(mine.path, (1, 1))
    with mine.kept():
        while mine.path.stat().st_mtime < 2:
            time.sleep(0.01)
