"""Contract of every registered baseline; the checks are in `benchmark/contract`."""

from functools import cache

import pytest

from benchmark.contract import checks
from benchmark.contract.candidate import Candidate
from benchmark.contract.checks import Check, Result
from benchmark.models import model_registry

CHECKS = {check.name: check for check in checks.CHECKS}
every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


@cache
def result(check: Check, name: str) -> Result:
    return checks.examine(check, Candidate.named(name))


@every_check
@pytest.mark.parametrize("name", model_registry.model_names())
def test_contract(name: str, check: Check) -> None:
    """Also passes if the check does not apply; the tests below require that it applies to some baselines."""
    checked = result(check, name)
    assert checked.outcome != "failed", checked.reason


@every_check
def test_every_check_applies_to_a_baseline(check: Check) -> None:
    assert any(result(check, name).outcome == "passed" for name in model_registry.model_names())


@pytest.mark.parametrize("name", model_registry.model_names())
def test_every_baseline_is_checked(name: str) -> None:
    """Checks without a condition apply to all baselines."""
    without_condition = (
        "declares_what_it_is",
        "config_is_closed_and_complete",
        "runs_on_some_task",
        "trains_in_bf16",
        "every_parameter_gets_a_gradient",
        "windows_do_not_see_each_other",
        "state_is_restored_in_either_mode",
    )
    assert [result(CHECKS[check], name).outcome for check in without_condition] == ["passed"] * len(without_condition)
