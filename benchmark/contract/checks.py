"""Executable contract of a baseline, whose text is `benchmark/models/baseline.py`.

A check is a function of a `Candidate`. It returns None if the baseline passes and a reason if the check does not apply,
and raises `Violation` if the contract is broken. Checks measure narrow copies on small synthetic fields.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch

from benchmark.contract import declaration, deviations, device, forecasts, state, symmetry, training
from benchmark.contract.candidate import Candidate, Violation
from benchmark.errors import error_location

Outcome = Literal["passed", "does not apply", "failed", "not run"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Examined(Protocol):
    """Baseline or dataset that a contract is checked of."""

    @property
    def file(self) -> str | None:
        """Path of its source file."""


@dataclass(frozen=True)
class Check:
    """Demand of the contract, and the function that checks it."""

    name: str
    function: Callable[..., str | None]

    @property
    def demand(self) -> str:
        """One sentence: the first paragraph of the function's docstring."""
        function = getattr(self.function, "func", self.function)  # a partial has the docstring of functools
        return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")


@dataclass(frozen=True)
class Result:
    """Outcome of a check, and the reason why it failed, does not apply or was not run; empty if it passed."""

    check: Check
    outcome: Outcome
    reason: str
    seconds: float


CHECKS: tuple[Check, ...] = tuple(
    Check(name, function)
    for module in (declaration, forecasts, symmetry, deviations, training, state, device)
    for name, function in module.CHECKS.items()
)


def examine_all(candidate: Candidate) -> Iterator[Result]:
    """Results of all checks in turn. Those after the first one that gets no forecast at all are not run.

    They would fail for the same cause, and hide it.
    """
    cause, forecasts = "", False
    for check in CHECKS:
        if cause:
            yield Result(check, "not run", cause, 0.0)
            continue
        result = examine(check, candidate)
        yield result
        needed = check.name.startswith(("runs_on_some_task", "forecasts_one_frame"))
        forecasts = forecasts or (result.outcome == "passed" and check.name.startswith("forecasts_one_frame"))
        if result.outcome == "failed" and needed and not forecasts:
            cause = f"{check.name} failed"


def examine(check: Check, candidate: Examined) -> Result:
    """Run one check. An exception of the author's code becomes a failure with the line in its file."""
    started = time.perf_counter()
    outcome: Outcome = "passed"
    try:
        with torch.random.fork_rng(devices=[]):
            reason = check.function(candidate)
        if reason is not None:
            outcome = "does not apply"
    except Violation as violation:
        outcome, reason = "failed", str(violation)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        outcome, reason = "failed", error_location(error, candidate.file)
    return Result(check, outcome, reason or "", time.perf_counter() - started)
