"""Provenance of a training."""

import subprocess
from pathlib import Path

from benchmark.training.environment import git_state


def test_code_that_differs_from_the_commit(tmp_path: Path) -> None:
    """Suites of a user and published boards in the checkout are no code."""

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    def is_dirty() -> object:
        git_state.cache_clear()
        return git_state(tmp_path / "benchmark")["git_dirty"]

    assert is_dirty() is None
    for name in ("benchmark/loop.py", "results/published/board.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    (tmp_path / "mine.yaml").write_text("name: mine")
    (tmp_path / "results" / "published" / "board.json").write_text("[]")
    assert is_dirty() is False
    (tmp_path / "benchmark" / "model.py").write_text("")
    assert is_dirty() is True
