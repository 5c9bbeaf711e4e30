"""Contract of all datasets: the physics of a preset at a tiny size."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support import simulate

from benchmark.cell import Level, Protocol
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, PAPER, Dataset, Simulation
from benchmark.data.paths import data_path
from benchmark.data.prepare import outline, prepare, recipe
from benchmark.errors import MachineError, UserError
from benchmark.groups import divergence, elements

SHORT = Protocol(input_frames=1, train_steps=2, test_steps=2)
NAMES = dataset_registry.dataset_names()
SIMULATED = [name for name in NAMES if set(dataset_registry.dataset(name).presets) - {IMPORTED}]
RECIPES = """
anisotropic_trap 1baea176a6b36062 9a2dccfca56dcfef d3a215b89e010606
beta_plane d8672dbe1087300e f5965ffba7cf1f98 42138030c73663ff
smoke_rotation 5d18c5b8eefe084b 3b9a0a8a3320b05e dada7ad8eff06240
smoke_rotation_levels ab9329f33bccb8bf a47f984dd8808952 3a00447631714223
smoke_scale d51ad4ae73a47536 897d94492a266424 1ca622bbf5cab9b0
smoke_translation 676a750c2a359bf5 29f059b42982e211 338059b376280970
trapped_ions 58a07170ae8e6c13 de647ad8592c1a52 3a7bf9c89bc06cd9
turbulence_rotation 57ca8e1f710f9641 4b8cc69fb58a294d 9ee098f8c8da537c
turbulence_translation 95bb1ac798dc0fb5 bb34880d33ac5d5f 654f367abe73dc15
"""
"""Digests of the recipes of all levels, of the presets small, tiny, and paper or full."""
IMPORTS = [name for name in NAMES if IMPORTED in dataset_registry.dataset(name).presets]


def no_progress(done: int, total: int) -> None:
    pass


def some_levels(dataset: Dataset) -> list[Level]:
    """Numbers alone: the most symmetric, one between, the least symmetric."""
    levels = [level for level in dataset.levels if level != PAPER]
    return [levels[0], levels[len(levels) // 2], levels[-1]]


@pytest.fixture(scope="session", params=SIMULATED)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return dataset_registry.dataset(request.param)


@pytest.fixture(scope="session")
def simulations(dataset: Dataset) -> dict[Level, Simulation]:
    levels = [*some_levels(dataset), *([PAPER] if PAPER in dataset.levels else [])]
    return {level: simulate(dataset, level, "tiny") for level in levels}


def test_datasets_are_found() -> None:
    assert {"smoke_rotation", "smoke_scale", "smoke_translation", "jetflow"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    assert dataset.kind != "field" or elements(dataset.group, "centered", dataset.periodic, 16, 16)
    assert dataset.level_meaning
    assert dataset.test_runs in ("designed", "sampled")
    assert dataset.source
    assert (type(dataset).__doc__ or "").strip()
    assert len(set(dataset.levels)) == len(dataset.levels) > 0
    assert dataset.presets
    values = [dataset.level_value(level) for level in dataset.levels if level != PAPER]
    assert values == sorted(set(values))
    if PAPER in dataset.levels:
        assert isinstance(dataset.level_value(PAPER), float)


@pytest.mark.parametrize("name", SIMULATED)
def test_the_first_preset_is_small_and_level_0_is_there(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    assert next(iter(dataset.presets)) == "small"
    assert dataset.levels[0] == 0


@pytest.mark.parametrize("name", SIMULATED)
def test_parts_are_plain_data_with_keys(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    for preset in set(dataset.presets) - {IMPORTED}:
        keys = {level: [part.key for part in dataset.parts(level, preset)] for level in dataset.levels}
        assert keys == {level: [part.key for part in dataset.parts(level, preset)] for level in dataset.levels}
        assert len({tuple(one) for one in keys.values()}) == len(dataset.levels)  # no level is another one
        for part in dataset.parts(dataset.levels[-1], preset):
            assert dataclasses.is_dataclass(part)
            assert part.work > 0


def test_recipes_are_golden() -> None:
    """Another recipe makes `prepare` simulate again what lies on disk, and the records of old cells differ in data."""

    def digest(dataset: Dataset, preset: str) -> str:
        recipes = "".join(recipe(dataset.parts(level, preset)) for level in dataset.levels)
        return hashlib.sha256(recipes.encode()).hexdigest()[:16]

    digests = {
        name: [digest(dataset, preset) for preset in dataset.presets if preset != IMPORTED]
        for name, dataset in ((name, dataset_registry.dataset(name)) for name in SIMULATED)
    }
    assert digests == {name: golden for name, *golden in map(str.split, RECIPES.strip().splitlines())}


def test_fields(dataset: Dataset, simulations: Mapping[Level, Simulation]) -> None:
    runs = {run for split in dataset.splits(SHORT, "tiny").values() for run in split.runs}
    for simulation in simulations.values():
        field = simulation.field
        assert field.dtype == np.float32
        size = dataset.presets["tiny"]
        assert field.shape[1:] == (size.frames, *size.shape)
        assert len(field) == len(simulation.run_parameters) >= max(runs) + 1
        assert np.isfinite(field).all()
        assert (np.abs(field).reshape(len(field), -1).max(axis=1) > 0).all()
        assert simulation.spacing > 0
        assert simulation.time_step > 0


def test_no_divergence_where_that_is_promised(simulations: Mapping[Level, Simulation]) -> None:
    for simulation in simulations.values():
        if simulation.divergence_free:
            assert simulation.grid == "staggered"
            field = torch.from_numpy(simulation.field).double()
            limit = 1e-6 * field.abs().max() / simulation.spacing
            assert divergence(field, simulation.spacing).abs().max() < limit


def test_the_knob_breaks_the_symmetry(dataset: Dataset, simulations: Mapping[Level, Simulation]) -> None:
    """Measured, not set: the more the knob is turned, the larger the error of every kind."""
    numbered = [simulations[level] for level in some_levels(dataset)]
    for kind in ("absolute", "relative"):
        means = [np.mean([getattr(error, kind) for error in one.equivariance_errors]) for one in numbered]
        assert (np.diff(means) > 0).all(), means
    names = [[error.element for error in one.equivariance_errors] for one in simulations.values()]
    assert all(one == names[0] and len(set(one)) == len(one) > 0 for one in names)


@pytest.mark.parametrize("name", ["disjoint", "icml2022"])
@pytest.mark.parametrize("dataset_name", NAMES)
def test_windows_lie_within_the_frames(dataset_name: str, name: str) -> None:
    dataset = dataset_registry.dataset(dataset_name)
    protocol = SHORT.model_copy(update={"name": name})
    for preset, size in dataset.presets.items():
        levels = dataset_name == "smoke_rotation_levels"
        if name == "icml2022" and (preset == "tiny" or (preset == "small" and not levels)):
            with pytest.raises(UserError, match="windows of icml2022 start at frame"):
                dataset.splits(protocol, preset)
            continue
        splits = dataset.splits(protocol, preset)
        assert set(splits) == {"train", "validation", "future", "domain"}
        for split in splits.values():
            assert min(split.starts) >= 0
            assert max(split.starts) + protocol.input_frames + split.steps <= size.frames
        assert not set(splits["train"].runs) & set(splits["domain"].runs)
        assert splits["train"].runs == splits["validation"].runs == splits["future"].runs


@pytest.mark.parametrize("name", ["disjoint", "icml2022"])
def test_windows_that_do_not_fit_are_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(UserError, match="window"):
        dataset.splits(Protocol.model_validate({"name": name, "test_steps": 1000}), "tiny")


@pytest.mark.parametrize("dataset_name", SIMULATED)
def test_the_same_command_writes_the_same_bytes(dataset_name: str, tmp_path: Path) -> None:
    level = dataset_registry.dataset(dataset_name).levels[-1]

    def made(at: str) -> list[Path]:
        return list(prepare(outline(dataset_name, "tiny", [level, level], tmp_path / at), no_progress))

    first, second = made("a"), made("b")
    assert first == [data_path(tmp_path / "a", dataset_name, "tiny", level)]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert made("a") == []


@pytest.mark.parametrize("dataset_name", IMPORTS)
def test_what_is_imported_says_how_to_get_it(dataset_name: str, tmp_path: Path) -> None:
    dataset = dataset_registry.dataset(dataset_name)
    files = dataset.published_files
    assert files is not None
    assert files.level in dataset.levels
    splits = dataset.splits(Protocol(name="icml2022"), IMPORTED)
    assert max(run for split in splits.values() for run in split.runs) < len(set(files.names))
    with pytest.raises(MachineError, match=rf"symbench data import {dataset_name} FOLDER"):
        outline(dataset_name, IMPORTED, [files.level], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_published_splits() -> None:
    """Wang, Walters, Yu 2022: runs that are trained on and unseen ones, windows of each run."""
    runs = {"smoke_translation": (25, 10), "smoke_rotation": (25, 10), "smoke_scale": (28, 10), "jetflow": (18, 6)}
    for name, (training, unseen) in runs.items():
        splits = dataset_registry.dataset(name).splits(Protocol(name="icml2022"), IMPORTED)
        assert [len(splits[split].runs) for split in ("train", "domain")] == [training, unseen]
        assert [len(splits[split].starts) for split in splits] == [160, 40, 50, 100]
        assert [splits[split].starts[0] for split in splits] == [2, 162, 202, 2]


def test_jetflow_is_the_published_set() -> None:
    jet = dataset_registry.dataset("jetflow")
    names = jet.published_files.names
    assert (len(names), names[0], names[8], names[-1]) == (24, "raw_data_1_1.pt", "raw_data_2_1.pt", "raw_data_3_8.pt")
    splits = jet.splits(Protocol(name="icml2022"), IMPORTED)
    assert [names[run][9:12] for run in splits["domain"].runs] == ["2_3", "3_7", "2_7", "2_5", "3_2", "1_5"]
    assert (len(splits["train"].runs), len(splits["future"].starts)) == (18, 50)
    assert max(splits["future"].starts) + 10 + 20 == jet.presets[IMPORTED].frames
    assert jet.level_value(PAPER) == 0


def test_jetflow_is_not_simulated() -> None:
    jet = dataset_registry.dataset("jetflow")
    for call in (lambda: jet.parts(PAPER, IMPORTED), lambda: jet.assemble(PAPER, IMPORTED, [])):
        with pytest.raises(UserError, match=r"measured, not simulated.*symbench data import jetflow DIR"):
            call()
