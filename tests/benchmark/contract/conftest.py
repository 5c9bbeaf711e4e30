"""Plug-in with a toy baseline that tests break."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_baseline import TOY

from benchmark import discovery
from benchmark.contract.candidate import Candidate


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Candidate]]:
    """Write the plug-in `toy`, with some of its text replaced."""
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})

    def write(text: str = TOY, *changes: tuple[str, str]) -> Candidate:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "toy.py").write_text(text, encoding="utf-8")
        return Candidate.named(discovery.add_plugin(tmp_path / "toy.py"))

    yield write
    sys.modules.pop("symbench_plugin_toy", None)
