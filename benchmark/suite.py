"""A suite: the YAML that a person writes, checked against the registry and expanded into cells.

Wherever a scalar is allowed, a list is an axis of the grid. A `budget` of parameters, of the suite or of a model, is
solved for the model's width on each task, so that a cell holds the width. Every mistake is reported with file, line
and key.
"""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from . import budget, registry
from .cell import (
    FIRST_TUNING_SEED,
    Cell,
    DatasetChoice,
    Frozen,
    Level,
    ModelChoice,
    PositiveFloat,
    PositiveInt,
    Protocol,
    Training,
)
from .errors import UserError
from .yaml_file import Location, YamlFile, plain

SUITES_FOLDER = Path(__file__).parent.parent / "suites"
_Plain = bool | int | float | str | list | dict | None
Settings = TypeVar("Settings", bound=BaseModel)


class Resources(Frozen):
    """Where a cell's ranks run; none of this changes a result.

    `gpus` is the number of GPUs (one rank on each), 0 the CPU; left out, the GPUs that are there are used, up to
    `ranks`, and the CPU where there is none. `ranks` is the number of processes on a CPU. Both are those of one cell,
    spread evenly over `nodes` of a cluster. A GPU that one small network leaves idle can train `seeds_together` of it
    in one process, their weights stacked (benchmark/gradients.py).
    """

    gpus: Annotated[int, Field(ge=0)] | None = None
    ranks: PositiveInt = 1
    nodes: PositiveInt = 1
    seeds_together: PositiveInt = 1

    @model_validator(mode="after")
    def _one_rank_stacks(self) -> Resources:
        if self.seeds_together > 1 and (self.ranks > 1 or (self.gpus or 0) > 1):
            raise ValueError("seeds_together is for cells of one rank (gpus: 1, ranks: 1)")
        return self


class Range(Frozen):
    """Searched log-uniformly in [low, high]."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        return self


Domain = tuple[Any, ...] | Range
"""What tuning may try of one setting: one of these values, or a range."""
TunedTrainingField = Literal[
    "learning_rate", "learning_rate_decay", "weight_decay", "batch_size", "rollout_steps", "gradient_clip"
]


class Tuning(Frozen):
    """How the models of a suite are tuned; the same for all of them.

    `levels` says which levels of a dataset share one configuration: `each` has its own, `all` share one, or groups as
    [[0, 1], [3, 6, 9]]. Settings named in `keep` stay as the suite writes them. `train` replaces what is searched of
    a training setting: a list of values or {low: , high: }.
    """

    levels: Literal["each", "all"] | tuple[tuple[Level, ...], ...] = "each"
    keep: tuple[str, ...] = ()
    train: Mapping[TunedTrainingField, Domain] = {}

    @model_validator(mode="after")
    def _values_are_settings(self) -> Tuning:
        for key, domain in self.train.items():
            for value in (domain.low, domain.high) if isinstance(domain, Range) else domain:
                Training.model_validate({key: value})
        return self


@dataclass(frozen=True)
class Suite:
    """A named list of cells, each once, in the order of the file.

    `budgets` are the parameters that decided the width of a cell's model, by the cell's id; `studies` name the study
    that each tuned cell has its settings from.
    """

    name: str
    path: Path
    cells: tuple[Cell, ...]
    resources: Resources
    tuned: bool = False
    """Whether the file asks for tuned settings; `benchmark.tuning.resolved` puts them in."""
    tuning: Tuning = field(default_factory=Tuning)
    budgets: Mapping[str, int] = field(default_factory=dict)
    studies: Mapping[str, str] = field(default_factory=dict)
    asked: bool = False
    """Whether the caller asks for tuned settings, with `--tuned`, and the file does not."""
    untuned: tuple[Cell, ...] = ()
    """Those that are left out for want of tuned settings, where that was allowed."""
    chosen: str = ""
    """The `--only` expression that these cells were chosen by."""

    def only(self, expression: str) -> Suite:
        """The cells for which every `key=value` of the comma-separated expression holds.

        Keys: dataset, preset, level, model, seed, id, and every field of the models' Config. UserError: no such
        key, or no cell is left.
        """
        cells = self.cells
        for clause in filter(None, (part.strip() for part in expression.split(","))):
            key, equals, value = (part.strip() for part in clause.partition("="))
            if not equals:
                raise UserError(f"--only {expression!r}: {clause!r} is not of the form key=value")
            valid = sorted({known for cell in self.cells for known in describe(cell)})
            if key not in valid:
                raise UserError(f"--only {expression!r}: {registry.unknown('key', key, valid)}")
            values = {str(describe(cell)[key]) for cell in cells if key in describe(cell)}
            cells = tuple(cell for cell in cells if str(describe(cell).get(key)) == value)
            if not cells:
                raise UserError(f"--only {expression!r}: {registry.unknown(key, value, sorted(values))}")
        return replace(self, cells=cells, chosen=",".join(filter(None, (self.chosen, expression))))


def available() -> list[str]:
    """Names of the suites that come with symbench."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))


