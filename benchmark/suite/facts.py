"""Facts about baselines and datasets that suites, plans and boards need, without importing torch where remembered.

Facts about baselines of other packages and of plug-ins are not remembered: their code may depend on any file.
"""

import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark import discovery
from benchmark.cell import Cell, DatasetChoice, GroupName, Level, ModelChoice, Protocol, TestRuns
from benchmark.data import dataset_registry
from benchmark.errors import UserError
from benchmark.models import model_registry
from benchmark.models.task import AnyTask, ParticleTask, Size, Task, task_on
from benchmark.suite.remembered import REGISTRY, answer, code_files

SettingKind = Literal["scalar", "list", "network"]
STANDARD: Mapping[str, AnyTask] = {
    "field": Task("standard", input_frames=10, height=64, width=64),
    "particles": ParticleTask("standard", input_frames=1, particles=5, time_step=0.15),
}
"""Kind of state -> the task on which `symbench list models` counts parameters: smoke as published, and five ions."""


@dataclass(frozen=True)
class ModelFacts:
    """Declaration of a baseline. `settings` are the fields of its Config; `search_space` is JSON."""

    kinds: tuple[str, ...]
    version: int
    differs: str
    family: str
    symmetries: tuple[str, ...]
    source: str
    trained: bool
    width_field: str
    settings: Mapping[str, SettingKind]
    search_space: Mapping[str, Any]


@dataclass(frozen=True)
class DatasetFacts:
    """Declaration of a dataset; a preset is a `Dataset.size`."""

    group: GroupName
    levels: tuple[Level, ...]
    level_meaning: str
    presets: Mapping[str, Size]
    kind: str
    test_runs: TestRuns
    source: str


def model_facts(name: str) -> ModelFacts:
    """Declaration of the baseline `name`. UserError: it is unknown or broken."""
    file = _file_of(name)
    return ModelFacts(**_declaration(name)) if file is None else _remembered_facts(name, file)


@cache
def _remembered_facts(name: str, file: Path) -> ModelFacts:
    facts = answer(file, "declaration", lambda: _declaration(name))
    return ModelFacts(**{**facts, **{key: tuple(facts[key]) for key in ("kinds", "symmetries")}})


def _declaration(name: str) -> dict[str, Any]:
    from benchmark.models.baseline import LogUniform  # torch takes seconds to import

    baseline = model_registry.model(name)
    return {
        "kinds": baseline.kinds,
        "version": baseline.version,
        "differs": baseline.differs,
        "family": baseline.family,
        "symmetries": baseline.symmetries,
        "source": baseline.source,
        "trained": baseline.trained,
        "width_field": baseline.width_field,
        "settings": {key: _kind(field.annotation) for key, field in baseline.Config.model_fields.items()},
        "search_space": {
            key: {"low": float(domain.low), "high": float(domain.high)}
            if isinstance(domain, LogUniform)
            else list(domain.values)
            for key, domain in baseline.search_space.items()
        },
    }


def _kind(annotation: Any) -> SettingKind:
    if annotation is ModelChoice:
        return "network"
    return "list" if takes_list(annotation) else "scalar"


def takes_list(annotation: Any) -> bool:
    """Whether a value of that type may be a list."""
    if typing.get_origin(annotation) in (list, tuple):
        return True
    return any(takes_list(argument) for argument in typing.get_args(annotation))


def is_trained(cell: Cell) -> bool:
    """Whether the model of `cell` has weights to train. UserError: unknown model."""
    return model_facts(cell.model.name).trained


def configured(name: str, settings: Mapping[str, Any]) -> ModelChoice:
    """The model with `settings`, all others at their defaults. ValidationError: the settings are wrong."""
    text = json.dumps(settings)

    def config() -> dict[str, Any]:
        document: dict[str, Any] = model_registry.model(name).Config.model_validate_json(text).model_dump(mode="json")
        return document

    return ModelChoice(name=name, config=about_model(name, f"config {text}", config), version=model_facts(name).version)


def has_deviations(choice: ModelChoice) -> bool:
    """Whether the model has parameters that `train.relaxation_rate` acts on."""

    def declared() -> bool:
        baseline, config = model_registry.configured(choice)
        return baseline.has_deviations(config)

    has: bool = about_model(choice.name, f"deviations {json.dumps(choice.config)}", declared)
    return has


