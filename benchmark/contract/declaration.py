"""What a baseline says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from pydantic import ValidationError

from benchmark.contract.candidate import Candidate, require
from benchmark.models.baseline import Choice, Family, LogUniform, Symmetry


def declares_what_it_is(candidate: Candidate) -> str | None:
    """Family and symmetries are known ones; the source and the docstring are not empty."""
    baseline = candidate.baseline
    require(baseline.family in get_args(Family), f"family is {baseline.family!r}, expected one of {get_args(Family)}")
    strange = set(baseline.symmetries) - set(get_args(Symmetry))
    require(not strange, f"symmetries are {baseline.symmetries!r}, expected some of {get_args(Symmetry)}")
    require(bool(baseline.source.strip()), "source is empty, expected paper and section")
    require("__doc__" in vars(baseline) and bool((baseline.__doc__ or "").strip()), "the class has no docstring")
    return None


def config_is_closed_and_complete(candidate: Candidate) -> str | None:
    """Every field of the Config has a default that it takes itself, and wrong keys and values are refused."""
    config = candidate.baseline.Config
    required = [key for key, field in config.model_fields.items() if field.is_required()]
    require(not required, f"Config.{', Config.'.join(required)}: no default")
    config.model_validate(dict(config()))
    require(not _accepts(candidate, "no_such_field", 1), "Config takes a key that it does not have")
    for field in config.model_fields:
        require(not _accepts(candidate, field, object()), f"Config.{field} takes any object: give it a type")
    return None


def search_space_lies_within_the_config(candidate: Candidate) -> str | None:
    """Tuning may try only values that the Config takes."""
    space = candidate.baseline.search_space
    if not space:
        return "it has no search space"
    for field, values in space.items():
        require(candidate.has(field), f"search_space: Config has no field {field!r}")
        kinds = (Choice, LogUniform)
        require(isinstance(values, kinds), f"search_space[{field!r}] is {values!r}, expected Choice or LogUniform")
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            require(_accepts(candidate, field, value), f"search_space[{field!r}]: Config does not take {value!r}")
    return None


def runs_on_some_task(candidate: Candidate) -> str | None:
    """It runs on a velocity with one of the usual grids."""
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
