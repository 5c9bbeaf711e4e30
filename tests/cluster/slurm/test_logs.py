"""Logs of a cell that shares its job with others."""

from pathlib import Path

from cluster.slurm import logs
from results.store.store import Store


def test_the_last_lines_of_a_loud_model_are_shown(tmp_path: Path) -> None:
    """Lines without an end are broken, and those of the next cell are left out."""
    log = tmp_path / "jobs" / "one" / "7_log.out"
    log.parent.mkdir(parents=True)
    loud = "".join(f"line {number}\n" for number in range(logs.MOST_LINES + 5)) + "x" * (logs.LONGEST_LINE + 1) + "\n"
    log.write_text(f"aa convnet\n{loud}bb unet\nquiet\n", encoding="utf-8")
    ((path, lines),) = logs.logs_of("aa", frozenset({"bb"}), Store(tmp_path))
    assert path == log
    assert lines[0] == "(8 earlier lines are left out)"
    assert [len(line) for line in lines[-2:]] == [logs.LONGEST_LINE, 1]
    ((_, lines),) = logs.logs_of("bb", frozenset({"aa"}), Store(tmp_path))
    assert lines == ["bb unet", "quiet"]
