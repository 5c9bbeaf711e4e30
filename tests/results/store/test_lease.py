"""Leases with rivals, after the death of a holder, and when a holder that was cut off comes back."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmark.errors import MachineError
from benchmark.files import write_text
from results.store import lease
from results.store.lease import STALE_SECONDS, acquire, live_holder
from results.store.store import Store


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def foreign_lease(folder: Path, age: float = 0.0, number: int = 1) -> None:
    """Write the lease of a process on another machine, which touched it `age` seconds ago."""
    path = folder / f"lease-{number}.json"
    path.write_text(json.dumps({"host": "far", "pid": 1, "started": 1.0, "job": "7"}), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    assert acquire(tmp_path) is None
    with first.kept():
        assert live_holder(tmp_path) == first.holder
        assert acquire(tmp_path) is None
    assert live_holder(tmp_path) is None
    second = acquire(tmp_path)
    assert second.number == first.number + 1


def test_rivals_get_one_lease_between_them(tmp_path: Path) -> None:
    foreign_lease(tmp_path, age=STALE_SECONDS + 10)
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: acquire(tmp_path), range(64)))
    assert [one.number for one in taken if one is not None] == [2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rival_processes_get_one_lease_between_them(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from results.store.lease import acquire; "
    code += "sys.stdin.readline(); print(acquire(Path(sys.argv[1])) is not None, flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    rivals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for rival in rivals:
        rival.stdin.write("go\n")
        rival.stdin.flush()
    answers = [rival.stdout.readline().strip() for rival in rivals if rival.stdout is not None]
    for rival in rivals:
        rival.communicate("end\n")
    assert sorted(answers) == ["False", "False", "False", "True"]


def test_a_silent_holder_elsewhere_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    foreign_lease(tmp_path)
    assert acquire(tmp_path) is None
    assert str(live_holder(tmp_path)) == "job 7, process 1 on far"
    foreign_lease(tmp_path, age=STALE_SECONDS + 10)
    assert live_holder(tmp_path) is None
    assert acquire(tmp_path) is not None


def test_a_process_that_died_here_is_taken_over_at_once(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from results.store.lease import acquire; "
    code += "os._exit(acquire(Path(sys.argv[1])) is None)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert live_holder(tmp_path) is None
    assert acquire(tmp_path) is not None


def test_a_holder_that_was_cut_off_sees_its_successor(tmp_path: Path) -> None:
    old = acquire(tmp_path)
    assert not old.lost
    for number in range(2, 6):  # each removes older files
        foreign_lease(tmp_path, age=STALE_SECONDS + 10, number=number)
    newest = acquire(tmp_path)
    assert newest.number == 6
    assert old.lost
    assert old.known_lost
    assert not newest.lost
    with old.kept():
        pass  # its release must not change the successor's file
    assert live_holder(tmp_path) == newest.holder


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "far"}'])
def test_the_holder_of_a_lease_that_cannot_be_read_may_live(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lease-3.json"
    path.write_text(text, encoding="utf-8")
    assert acquire(tmp_path) is None
    assert live_holder(tmp_path) is not None
    os.utime(path, (time.time() - STALE_SECONDS - 10,) * 2)
    assert live_holder(tmp_path) is None
    taken = acquire(tmp_path)
    assert taken.number == 4


def test_a_lease_of_a_later_version_is_read(tmp_path: Path) -> None:
    document = {"host": "far", "pid": 1, "started": 1.0, "released": True, "mood": "good"}
    (tmp_path / "lease-1.json").write_text(json.dumps(document), encoding="utf-8")
    assert acquire(tmp_path) is not None


@pytest.mark.parametrize("anew", [False, True], ids=["moved", "made anew"])
def test_a_folder_that_was_moved_or_made_anew_is_lost(tmp_path: Path, anew: bool) -> None:
    """In the folder made anew another process holds a lease of the same number."""
    mine = acquire(make(tmp_path / "cell"))
    with mine.kept():
        (tmp_path / "cell").rename(tmp_path / "elsewhere")
        if anew:
            foreign_lease(make(tmp_path / "cell"))
        assert mine.lost
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["lease-1.json"] * (1 + anew)
    assert live_holder(tmp_path / "elsewhere") == mine.holder  # its file was not touched again, either


def test_a_lease_from_the_future_is_dead(tmp_path: Path) -> None:
    foreign_lease(tmp_path, age=-STALE_SECONDS + 10)
    assert acquire(tmp_path) is None
    foreign_lease(tmp_path, age=-STALE_SECONDS - 10)
    assert acquire(tmp_path) is not None


def test_files_are_compared_with_the_clock_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose clock is two minutes behind ours dates a live lease two minutes back."""
    monkeypatch.setattr(lease, "_measured_ahead", lambda disk: -120.0)
    foreign_lease(tmp_path, age=120)
    assert live_holder(tmp_path) is not None
    assert acquire(tmp_path) is None
    foreign_lease(tmp_path, age=0)  # two minutes ahead of the disk
    assert live_holder(tmp_path) is None


def test_no_lock_and_no_link_of_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre may have no flock (ENOSYS), other disks no hard links (EPERM)."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("flock"))
    monkeypatch.setattr(os, "link", lambda *_: pytest.fail("link"))
    store = Store(tmp_path)
    refused = pytest.raises(MachineError, match=r"another `symbench run` is at work here \(process")
    with store.alone("run"), refused, store.alone("run"):
        pass
    with store.alone("run"):
        pass


def test_a_lease_that_cannot_be_released_gets_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = acquire(tmp_path)
    with mine.kept():
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    assert "lease-1.json: cannot be released, and is stale in 90 s: " in capsys.readouterr().out
    assert live_holder(tmp_path) == mine.holder


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_the_umask_gives_the_mode_of_every_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        mine = acquire(tmp_path)
        with mine.kept():
            write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_process_of_another_container_may_be_alive(tmp_path: Path) -> None:
    """Even if the host name is the same and there is no such process here."""
    ours = lease.Holder.this_process()
    gone = dataclasses.replace(ours, pid=2**22 + 1)
    assert gone.is_gone
    for processes in ("another-boot pid:[1]", ""):
        holder = dataclasses.replace(gone, processes=processes)
        (tmp_path / "lease-1.json").write_text(json.dumps(dataclasses.asdict(holder)), encoding="utf-8")
        assert acquire(tmp_path) is None
        assert live_holder(tmp_path) is not None


def test_known_lost_does_not_read_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat reads it, and sees a successor."""
    mine = acquire(tmp_path)
    assert mine is not None
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_highest", lambda folder: pytest.fail("the disk is read"))
        assert not mine.known_lost
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    with mine.kept():
        foreign_lease(tmp_path, number=2)
        while not mine.known_lost:
            time.sleep(0.01)
    assert str(live_holder(tmp_path)) == "job 7, process 1 on far"


def test_a_lease_is_touched_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    mine = acquire(tmp_path)
    os.utime(mine.path, (1, 1))
    with mine.kept():
        while mine.path.stat().st_mtime < 2:
            time.sleep(0.01)
