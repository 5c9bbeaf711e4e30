"""Search space of a model within a suite: its own settings, and those of the training, which are the same for all."""

from collections.abc import Sequence
from dataclasses import replace

from benchmark.cell import Cell, ModelChoice, Protocol, Training, is_network
from benchmark.errors import UserError, unknown_name
from benchmark.suite import facts
from benchmark.suite.suite import Domain, Range, Suite

LEARNING_RATES = Range(low=1e-4, high=1e-2)
LEARNING_RATE_DECAYS = (0.85, 0.9, 0.95, 0.98, 1.0)
RELAXATION_RATES = Range(low=1e-3, high=1.0)
"""For models with deviations alone."""
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 4e-4, 1e-3)


def model_space(choice: ModelChoice) -> dict[str, Domain]:
    """Search space of a model, and of a network within it."""
    space: dict[str, Domain] = {}
    for key, domain in facts.model_facts(choice.name).search_space.items():
        space[key] = Range(**domain) if isinstance(domain, dict) else tuple(domain)
    for key, value in choice.config.items():
        if is_network(value):
            space |= {f"{key}.{inner}": domain for inner, domain in model_space(ModelChoice(**value)).items()}
    return space


def training_space(train: Training, protocol: Protocol, windows: int, ranks: int) -> dict[str, Domain]:
    """Default search space of the training; batches fit into the windows and are divisible by the ranks."""
    sizes = {train.batch_size // 2, train.batch_size, train.batch_size * 2}
    lengths = {max(1, round(protocol.train_steps * part / 3)) for part in (1, 2, 3)}
    return {
        "learning_rate": LEARNING_RATES,
        "learning_rate_decay": LEARNING_RATE_DECAYS,
        "weight_decay": WEIGHT_DECAYS,
        "relaxation_rate": RELAXATION_RATES,
        "batch_size": tuple(sorted(size for size in sizes if 0 < size <= windows and size % ranks == 0)),
        "rollout_steps": tuple(sorted(lengths)),
    }


def search_space(suite: Suite, cell: Cell) -> dict[str, Domain]:
    """Search space of `cell`: settings of its model, without a width that a budget decides, and of the training."""
    own = model_space(cell.model)
    if cell.id in suite.budgets:
        own.pop(".".join(width_path(cell.model)), None)
    windows, _ = facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)["train"]
    ranks = suite.resources.gpus or suite.resources.ranks
    usual = training_space(cell.train, cell.protocol, windows, ranks)
    space = {f"model.{key}": domain for key, domain in own.items()}
    space |= {f"train.{key}": domain for key, domain in usual.items()}
    space |= {f"train.{key}": domain for key, domain in suite.tuning.train.items()}
    if not facts.has_deviations(cell.model):
        space.pop("train.relaxation_rate")
    return {key: domain for key, domain in space.items() if not _is_kept(key, suite.tuning.keep)}


def _is_kept(key: str, keep: Sequence[str]) -> bool:
    return key.partition(".")[2] in keep or key.rpartition(".")[2] in keep


def check_keep(suite: Suite) -> list[str]:
    """Notes about names in `tuning.keep` that no model searches. UserError: no model has such a setting."""
    models = {cell.model.name: cell for cell in suite.cells if facts.is_trained(cell)}.values()
    free = replace(suite, tuning=suite.tuning.model_copy(update={"keep": ()}), budgets={})
    searched = {key for cell in models for key in search_space(free, cell)}
    settings = set(Training.model_fields).union(*(_settings(cell.model) for cell in models))
    notes = []
    for name in suite.tuning.keep:
        if any(_is_kept(key, [name]) for key in searched):
            continue
        if name not in settings:
            names = sorted(settings | {key.rpartition(".")[2] for key in searched})
            raise UserError(f"{suite.path}: tuning.keep: {unknown_name('setting', name, names)}")
        notes.append(f"{suite.path}: tuning.keep: no model of this suite searches {name!r}, with or without it")
    return notes


def _settings(choice: ModelChoice) -> set[str]:
    """Settings of a model, and of a network within it."""
    networks = (ModelChoice(**value) for value in choice.config.values() if is_network(value))
    return set(facts.model_facts(choice.name).settings).union(*map(_settings, networks))


def width_path(choice: ModelChoice) -> tuple[str, ...]:
    """Keys on the way to the width that a budget decides."""
    field = facts.model_facts(choice.name).width_field
    value = choice.config.get(field)
    return (field, *width_path(ModelChoice(**value))) if is_network(value) else (field,)
