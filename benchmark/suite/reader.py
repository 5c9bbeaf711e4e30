"""Reads the YAML of a suite and checks it against the declarations of models and datasets."""

import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from benchmark import discovery
from benchmark.cell import FIRST_TUNING_SEED, DatasetChoice, Frozen, ModelChoice, Protocol, Training
from benchmark.data import dataset_registry
from benchmark.errors import UserError, unknown_name
from benchmark.models import model_registry
from benchmark.suite import budget, facts
from benchmark.suite.grid import ZIP, GridReader
from benchmark.suite.suite import Range, Resources, TunedTrainingField, Tuning
from benchmark.suite.yaml_file import Location, Override, YamlFile, overridden_name, plain

REQUIRED = ("name", "datasets", "models")
OPTIONAL = ("protocol", "seeds", "train", "budget", "resources", "tuning", "tuned", "plugins", "keep")


MOST_LETTERS = 200
"""Letters of a word among models or datasets; a longer one is no name, and cannot be one of a file."""


class SeedCount(Frozen):
    """Seeds 0 to `count` - 1."""

    count: Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True)
class DeclaredModel:
    """Model of the file, its place there, the budget that decides its width (None: its width is given), and resources
    of its own (None: those of the suite)."""

    where: Location
    choice: ModelChoice
    budget: budget.Budget | None
    resources: Resources | None


@dataclass(frozen=True)
class Declaration:
    """Content of a file: the axes of the grid of cells, and settings of the suite."""

    name: str
    datasets: Sequence[DatasetChoice]
    models: Sequence[DeclaredModel]
    protocols: Sequence[Protocol]
    trainings: Sequence[Training]
    seeds: Sequence[Any]
    resources: Resources
    tuning: Tuning
    tuned: bool
    plugins: tuple[Path, ...]
    keeps_checkpoints: bool