def refusal(choice: ModelChoice, task: AnyTask) -> str | None:
    """Why the model cannot run on `task`; None where it can. UserError: the author's code raises."""

    def reason() -> str | None:
        from benchmark.training.model_errors import author_errors  # torch takes seconds to import

        baseline, config = model_registry.configured(choice)
        with author_errors(choice.name, baseline):
            return baseline.cannot_run(config, task)

    text: str | None = about_model(choice.name, f"refusal {_text(choice, task)}", reason)
    return text


def parameters(choice: ModelChoice, task: AnyTask) -> int | None:
    """Number of trained parameters; None where the model cannot run on `task`."""
    count: int | None = _count("parameters", choice, task)
    return count


def work(choice: ModelChoice, task: AnyTask) -> tuple[float, float, float]:
    """Fields of `costs.Work` for one forecast step; zeros where the model cannot run on `task`."""
    flops, numbers, operations = _count("work", choice, task) or (0, 0, 0)
    return flops, numbers, operations


def _count(quantity: Literal["parameters", "work"], choice: ModelChoice, task: AnyTask) -> Any:
    def counted() -> Any:
        from benchmark.evaluation import costs  # torch takes seconds to import

        baseline, config = model_registry.configured(choice)
        if baseline.cannot_run(config, task) is not None:
            return None
        model = costs.built(baseline, config, task)
        return costs.parameters(model) if quantity == "parameters" else astuple(costs.work(model))

    return about_model(choice.name, f"{quantity} {_text(choice, task)}", counted)


def about_model(name: str, question: str, compute: Callable[[], Any]) -> Any:
    """The remembered answer to a question about a baseline, or that of `compute`."""
    file = _file_of(name)
    return compute() if file is None else answer(file, question, compute)


def _file_of(name: str) -> Path | None:
    """File that answers about a baseline depend on; None where they depend on files of others, too."""
    file = model_registry.built_in_file(name)
    if file is not None and discovery.BASELINES.has_others and REGISTRY in code_files(file):
        return None
    return file


def _text(choice: ModelChoice, task: AnyTask) -> str:
    return json.dumps([choice.config, asdict(task)])


@cache
def dataset_facts(name: str) -> DatasetFacts:
    """Declaration of the dataset `name`. UserError: it is unknown."""
    facts = _about_dataset(name, "declaration", lambda: _dataset_declaration(name))
    return DatasetFacts(**{**facts, "levels": tuple(facts["levels"])})


def _dataset_declaration(name: str) -> dict[str, Any]:
    dataset = dataset_registry.dataset(name)
    return {
        "group": dataset.group,
        "levels": dataset.levels,
        "level_meaning": dataset.level_meaning,
        "presets": {preset: dataset.size(preset) for preset in dataset.presets},
        "kind": dataset.kind,
        "test_runs": dataset.test_runs,
        "source": dataset.source,
    }


def runs(name: str) -> int:
    """Number of runs in each data file of the dataset `name`."""

    def counted() -> int:
        dataset = dataset_registry.dataset(name)
        return len({*dataset.training_runs, *dataset.unseen_runs})

    count: int = _about_dataset(name, "runs", counted)
    return count


def task_of(dataset: DatasetChoice, protocol: Protocol) -> AnyTask:
    """The task of a model on the preset of `dataset`. UserError: as in `task_on`."""
    return task_on(dataset, protocol, dataset_facts(dataset.name).presets[dataset.preset])


def windows(dataset: str, preset: str, protocol: Protocol) -> dict[str, tuple[int, int]]:
    """Number of windows and of rolled-out steps of each split. UserError: the frames do not hold such windows."""

    def counted() -> dict[str, Any]:
        try:
            splits = dataset_registry.dataset(dataset).splits(protocol, preset)
        except UserError as error:
            return {"error": str(error)}
        return {name: (len(split), split.steps) for name, split in splits.items()}

    counts = _about_dataset(dataset, f"windows {preset} {protocol.model_dump_json()}", counted)
    if "error" in counts:
        raise UserError(counts["error"])
    return {name: (count, steps) for name, (count, steps) in counts.items()}


def _about_dataset(name: str, question: str, compute: Callable[[], Any]) -> Any:
    file = discovery.DATASETS.folder / f"{name}.py"
    return answer(file, question, compute) if file.is_file() else compute()
