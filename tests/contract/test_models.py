"""Contract of every registered baseline; the checks are in `benchmark/contract`."""

from functools import cache

import pytest

from benchmark.contract import checks
from benchmark.contract.candidate import Candidate
from benchmark.contract.checks import Check, Result
from benchmark.models import model_registry

CHECKS = {check.name: check for check in checks.CHECKS}
WITHOUT_CONDITION = {
    "declares_what_it_is",
    "config_is_closed_and_complete",
    "runs_on_some_task",
    "leaves_its_input_alone",
    "trains_in_bf16",
    "every_parameter_gets_a_gradient",
    "windows_do_not_see_each_other",
    "state_is_restored_in_either_mode",
    "keeps_to_its_device",
}


CANDIDATES = [(name, kind) for name in model_registry.model_names() for kind in model_registry.model(name).kinds]


@cache
def result(check: Check, name: str, kind: str) -> Result:
    return checks.examine(check, Candidate.named(name, kind))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(("name", "kind"), CANDIDATES)
def test_contract(name: str, kind: str, check: Check) -> None:
    """A check may pass because it does not apply; those without a condition apply to every baseline."""
    checked = result(check, name, kind)
    assert checked.outcome != "failed", checked.reason
    assert checked.outcome == "passed" or check.name not in WITHOUT_CONDITION, checked.reason


def test_every_check_applies_to_a_baseline() -> None:
    for check in CHECKS.values():
        assert any(result(check, *one).outcome == "passed" for one in CANDIDATES), check.name