def load(
    name_or_path: str, store: Path | None = None, tuned: bool = False, only: str = "", partly: bool = False
) -> Suite:
    """Read, validate and expand a suite, named or as a path. UserError: all that is wrong with it, a line each.

    Where it asks for `tuned` settings, or the caller does, they are those that `symbench tune` left in `store`, if one
    is named. A suite that does not ask by itself is then called `<name>-tuned`. UserError where a cell of it (of `only`
    these) is not tuned; with `partly`, for those who look at what there is, such cells are left out.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SUITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"{registry.unknown('suite', name_or_path, available())}; or give a path to a .yaml file")
    suite = _Reader(path).suite()
    if tuned and not suite.tuned:
        suite = replace(suite, tuned=True, asked=True, name=f"{suite.name}-tuned")
    if suite.tuned and store is not None:
        from . import tuning  # torch takes seconds to import

        return tuning.resolved(suite, store, only, partly)
    return suite.only(only) if only else suite


@dataclass(frozen=True)
class _Entry:
    """A model of the file, where it stands, and how many parameters it is to have (None: its width is given)."""

    where: Location
    choice: ModelChoice
    budget: int | None


class _Reader:
    """Validates one file; knows the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = YamlFile(path, "a suite is a mapping with the keys name, datasets and models")
        self.tree = self.file.tree
        self.budgets = self._budgets(("budget",), self.tree.get("budget"))

    def suite(self) -> Suite:
        required = ("name", "datasets", "models")
        optional = ("protocol", "seeds", "train", "budget", "resources", "tuning", "tuned")
        self._check_keys((), self.tree, (*required, *optional))
        for key in required:
            if key not in self.tree:
                self.file.error((), f"the key {key!r} is missing")
        self.file.stop_on_errors()

        name = self.tree["name"]
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            self.file.error(("name",), "must be a line of text")
        datasets = list(self._choices("datasets", self._datasets))
        models = list(self._choices("models", self._models))
        protocol = self.tree.get("protocol")
        named = isinstance(protocol, str | CommentedSeq)
        protocols = self._grid(("protocol",), {"name": protocol} if named else protocol, Protocol)
        trainings = self._grid(("train",), self.tree.get("train"), Training)
        resources = self._grid(("resources",), self.tree.get("resources"), Resources)
        seeds = self._axis(("seeds",), self.tree.get("seeds", [0]))
        tuning = self._tuning()
        tuned = self.tree.get("tuned", False)
        if not isinstance(tuned, bool):
            self.file.error(("tuned",), f"must be true or false, not {tuned!r}")
        known = {choice.level for choice in datasets}
        for level in itertools.chain(*(() if isinstance(tuning.levels, str) else tuning.levels)):
            if level not in known:
                self.file.error(("tuning", "levels"), registry.unknown("level", level, sorted(known, key=str)))
        if any(isinstance(seed, int) and seed >= FIRST_TUNING_SEED for seed in seeds):
            self.file.error(("seeds",), f"seeds from {FIRST_TUNING_SEED} on are those of `symbench tune`")
        self.file.stop_on_errors()
        if len(resources) != 1:
            self.file.error(("resources",), "takes no lists: resources are not an axis of the grid")
        self._check_splits(datasets, protocols, trainings)
        self._check_ranks(trainings, resources[0])
        self.file.stop_on_errors()

        cells: dict[str, Cell] = {}
        budgets: dict[str, int] = {}
        for dataset, entry, protocol, train, (index, seed) in itertools.product(
            datasets, models, protocols, trainings, enumerate(seeds)
        ):
            model = self._sized(entry, dataset, protocol)
            if model is None:
                continue
            if not registry.model(model.name).trained:
                if index > 0:
                    continue
                train = Training()  # so that it is one cell, however the others are trained
            cell = self._validated(
                ("seeds",),
                Cell,
                {"dataset": dataset, "model": model, "protocol": protocol, "train": train, "seed": seed},
            )
            if cell is not None:
                cells.setdefault(cell.id, cell)
                if entry.budget is not None:
                    budgets[cell.id] = entry.budget
        self.file.stop_on_errors()
        return Suite(name, self.path, tuple(cells.values()), resources[0], tuned, tuning, budgets)

    def _tuning(self) -> Tuning:
        written = self.tree.get("tuning")
        if not isinstance(written, CommentedMap | None):
            self.file.error(("tuning",), f"must be a mapping with some of the keys {', '.join(Tuning.model_fields)}")
            return Tuning()
        settings = plain(written) if written else {}
        if not self._check_keys(("tuning",), settings, tuple(Tuning.model_fields)):
            return Tuning()
        if isinstance(keys := settings.get("train"), dict):
            if not self._check_keys(("tuning", "train"), keys, typing.get_args(TunedTrainingField)):
                return Tuning()
            ranges = {key: value for key, value in keys.items() if isinstance(value, dict)}
            if None in [self._validated(("tuning", "train", key), Range, value) for key, value in ranges.items()]:
                return Tuning()
        return self._validated(("tuning",), Tuning, settings) or Tuning()

    def _choices(self, section: str, expand: typing.Callable[..., Iterator[Any]]) -> Iterator[Any]:
        """Each entry of a section: a bare name, or `name: {field: value or list}`."""
        entries = self.tree[section]
        if not isinstance(entries, CommentedSeq) or not entries:
            self.file.error((section,), "must be a list of names, each with its settings if it has any")
            return
        for index, entry in enumerate(entries):
            yield from self._choice((section, index), entry, expand)

    def _choice(self, where: Location, entry: Any, expand: typing.Callable[..., Iterator[Any]]) -> Iterator[Any]:
        name, settings = entry, {}
        if isinstance(entry, CommentedMap) and len(entry) == 1:
            ((name, settings),) = entry.items()
            where = (*where, name)
        if not isinstance(name, str) or not isinstance(settings or {}, dict):
            self.file.error(where, "must be a name, or a name with its settings: `name: {key: value}`")
            return
        yield from expand(where, name, settings or {})

    def _datasets(self, where: Location, name: str, settings: Mapping[str, Any]) -> Iterator[DatasetChoice]:
        if name not in registry.dataset_names():
            self.file.error(where, registry.unknown("dataset", name, registry.dataset_names()))
            return
        dataset = registry.dataset(name)
        defaults = {"name": name, "level": list(dataset.levels), "preset": next(iter(dataset.presets))}
        for choice in self._grid(where, {**defaults, **settings}, DatasetChoice, own=("level", "preset", "grid")):
            for key, value, valid in (
                ("level", choice.level, dataset.levels),
                ("preset", choice.preset, tuple(dataset.presets)),
            ):
                if value not in valid:
                    self.file.error((*where, key), registry.unknown(f"{key} of {name}", value, valid))
            if choice.level in dataset.levels:  # as the dataset writes it: 3.0 is 3
                choice = choice.model_copy(update={"level": dataset.levels[dataset.levels.index(choice.level)]})
            yield choice

    def _models(self, where: Location, name: str, settings: Mapping[str, Any]) -> Iterator[_Entry]:
        """The models of one entry, each with every budget that it is asked to keep."""
        budgets, place = self.budgets, where
        if "budget" in settings:
            place = (*where, "budget")
            budgets = self._budgets(place, settings["budget"])
            settings = {key: value for key, value in settings.items() if key != "budget"}
        budgeted = any(size is not None for size in budgets)
        for choice in self._configured(where, name, settings, budgeted):
            if registry.model(name).trained:
                yield from (_Entry(place, choice, size) for size in budgets)
                continue
            if budgeted and place != where:
                self.file.error(place, f"{name} has nothing to train, and so no size")
            yield _Entry(place, choice, None)

    def _configured(
        self, where: Location, name: str, settings: Mapping[str, Any], budgeted: bool
    ) -> Iterator[ModelChoice]:
        try:
            baseline = registry.model(name)
        except UserError as error:
            self.file.error(where, str(error))
            return
        config_class, width = baseline.Config, baseline.width_field
        if budgeted and width in settings and not _is_network(config_class, width):
            self.file.error((*where, width), f"the budget decides {width!r}; leave it out, or say `budget: null` here")
        expanded = {
            key: self._networks((*where, key), value, budgeted) if _is_network(config_class, key) else value
            for key, value in settings.items()
        }
        if any(value == [] != settings[key] for key, value in expanded.items()):
            return  # a network in it is wrong, and that has been said
        for config in self._grid(where, expanded, config_class):
            yield ModelChoice(name=name, config=config.model_dump(mode="json"))

    def _networks(self, where: Location, value: Any, budgeted: bool) -> list[dict[str, Any]]:
        """The networks that a wrapper is given: as in `models`, one entry or a list of them, under its budget."""
        if isinstance(value, CommentedSeq):
            entries = [((*where, index), entry) for index, entry in enumerate(value)]
        else:
            entries = [(where, value)]
        expand = partial(self._configured, budgeted=budgeted)
        return [choice.model_dump() for place, entry in entries for choice in self._choice(place, entry, expand)]

    def _budgets(self, where: Location, value: Any) -> list[int | None]:
        budgets = []
        for written in self._axis(where, value):
            try:
                budgets.append(budget.parse(written))
            except ValueError as error:
                self.file.error(where, str(error))
        return budgets

    def _sized(self, entry: _Entry, dataset: DatasetChoice, protocol: Protocol) -> ModelChoice | None:
        """The model at the width that its budget allows on this task; None where that fails, which is said."""
        if entry.budget is None:
            return entry.choice
        try:
            return budget.sized(entry.choice, entry.budget, dataset, protocol)
        except ValueError as error:
            self.file.error(entry.where, str(error))
            return None

    def _grid(
        self, where: Location, settings: Any, schema: type[Settings], own: Sequence[str] | None = None
    ) -> list[Settings]:
        """Every combination of the lists in `settings`, validated; empty where something is wrong."""
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            self.file.error(where, "must be a mapping of keys to values")
            return []
        valid = tuple(schema.model_fields) if own is None else own
        if not self._check_keys(where, {key: None for key in settings if key != "name" or own is None}, valid):
            return []
        axes = {}
        for key, value in settings.items():
            takes_list = _is_sequence(schema.model_fields[key].annotation)
            is_axis = isinstance(value, list) and not (takes_list and not any(isinstance(v, list) for v in value))
            axes[key] = self._axis((*where, key), value if is_axis else [value])
        points = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
        validated = (self._validated(where, schema, point) for point in points)
        return [point for point in validated if point is not None]

    def _axis(self, where: Location, values: Any) -> list[Any]:
        axis = plain(values) if isinstance(values, list) else [plain(values)]
        if any(not isinstance(value, _Plain) for value in axis):
            self.file.error(where, "must be made of numbers, texts, true, false and null")
            return []
        if not axis:
            self.file.error(where, "an empty list leaves nothing to run")
        repeated = [value for index, value in enumerate(axis) if value in axis[:index]]
        if repeated:
            self.file.error(where, f"{repeated[0]!r} stands there twice")
        return axis

    def _validated(self, where: Location, schema: type[Settings], point: Mapping[str, Any]) -> Settings | None:
        try:
            if schema is Cell:
                return schema.model_validate(point)
            return schema.model_validate_json(json.dumps(point))  # where a list may stand for a tuple
        except ValidationError as error:
            problems = {problem["loc"][:1]: problem for problem in reversed(error.errors())}  # the first of each key
            for location, problem in problems.items():
                message = problem["msg"].removeprefix("Value error, ")
                self.file.error((*where, *location), f"{message} (got {problem['input']!r})")
        return None

    def _check_keys(self, where: Location, mapping: Mapping[str, Any], valid: Sequence[str]) -> bool:
        wrong = [key for key in mapping if key not in valid]
        for key in wrong:
            self.file.error((*where, key), registry.unknown("key", key, valid))
        return not wrong

    def _check_splits(
        self, datasets: Sequence[DatasetChoice], protocols: Sequence[Protocol], trainings: Sequence[Training]
    ) -> None:
        largest = max(train.batch_size for train in trainings)
        longest = max(train.rollout_steps or 1 for train in trainings)
        if longest > (shortest := min(protocol.train_steps for protocol in protocols)):
            where = ("train", "rollout_steps")
            self.file.error(where, f"{longest} is more than the protocol's train_steps, {shortest}")
        for (name, preset), protocol in itertools.product({(d.name, d.preset) for d in datasets}, protocols):
            try:
                split = registry.dataset(name).splits(protocol, preset)["train"]
            except UserError as error:
                self.file.error(("protocol",), f"{name} ({preset}): {error}")
                continue
            windows = len(split.runs) * len(split.starts)
            if largest > windows:
                self.file.error(
                    ("train", "batch_size"),
                    f"{largest} is more than the {windows} training windows of {name} ({preset})",
                )

    def _check_ranks(self, trainings: Sequence[Training], resources: Resources) -> None:
        ranks = resources.gpus or resources.ranks
        written = "batch_size" in (self.tree.get("train") or {})
        where = ("train", "batch_size") if written else ("resources",)
        for size in {train.batch_size for train in trainings if train.batch_size % ranks}:
            self.file.error(
                where, f"{size} is not divisible by the {ranks} ranks of `resources`; it is the global batch"
            )


def describe(cell: Cell) -> dict[str, Any]:
    """What `--only` can ask of a cell."""
    dataset = cell.dataset
    return {
        **cell.model.settings(),
        "dataset": dataset.name,
        "preset": dataset.preset,
        "level": dataset.level,
        "model": cell.model.name,
        "seed": cell.seed,
        "id": cell.id,
    }


def _is_network(config: type[BaseModel], key: str) -> bool:
    return key in config.model_fields and config.model_fields[key].annotation is ModelChoice


def _is_sequence(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (list, tuple):
        return True
    return any(_is_sequence(argument) for argument in typing.get_args(annotation))
