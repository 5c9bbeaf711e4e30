"""The contract of a baseline, as checks that a program can run: see `benchmark/models/baseline.py` for what it asks.

A check is a function of a `Candidate`. It returns nothing where the baseline keeps the contract, the reason where the
check does not apply to it, and raises `Violation` where the contract is broken. `run` goes through all of them, for
`symbench check-baseline` and for the tests. Everything is measured on narrow copies and small made-up fields.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from benchmark.contract import declaration, forecasts, state, symmetry, training
from benchmark.contract.candidate import Candidate, Violation
from benchmark.errors import error_location

__all__ = ["CHECKS", "OUTCOMES", "Candidate", "Check", "Result", "Violation", "examine"]

Outcome = Literal["passed", "does not apply", "failed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Check:
    """One demand of the contract."""

    name: str
    function: Callable[[Candidate], str | None]

    @property
    def demand(self) -> str:
        """What is asked, in a sentence."""
        function = getattr(self.function, "func", self.function)  # of a partial
        return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")


@dataclass(frozen=True)
class Result:
    """What a check came to; `reason` says why it failed or does not apply."""

    check: Check
    outcome: Outcome
    reason: str
    seconds: float


CHECKS: tuple[Check, ...] = tuple(
    Check(name, function)
    for room in (declaration, forecasts, symmetry, training, state)
    for name, function in room.CHECKS.items()
)


def examine(check: Check, candidate: Candidate) -> Result:
    """One check. Whatever the baseline raises is that check's failure, told with the line in its file."""
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
