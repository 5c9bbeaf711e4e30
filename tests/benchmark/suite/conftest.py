"""A suite's YAML as a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Suite]:
    """Load a suite from its text, written to a file `tiny.yaml`."""

    def load_suite(text: str) -> Suite:
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return suites.load(str(path))

    return load_suite
