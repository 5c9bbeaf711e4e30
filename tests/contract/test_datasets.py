"""What every dataset promises, for all that are found; the physics is that of a preset, the size is tiny."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import registry
from benchmark.cell import Level, Protocol
from benchmark.data.dataset import Dataset, Preset, Progress, Simulation, Split, SplitName
from benchmark.data.layout import data_path, read
from benchmark.data.prepare import prepare
from benchmark.errors import UserError
from benchmark.groups import divergence

TINY = Preset(cells=16, frames=24)
TINIER = Preset(cells=16, frames=12)
SHORT = Protocol(input_frames=1, train_steps=2, test_steps=2)
NAMES = registry.dataset_names()


def no_progress(done: int, total: int) -> None:
    pass


def reduced(name: str, preset: Preset) -> Dataset:
    """The dataset with one preset, which is small enough for a test."""
    original = type(registry.dataset(name))
    return type(original.__name__, (original,), {"presets": {"tiny": preset}})()


def some_levels(dataset: Dataset) -> list[Level]:
    levels = dataset.levels
    return [levels[0], levels[len(levels) // 2], levels[-1]]


@pytest.fixture(scope="session", params=NAMES)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return reduced(request.param, TINY)


@pytest.fixture(scope="session")
def simulations(dataset: Dataset) -> dict[Level, Simulation]:
    return dict(dataset.simulate(some_levels(dataset), "tiny", no_progress))


def test_datasets_are_found() -> None:
    assert "smoke_rotation_levels" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    dataset = registry.dataset(name)
    assert dataset.group
    assert dataset.level_meaning
    assert dataset.source
    assert len(set(dataset.levels)) == len(dataset.levels) > 0
    assert dataset.presets


def test_it_yields_the_levels_in_order(dataset: Dataset, simulations: Mapping[Level, Simulation]) -> None:
    assert list(simulations) == some_levels(dataset)


def test_fields(dataset: Dataset, simulations: Mapping[Level, Simulation]) -> None:
    runs = {run for split in dataset.splits(SHORT, "tiny").values() for run in split.runs}
    for simulation in simulations.values():
        field = simulation.field
        assert field.dtype == np.float32
        assert field.shape[1:] == (TINY.frames, dataset.channels, TINY.cells, TINY.cells)
        assert len(field) == len(simulation.run_parameters) == max(runs) + 1
        assert np.isfinite(field).all()
        assert (np.abs(field).max(axis=(1, 2, 3, 4)) > 0).all()
        assert simulation.spacing > 0
        assert simulation.time_step > 0


def test_no_divergence_on_the_staggered_stencil(simulations: Mapping[Level, Simulation]) -> None:
    for simulation in simulations.values():
        if simulation.grid == "staggered":
            field = torch.from_numpy(simulation.field).double()
            limit = 1e-6 * field.abs().max() / simulation.spacing
            assert divergence(field, simulation.spacing).abs().max() < limit


def test_the_knob_breaks_the_symmetry(simulations: Mapping[Level, Simulation]) -> None:
    means = [np.mean([e.absolute for e in one.equivariance_errors]) for one in simulations.values()]
    relatives = [np.mean([e.relative for e in one.equivariance_errors]) for one in simulations.values()]
    assert means[0] == relatives[0] == 0
    assert (np.diff(means) > 0).all()
    assert (np.diff(relatives) > 0).all()


@pytest.mark.parametrize("name", ["disjoint", "icml2022"])
@pytest.mark.parametrize("dataset_name", NAMES)
def test_windows_lie_within_the_frames(dataset_name: str, name: str) -> None:
    dataset = registry.dataset(dataset_name)
    protocol = SHORT.model_copy(update={"name": name})
    for preset, size in dataset.presets.items():
        splits = dataset.splits(protocol, preset)
        assert set(splits) == {"train", "validation", "future", "domain"}
        for split in splits.values():
            assert min(split.starts) >= 0
            assert max(split.starts) + protocol.input_frames + split.steps <= size.frames
        assert not set(splits["train"].runs) & set(splits["domain"].runs)


@pytest.mark.parametrize("dataset_name", NAMES)
def test_disjoint_shares_no_frame(dataset_name: str) -> None:
    dataset = registry.dataset(dataset_name)
    for preset in dataset.presets:
        touched = [
            {(run, start + i) for run in split.runs for start in split.starts for i in range(1 + split.steps)}
            for split in dataset.splits(SHORT, preset).values()
        ]
        assert sum(len(one) for one in touched) == len(set.union(*touched))


@pytest.mark.parametrize("name", ["disjoint", "icml2022"])
def test_windows_that_do_not_fit_are_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(UserError, match="window"):
        dataset.splits(Protocol.model_validate({"name": name, "test_steps": 1000}), "tiny")


@pytest.mark.parametrize("dataset_name", NAMES)
def test_the_same_command_writes_the_same_bytes(
    dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = reduced(dataset_name, TINIER)
    monkeypatch.setattr(registry, "dataset", lambda name: dataset)
    level = dataset.levels[-1]
    first, second = (prepare(dataset_name, "tiny", [level], tmp_path / at, no_progress) for at in ("a", "b"))
    assert first == [data_path(tmp_path / "a", dataset_name, "tiny", level)]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert prepare(dataset_name, "tiny", [level, level], tmp_path / "a", no_progress) == []


class Interrupted(Dataset):
    """A dataset without physics whose third level never comes."""

    group = "C4"
    levels = (0, 1, 2)
    level_meaning = "nothing"
    presets = {"tiny": Preset(4, 2)}  # noqa: RUF012 - a constant of the class
    source = "this test"

    def simulate(self, levels: Sequence[Level], preset: str, progress: Progress) -> Iterator[tuple[Level, Simulation]]:
        for level in levels:
            if level == 2:
                raise KeyboardInterrupt
            field = np.full((1, 2, 2, 4, 4), float(level), np.float32)
            yield level, Simulation(field, "centered", 1.0, 1.0, {}, [{}], [])

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        return {}


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "dataset", lambda name: Interrupted())


@pytest.mark.usefixtures("interrupted")
def test_an_interruption_leaves_complete_files_only(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare("toy", "tiny", [0, 1, 2], tmp_path, no_progress)
    assert sorted(found.name for found in tmp_path.rglob("*.*")) == ["level_0.h5", "level_1.h5"]
    assert prepare("toy", "tiny", [0, 1], tmp_path, no_progress) == []


@pytest.mark.usefixtures("interrupted")
def test_a_broken_file_is_made_again(tmp_path: Path) -> None:
    (path,) = prepare("toy", "tiny", [1], tmp_path, no_progress)
    path.write_bytes(path.read_bytes()[:100])
    assert prepare("toy", "tiny", [0, 1.0], tmp_path, no_progress) == [path.with_name("level_0.h5"), path]
    assert read(path).field.unique().tolist() == [1.0]
    path.write_bytes(path.with_name("level_0.h5").read_bytes())
    assert prepare("toy", "tiny", [0, 1], tmp_path, no_progress) == [path]


@pytest.mark.usefixtures("interrupted")
def test_unknown_presets_and_levels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown preset 'tinny'; did you mean 'tiny'"):
        prepare("toy", "tinny", [0], tmp_path, no_progress)
    with pytest.raises(UserError, match=r"unknown level 7.*valid: 0, 1, 2"):
        prepare("toy", "tiny", [0, 7], tmp_path, no_progress)
    assert list(tmp_path.iterdir()) == []
