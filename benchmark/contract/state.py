"""Checks of the model's state: initialisation from a seed, save and load in each mode, deep copies."""

import copy
import itertools
from collections.abc import Callable, Mapping

import torch

from benchmark.contract.candidate import Candidate, loss, noise, require, targets


def same_seed_gives_the_same_model(candidate: Candidate) -> str | None:
    """Initial weights depend on torch's random seed alone."""
    task = candidate.task()
    first, second = (candidate.build(task, seed=5).state_dict() for _ in range(2))
    require(first.keys() == second.keys(), "built twice, it has other parameters and buffers")
    differing = [key for key, value in first.items() if not torch.equal(value, second[key])]
    require(not differing, f"built twice from one seed, it differs in {', '.join(differing)}")
    return None


def state_is_restored_in_either_mode(candidate: Candidate) -> str | None:
    """A state dict saved in train or eval mode, and loaded in either, gives the same forecast, bit for bit."""
    task = candidate.task()
    for saved_in_training, loaded_in_training in itertools.product((True, False), repeat=2):
        model, other, x = candidate.build(task, seed=3), candidate.build(task, seed=4), noise(task)
        if candidate.baseline.trained:
            loss(model, x, targets(task)).backward()
            model.before_step(0.0)
            torch.optim.SGD(model.parameters(), 1e-3).step()
        other.train(loaded_in_training).load_state_dict(model.train(saved_in_training).state_dict())
        with torch.inference_mode():
            same = torch.equal(other.eval()(x), model.eval()(x))
        saved, loaded = ("train" if training else "eval" for training in (saved_in_training, loaded_in_training))
        require(same, f"saved in {saved} mode and loaded in {loaded} mode, the forecast differs")
    return None


def copies(candidate: Candidate) -> str | None:
    """A deep copy gives the same forecast, bit for bit, and has its own weights."""
    task = candidate.task()
    model, x = candidate.build(task).eval(), noise(task)
    with torch.no_grad():
        before = model(x)
        twin = copy.deepcopy(model)
        require(torch.equal(twin(x), before), "the forecast of a copy differs")
        for parameter in twin.parameters():
            parameter.add_(1.0)
        require(torch.equal(model(x), before), "a copy shares weights with the model")
        if candidate.baseline.trained:
            require(not torch.equal(twin(x), before), "the forecast does not depend on the parameters")
    return None


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    check.__name__: check for check in (same_seed_gives_the_same_model, state_is_restored_in_either_mode, copies)
}
