"""Copies of data on a node's local disk: made once, never read incomplete, with the store as fallback."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import suite_in

from benchmark.cell import Cell
from benchmark.data.paths import field_path
from benchmark.errors import MachineError
from benchmark.suite import loading as suites
from cluster.jobs import staging
from cluster.jobs.staging import scratch_folder, stage
from results.store.store import Store


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return suites.load(str(suite_in(tmp_path))).cells[0]


def test_a_copy_is_made_once_and_again_when_the_data_change(
    store: Store, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Path] = []
    copy2 = shutil.copy2
    monkeypatch.setattr(staging.shutil, "copy2", lambda source, to: copies.append(source) or copy2(source, to))
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    folder = stage(store.data_folder, cell, "$NODE_DISK/scratch")
    assert folder == tmp_path / "disk" / "scratch" / f"symbench-data-{os.getuid()}"
    source, copy = field_path(store.data_folder, cell.dataset), field_path(folder, cell.dataset)
    assert copy.read_bytes() == source.read_bytes()
    assert stage(store.data_folder, cell, "$NODE_DISK/scratch") == folder
    assert len(copies) == 1
    source.write_bytes(source.read_bytes()[:-1] + b"!")
    os.utime(source, (time.time() + 60, time.time() + 60))
    stage(store.data_folder, cell, "$NODE_DISK/scratch")
    assert len(copies) == 2
    assert copy.read_bytes() == source.read_bytes()
    assert stage(store.data_folder, cell, None) == store.data_folder


def test_the_scratch_folder_is_private(tmp_path: Path) -> None:
    folder = scratch_folder(str(tmp_path))
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(MachineError, match="must be a folder that belongs to this user, with mode 700"):
        scratch_folder(str(tmp_path))
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="must be a folder that belongs to this user, with mode 700"):
        scratch_folder(str(tmp_path))


@pytest.mark.parametrize("why", ["full", "no variable", "a file in the way", "not ours"])
def test_if_the_copy_fails_data_are_read_from_the_store(
    store: Store, cell: Cell, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    scratch = str(tmp_path / "scratch")
    if why == "full":

        def full(source: Path, to: Path) -> None:
            to.write_bytes(source.read_bytes()[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(staging.shutil, "copy2", full)
        reason = "No space left on device"
    elif why == "no variable":
        scratch, reason = "$NO_SUCH_VARIABLE/x", "the job has no such variable"
    elif why == "a file in the way":
        Path(scratch).write_text("")
        reason = "cannot be made"
    else:
        monkeypatch.setattr(staging.os, "getuid", lambda: 0 if os.geteuid() else 4711)
        reason = "must be a folder that belongs to this user, with mode 700"
    assert stage(store.data_folder, cell, scratch) == store.data_folder
    output = capsys.readouterr().out
    assert reason in output
    assert "is read from the store" in output
    assert not list(tmp_path.glob("scratch/**/*.h5"))
    assert not list(tmp_path.glob("scratch/**/*.tmp"))


def test_of_two_processes_one_copies_and_neither_sees_half_a_file(
    store: Store, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = field_path(store.data_folder, cell.dataset).stat().st_size
    begun, go_on, seen = threading.Event(), threading.Event(), []
    copies, copy2 = [], shutil.copy2

    def slow(source: Path, to: Path) -> None:
        copies.append(to)
        to.write_bytes(source.read_bytes()[: size // 2])
        begun.set()
        assert go_on.wait(20)
        copy2(source, to)

    monkeypatch.setattr(staging.shutil, "copy2", slow)

    def other() -> None:
        seen.append(field_path(stage(store.data_folder, cell, str(tmp_path / "scratch")), cell.dataset).stat().st_size)

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    assert seen == []
    assert not list((tmp_path / "scratch").glob("**/level_0.h5"))
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert seen == [size, size]
    assert len(copies) == 1


def test_missing_data_are_no_error_of_the_copy(store: Store, cell: Cell, tmp_path: Path) -> None:
    field_path(store.data_folder, cell.dataset).unlink()
    assert stage(store.data_folder, cell, str(tmp_path / "scratch")) == store.data_folder
