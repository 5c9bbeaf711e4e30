"""Checks of the deviations from a symmetry, which training moves at a rate of their own."""

from collections.abc import Callable, Mapping

import torch

from benchmark.contract.candidate import ROUND_OFF, Candidate, noise, require, targets
from benchmark.contract.symmetry import action, scale_error, train
from benchmark.kinds.kind import relative_error
from benchmark.models.baseline import Baseline

START = 1e-2
"""Largest relative difference between the forecast at the start and that of the symmetric part."""
ZOOMED = 0.25
"""Largest error of the symmetric part after an enlargement, as in `scale_is_kept`."""


def deviations_are_declared(candidate: Candidate) -> str | None:
    """`deviations` are parameters of the model, each once; a relaxed model has some."""
    model = candidate.build(candidate.task())
    deviations = [id(parameter) for parameter in model.deviations()]
    declared = candidate.baseline.has_deviations(candidate.config())
    require(bool(deviations) == declared, f"has_deviations is {declared}, and there are {len(deviations)} deviations")
    if not deviations:
        require(candidate.baseline.family != "relaxed", "it is relaxed, and `deviations` names no parameter")
        return "it has no deviations"
    known = {id(parameter) for parameter in model.parameters()}
    require(set(deviations) <= known, "`deviations` has tensors that are no parameters of the model")
    require(len(set(deviations)) == len(deviations), "`deviations` names a parameter twice")
    return None


def deviations_of_zero_are_symmetric(candidate: Candidate) -> str | None:
    """With all deviations at zero a model keeps its symmetries, after any training; it starts within 1 % of there."""
    task = candidate.task()
    model, x = candidate.build(task).eval(), noise(task)
    if not model.deviations():
        return "it has no deviations"
    with torch.no_grad():
        start = model(x)
        error = relative_error(start - _symmetric_part(model)(x), start)
    require(error <= START, f"at the start its deviations change the forecast by {error:.1e}, expected {START} at most")
    for symmetry in candidate.baseline.symmetries:
        if symmetry == "scale":
            error = scale_error(candidate, _symmetric_part)
            require(error <= ZOOMED, f"scale, deviations at zero: error {error:.2f}, expected at most {ZOOMED}")
            continue
        task, error_of, _ = action(candidate, symmetry)
        model = candidate.build(task)
        train(model, noise(task, 1, seed=4), targets(task, 1))
        error = error_of(_symmetric_part(model.eval()), noise(task))
        require(
            error <= ROUND_OFF, f"{symmetry}, deviations at zero: error {error:.1e}, expected at most {ROUND_OFF:.0e}"
        )
    return None


def _symmetric_part(model: Baseline) -> Baseline:
    """`model` itself, with all its deviations set to zero."""
    with torch.no_grad():
        for parameter in model.deviations():
            parameter.zero_()
    return model


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    check.__name__: check for check in (deviations_are_declared, deviations_of_zero_are_symmetric)
}
