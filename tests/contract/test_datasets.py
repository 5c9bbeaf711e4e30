"""Contract of all datasets: the physics of a preset at a tiny size."""

import hashlib
from functools import cache
from pathlib import Path

import pytest

from benchmark.cell import Protocol
from benchmark.contract.checks import Check, examine
from benchmark.contract.datasets import CHECKS, DatasetCandidate
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, PAPER, Dataset
from benchmark.data.paths import data_path
from benchmark.data.prepare import outline, prepare, recipe
from benchmark.errors import MachineError, UserError

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
MAY_NOT_APPLY = {
    *("keeps_its_promise_of_no_divergence", "components_follow_their_axes", "components_are_about_equally_large")
}
"""Checks of incompressible flows, of what `symbench data import` converted, and of fields with several components."""
IMPORTS = [name for name in NAMES if IMPORTED in dataset_registry.dataset(name).presets]


def no_progress(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session", params=SIMULATED)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return dataset_registry.dataset(request.param)


def test_datasets_are_found() -> None:
    assert {"smoke_rotation", "smoke_scale", "smoke_translation", "jetflow"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_contract(name: str, check: Check) -> None:
    result = examine(check, candidate(name))
    assert result.outcome in ("passed", "does not apply"), result.reason
    assert result.outcome == "passed" or name not in SIMULATED or check.name in MAY_NOT_APPLY


@cache
def candidate(name: str) -> DatasetCandidate:
    return DatasetCandidate.named(name)


@pytest.mark.parametrize("name", SIMULATED)
def test_the_first_preset_is_small_and_level_0_is_there(name: str) -> None:
    dataset = dataset_registry.dataset(name)
    assert next(iter(dataset.presets)) == "small"
    assert dataset.levels[0] == 0


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
