"""Plug-in with a toy baseline that tests break."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_baseline import TOY

from benchmark.contract.candidate import Candidate
from benchmark.models import model_registry


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Candidate]]:
    """Write the plug-in `toy`, with some of its text replaced."""
    monkeypatch.setattr(model_registry, "_plugins", {})

    def write(text: str = TOY, *changes: tuple[str, str]) -> Candidate:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "toy.py").write_text(text, encoding="utf-8")
        return Candidate.named(model_registry.add_plugin(tmp_path / "toy.py"))

    yield write
    sys.modules.pop("symbench_plugin_toy", None)
