"""What is kept of a model: the same seed gives the same one, and it can be saved, loaded and copied in any mode."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping

import torch

from benchmark.contract.candidate import Candidate, loss, noise, require, targets


def same_seed_gives_the_same_model(candidate: Candidate) -> str | None:
    """Weights come from torch's random numbers alone."""
    on = candidate.task()
    first, second = (candidate.build(on, seed=5).state_dict() for _ in range(2))
    require(first.keys() == second.keys(), "built twice, it has other parameters and buffers")
    differing = [key for key, value in first.items() if not torch.equal(value, second[key])]
    require(not differing, f"built twice from one seed, it differs in {', '.join(differing)}")
    return None


def state_is_restored_in_either_mode(candidate: Candidate) -> str | None:
    """A state saved in training or evaluation, and loaded in either, forecasts the same bits."""
    on = candidate.task()
    for saved_in_training, loaded_in_training in itertools.product((True, False), repeat=2):
        model, other, x = candidate.build(on, seed=3), candidate.build(on, seed=4), noise(on)
        if candidate.baseline.trained:
            loss(model, x, targets(on)).backward()
            model.before_step(0.0)
            torch.optim.SGD(model.parameters(), 1e-3).step()
        other.train(loaded_in_training).load_state_dict(model.train(saved_in_training).state_dict())
        with torch.inference_mode():
            same = torch.equal(other.eval()(x), model.eval()(x))
        modes = [("training" if flag else "evaluation") for flag in (saved_in_training, loaded_in_training)]
        require(same, f"saved in {modes[0]} and loaded in {modes[1]}, it forecasts something else")
    return None


def copies(candidate: Candidate) -> str | None:
    """A deep copy forecasts the same bits and has weights of its own."""
    on = candidate.task()
    model, x = candidate.build(on).eval(), noise(on)
    with torch.no_grad():
        before = model(x)
        twin = copy.deepcopy(model)
        require(torch.equal(twin(x), before), "a copy forecasts something else")
        for parameter in twin.parameters():
            parameter.add_(1.0)
        require(torch.equal(model(x), before), "a copy shares weights with the model")
        if candidate.baseline.trained:
            require(not torch.equal(twin(x), before), "the forecast does not depend on the parameters")
    return None


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    check.__name__: check for check in (same_seed_gives_the_same_model, state_is_restored_in_either_mode, copies)
}