class SuiteReader:
    """Reader of one file, with `overrides`, which are not of its name or plug-ins."""

    def __init__(self, path: Path, overrides: Sequence[Override] = ()) -> None:
        for override in overrides:
            if override.key[0] in ("name", "plugins"):
                remedy = "it follows from the other overrides" if override.key[0] == "name" else "use --plugin FILE"
                raise UserError(f"--set {'.'.join(override.key)}: cannot be set; {remedy}")
        self.file = YamlFile(path, "a suite is a mapping with the keys name, datasets and models", overrides)
        self.overrides = overrides
        self.tree = self.file.tree
        self.grid = GridReader(self.file)
        self.budgets = self._budgets(("budget",), self.tree.get("budget"))

    def declaration(self) -> Declaration:
        """Content of the file. UserError: all its mistakes."""
        self.grid.has_valid_keys((), self.tree, (*REQUIRED, *OPTIONAL))
        for key in REQUIRED:
            if key not in self.tree:
                self.file.error((), f"the key {key!r} is missing")
        plugins = self._plugins()
        self.file.stop_on_errors()

        datasets = list(self._choices("datasets", self._datasets))
        resources = self._resources(("resources",), self.tree.get("resources"))
        models = list(self._choices("models", self._models))
        protocol = self.tree.get("protocol")
        named = isinstance(protocol, str | CommentedSeq)
        protocols = self.grid.points(("protocol",), {"name": protocol} if named else protocol, Protocol)
        trainings = self.grid.points(("train",), self.tree.get("train"), Training)
        name, seeds, tuned, keeps = self.name(), self._seeds(), self._tuned(), self._keeps_checkpoints()
        tuning = self._tuning({choice.level for choice in datasets})
        self.file.stop_on_errors()

        self._check_splits(datasets, protocols, trainings)
        self._check_ranks(("resources",), trainings, resources)
        for model in models:
            if model.resources is not None:
                self._check_ranks(model.where, trainings, model.resources)
        self.file.stop_on_errors()
        return Declaration(
            *(name, datasets, models, protocols, trainings, seeds, resources, tuning, tuned, plugins, keeps)
        )

    def name(self) -> str:
        """Name of the suite, with the overrides; a wrong one is reported."""
        name = self.tree.get("name")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            self.file.error(("name",), "must be a line of text")
        return overridden_name(str(name), self.overrides)

    def _plugins(self) -> tuple[Path, ...]:
        """Files of baselines and datasets, with paths relative to the suite's folder; registered as by `--plugin`."""
        written = plain(self.tree.get("plugins", []))
        if not isinstance(written, list) or not all(isinstance(path, str) for path in written):
            self.file.error(("plugins",), "must be a list of Python files, with paths relative to this file")
            return ()
        paths = []
        for index, name in enumerate(written):
            try:
                paths.append((self.file.path.parent / Path(name).expanduser()).resolve())
                discovery.add_plugin(paths[-1])
            except UserError as error:
                self.file.error(("plugins", index), str(error))
            except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, `~` of nobody
                self.file.error(("plugins", index), f"{name[:100]!r} is no path here: {error}"[:300])
        return tuple(paths)

    def _seeds(self) -> list[Any]:
        """List of seeds, also from `{count: 5}` for 0 to 4."""
        written = self.tree.get("seeds", [0])
        if isinstance(written, CommentedMap):
            if not self.grid.has_valid_keys(("seeds",), written, tuple(SeedCount.model_fields)):
                return []
            counted = self.grid.validated(("seeds",), SeedCount, plain(written))
            return list(range(counted.count)) if counted else []
        if isinstance(written, int) and not isinstance(written, bool):
            example = f"write [{written}] for this one seed, or {{count: N}} for the seeds 0 to N - 1"
            self.file.error(("seeds",), f"{written} may be meant as a seed or as a number of seeds: {example}")
            return []
        seeds = self.grid.axis(("seeds",), written)
        if any(isinstance(seed, int) and seed >= FIRST_TUNING_SEED for seed in seeds):
            self.file.error(("seeds",), f"seeds from {FIRST_TUNING_SEED} on are those of `symbench tune`")
        return seeds

    def _tuned(self) -> bool:
        tuned = self.tree.get("tuned", False)
        if not isinstance(tuned, bool):
            self.file.error(("tuned",), f"must be true or false, not {tuned!r}")
        return bool(tuned)

    def _keeps_checkpoints(self) -> bool:
        kept = self.tree.get("keep")
        if kept not in (None, "checkpoints"):
            self.file.error(("keep",), f"must be checkpoints, or left out, not {plain(kept)!r}")
        return kept is not None

    def _tuning(self, levels: set[Any]) -> Tuning:
        """Section `tuning`, which may name only `levels`; the default after reporting a mistake."""
        written = self.tree.get("tuning")
        if not isinstance(written, CommentedMap | None):
            self.file.error(("tuning",), f"must be a mapping with some of the keys {', '.join(Tuning.model_fields)}")
            return Tuning()
        settings = plain(written) if written else {}
        if not self.grid.has_valid_keys(("tuning",), settings, tuple(Tuning.model_fields)):
            return Tuning()
        if isinstance(keys := settings.get("train"), dict):
            if not self.grid.has_valid_keys(("tuning", "train"), keys, typing.get_args(TunedTrainingField)):
                return Tuning()
            ranges = {key: value for key, value in keys.items() if isinstance(value, dict)}
            if None in [self.grid.validated(("tuning", "train", key), Range, value) for key, value in ranges.items()]:
                return Tuning()
        tuning = self.grid.validated(("tuning",), Tuning, settings) or Tuning()
        for level in itertools.chain(*(() if isinstance(tuning.levels, str) else tuning.levels)):
            if level not in levels:
                self.file.error(("tuning", "levels"), unknown_name("level", level, sorted(levels, key=str)))
        return tuning

    def _choices(self, section: str, expand: typing.Callable[..., Iterator[Any]]) -> Iterator[Any]:
        """Entries of a section: `name`, or `name: {field: value or list}`."""
        entries = self.tree[section]
        if not isinstance(entries, CommentedSeq) or not entries:
            self.file.error((section,), "must be a list of names, each with its settings if it has any")
            return
        for index, entry in enumerate(entries):
            if (longest := max(map(len, _words(entry)), default=0)) > MOST_LETTERS:
                self.file.error(
                    (section, index), f"a word of {longest} characters; no name has more than {MOST_LETTERS}"
                )
                continue
            yield from self._choice((section, index), entry, expand)

    def _choice(self, where: Location, entry: Any, expand: typing.Callable[..., Iterator[Any]]) -> Iterator[Any]:
        name, settings = entry, {}
        if isinstance(entry, CommentedMap) and len(entry) == 1:
            ((name, settings),) = entry.items()
            where = (*where, name)
        if not isinstance(name, str) or not isinstance(settings, dict | None):
            self.file.error(where, "must be a name, or a name with its settings: `name: {key: value}`")
            return
        yield from expand(where, name, settings or {})

    def _datasets(self, where: Location, name: str, settings: Mapping[str, Any]) -> Iterator[DatasetChoice]:
        if name not in dataset_registry.dataset_names():
            self.file.error(where, discovery.DATASETS.unknown(name, self.file.path.parent))
            return
        dataset = facts.dataset_facts(name)
        defaults = {"name": name, "level": list(dataset.levels), "preset": next(iter(dataset.presets))}
        own = tuple(key for key in DatasetChoice.model_fields if key != "name")
        defaults = {key: value for key, value in defaults.items() if key not in _zipped(settings)}
        for choice in self.grid.points(where, {**defaults, **settings}, DatasetChoice, own):
            for key, value, valid in (
                ("level", choice.level, dataset.levels),
                ("preset", choice.preset, tuple(dataset.presets)),
            ):
                if value not in valid:
                    self.file.error((*where, key), unknown_name(f"{key} of {name}", value, valid))
            if choice.level in dataset.levels:  # the dataset's notation: 3, not 3.0
                choice = choice.model_copy(update={"level": dataset.levels[dataset.levels.index(choice.level)]})
            yield choice

    def _models(self, where: Location, name: str, settings: Mapping[str, Any]) -> Iterator[DeclaredModel]:
        """Models of one entry, each with each of its budgets."""
        budgets, place, resources = self.budgets, where, None
        if "resources" in settings:
            resources = self._resources((*where, "resources"), settings["resources"], self.tree.get("resources"))
            settings = {key: value for key, value in settings.items() if key != "resources"}
            if name in model_registry.model_names() and not facts.model_facts(name).trained:
                self.file.error((*where, "resources"), f"{name} has nothing to train, and runs on one CPU rank")
        if "budget" in settings:
            place = (*where, "budget")
            budgets = self._budgets(place, settings["budget"])
            settings = {key: value for key, value in settings.items() if key != "budget"}
        budgeted = any(size is not None for size in budgets)
        for choice in self._configured(where, name, settings, budgeted):
            if facts.model_facts(name).trained:
                yield from (DeclaredModel(place, choice, size, resources) for size in budgets)
                continue
            if budgeted and place != where:
                self.file.error(place, f"{name} has nothing to train, and so no size")
            yield DeclaredModel(place, choice, None, None)

    def _configured(
        self, where: Location, name: str, settings: Mapping[str, Any], budgeted: bool
    ) -> Iterator[ModelChoice]:
        if name not in model_registry.model_names():
            self.file.error(where, discovery.BASELINES.unknown(name, self.file.path.parent))
            return
        try:
            model = facts.model_facts(name)
        except UserError as error:
            self.file.error(where, str(error))
            return
        width = model.width_field
        if networks := [key for key in _zipped(settings) if model.settings.get(key) == "network"]:
            self.file.error((*where, ZIP, networks[0]), "a network cannot stand under zip; write several entries")
            return
        if budgeted and (width in settings or width in _zipped(settings)) and model.settings.get(width) != "network":
            self.file.error((*where, width), f"the budget decides {width!r}; leave it out, or say `budget: null` here")
        expanded = {
            key: self._networks((*where, key), value, budgeted) if model.settings.get(key) == "network" else value
            for key, value in settings.items()
        }
        if any(value == [] != settings[key] for key, value in expanded.items()):
            return  # a mistake in a network has been reported
        fields = {key: kind == "list" for key, kind in model.settings.items()}
        for choice in self.grid.expanded(where, expanded, fields, partial(facts.configured, name)):
            wide = choice.config.get(width)
            if isinstance(wide, int) and wide > budget.WIDEST:
                self.file.error((*where, width), f"{wide} is more than {budget.WIDEST}, the widest that can be built")
            yield choice

    def _networks(self, where: Location, value: Any, budgeted: bool) -> list[dict[str, Any]]:
        """Networks of a wrapper: one entry or a list of them, as in `models`."""
        if isinstance(value, CommentedSeq):
            entries = [((*where, index), entry) for index, entry in enumerate(value)]
        else:
            entries = [(where, value)]
        expand = partial(self._configured, budgeted=budgeted)
        return [choice.model_dump() for place, entry in entries for choice in self._choice(place, entry, expand)]

    def _budgets(self, where: Location, value: Any) -> list[budget.Budget | None]:
        budgets: list[budget.Budget | None] = []
        for written in self.grid.axis(where, value):
            try:
                budgets.append(budget.parse(written))
            except ValueError as error:
                self.file.error(where, str(error))
        return budgets

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
                train_windows, _ = facts.windows(name, preset, protocol)["train"]
            except UserError as error:
                self.file.error(("protocol",), f"{name} ({preset}): {error}")
                continue
            if largest > train_windows:
                self.file.error(
                    ("train", "batch_size"),
                    f"{largest} is more than the {train_windows} training windows of {name} ({preset})",
                )

    def _resources(self, where: Location, written: Any, of_suite: Any = None) -> Resources:
        """Resources at `where`, whose keys replace those of the suite; the default after reporting a mistake."""
        shared = of_suite if isinstance(of_suite, CommentedMap) and isinstance(written, CommentedMap) else {}
        points = self.grid.points(where, {**shared, **written} if shared else written, Resources)
        if len(points) > 1:
            self.file.error(where, "takes no lists: resources are not an axis of the grid")
        return points[0] if points else Resources()

    def _check_ranks(self, where: Location, trainings: Sequence[Training], resources: Resources) -> None:
        ranks = resources.gpus or resources.ranks
        if where == ("resources",) and "batch_size" in (self.tree.get("train") or {}):
            where = ("train", "batch_size")
        for size in {train.batch_size for train in trainings if train.batch_size % ranks}:
            self.file.error(
                where, f"{size} is not divisible by the {ranks} ranks of `resources`; it is the global batch"
            )


def _zipped(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that stand under `zip`; what is no mapping there is reported where the grid is expanded."""
    return written if isinstance(written := settings.get(ZIP), dict) else {}


def _words(tree: Any) -> Iterator[str]:
    """Keys and texts in a part of the file."""
    if isinstance(tree, str):
        yield tree
    for part in (*tree, *tree.values()) if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ():
        yield from _words(part)
