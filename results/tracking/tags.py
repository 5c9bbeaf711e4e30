"""Tags by which symbench recognises its experiments and runs in MLflow."""

from collections.abc import Mapping
from typing import Any

RUN_KEY = "symbench.cell"
"""Run: id of its cell, or key of its setting, study, trial or board."""
DIGEST = "symbench.digest"
"""Run: digest of what it shows. Written last, so a run without it is incomplete."""
STORE = "symbench.store"
"""Run: identity of the store that it shows. A sync changes and removes those of its own store alone."""
PARENT = "mlflow.parentRunId"
"""Run: id of the run above it."""
REPLACED = "replaced"
"""RUN_KEY of a run that symbench deleted; a sync does not restore it."""

SUITE = "symbench.suite"
"""Experiment: name of its suite."""
REVISION = "symbench.revision"
"""Experiment: changes with each sync that changes a run, from whichever store."""
TABLE_VIEWS = "symbench.boards"
"""Experiment: its table views as JSON, a list of [key, question]."""

LONGEST_TAG = 5000
"""Characters in the value of a tag."""


def symbench_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags `symbench.<name>` of a run; empty values are left out."""
    return {f"symbench.{name}": str(value)[:LONGEST_TAG] for name, value in values.items() if str(value)}
