"""Checks of the declarations: class attributes, Config and search space."""

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from benchmark.contract.candidate import Candidate, require
from benchmark.models import model_registry
from benchmark.models.baseline import STATES, Choice, LogUniform


def declares_what_it_is(candidate: Candidate) -> str | None:
    """Family and symmetries are known ones; the source and the docstring are not empty."""
    baseline = candidate.baseline
    problem = model_registry.declaration_problem(baseline)
    require(problem is None, f"{baseline.__name__} {problem}")
    wrong = [name for name in baseline.symmetries if name not in candidate.kind.symmetries]
    require(not wrong, f"symmetries: {', '.join(wrong)} is none of {STATES[candidate.kind.name]}")
    require(bool(baseline.source.strip()), "source is empty, expected paper and section")
    require("__doc__" in vars(baseline) and bool((baseline.__doc__ or "").strip()), "the class has no docstring")
    return None


def config_is_closed_and_complete(candidate: Candidate) -> str | None:
    """Every field of the Config has a valid default; unknown keys and invalid values are refused."""
    config = candidate.baseline.Config
    config.model_validate(dict(config()))
    require(not _accepts(candidate, "no_such_field", 1), "Config accepts an unknown key")
    for field in config.model_fields:
        require(not _accepts(candidate, field, object()), f"Config.{field} accepts any object: give it a type")
    return None


def search_space_lies_within_the_config(candidate: Candidate) -> str | None:
    """The Config accepts every value of the search space."""
    space = candidate.baseline.search_space
    if not space:
        return "it has no search space"
    for field, values in space.items():
        require(candidate.has(field), f"search_space: Config has no field {field!r}")
        kinds = (Choice, LogUniform)
        require(isinstance(values, kinds), f"search_space[{field!r}] is {values!r}, expected Choice or LogUniform")
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            require(_accepts(candidate, field, value), f"search_space[{field!r}]: Config does not accept {value!r}")
    return None


def runs_on_some_task(candidate: Candidate) -> str | None:
    """The baseline supports a velocity on one of the usual grids, or five particles."""
    candidate.task()
    return None


def _accepts(candidate: Candidate, field: str, value: object) -> bool:
    try:
        candidate.baseline.Config.model_validate({field: value})
    except ValidationError:
        return False
    return True


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    check.__name__: check
    for check in (
        declares_what_it_is,
        config_is_closed_and_complete,
        search_space_lies_within_the_config,
        runs_on_some_task,
    )
}
