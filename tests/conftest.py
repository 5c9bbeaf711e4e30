"""Fixtures of several folders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import store_in, suite_in

from results.store import Store

MakeSuite = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One with a small random field in place of simulated smoke."""
    return store_in(tmp_path / "störe with spaces")


@pytest.fixture
def make_suite(tmp_path: Path) -> MakeSuite:
    """Writes a suite file over that field; keywords: models, seeds, epochs, ranks."""
    return partial(suite_in, tmp_path)
