"""Remembered answers about code: current, right, and never in the way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.cell import Protocol
from benchmark.data import dataset_registry
from benchmark.models import model_registry
from benchmark.suite import facts, remembered
from benchmark.suite import loading as suites

ROOT = Path(__file__).parents[3]
CONVNET, AUGMENTATION = (model_registry.MODELS_FOLDER / f"{name}.py" for name in ("convnet", "augmentation"))
ASK_ALL = """
import sys
import benchmark.cli.main, cluster.slurm.estimates, cluster.slurm.in_queue, cluster.slurm.logs, cluster.slurm.submit
import results.board.compare
import results.report.export
from benchmark.planning.remember import ask
ask()
print(*(name for name in ("torch", "scipy.stats", "matplotlib", "mlflow", "ray") if name in sys.modules))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's cache, and nothing known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "known", {})
    monkeypatch.setattr(remembered, "_unsaved", set())
    return tmp_path / "cache" / "symbench"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is computed."""
    monkeypatch.setattr(facts, "answer", lambda file, question, compute: json.loads(json.dumps(compute())))


def pinned(library: str) -> str:
    pin = re.search(rf"^{library}==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None
    return pin[1]


def test_what_is_shipped_answers_all_questions_about_the_suites_of_symbench(tmp_path: Path) -> None:
    if remembered.versions() != {name: pinned(name) for name in remembered.LIBRARIES}:
        pytest.skip(f"{remembered.SHIPPED.name} is about the pins of constraints.txt")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", ASK_ALL]
    imported = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert imported == [], "remembered.json is out of date: run `make remembered`"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", model_registry.model_names())
def test_remembered_facts_about_a_model_are_right(name: str, request: pytest.FixtureRequest) -> None:
    def all_facts() -> list[object]:
        return [facts.model_facts(name), facts.configured(name, {})]

    before = all_facts()
    request.getfixturevalue("computed")
    facts._remembered_facts.cache_clear()
    assert all_facts() == before


@pytest.mark.parametrize("name", ["convnet", "e2cnn", "frame_averaging", "relaxed_steerable_rotation"])
def test_remembered_counts_are_right(name: str, request: pytest.FixtureRequest) -> None:
    def counts() -> list[object]:
        choice = facts.configured(name, {})
        return [count(choice, facts.STANDARD["field"]) for count in (facts.parameters, facts.work)]

    before = counts()
    request.getfixturevalue("computed")
    assert counts() == before


@pytest.mark.parametrize("name", dataset_registry.dataset_names())
def test_remembered_facts_about_a_dataset_are_right(name: str) -> None:
    known, dataset = facts.dataset_facts(name), dataset_registry.dataset(name)
    assert (known.levels, known.group, known.kind) == (dataset.levels, dataset.group, dataset.kind)
    assert [*map(type, known.levels)] == [*map(type, dataset.levels)]
    preset = next(iter(dataset.presets))
    assert known.presets[preset] == json.loads(json.dumps(dataset.size(preset)))
    protocol = Protocol(input_frames=2, train_steps=2, test_steps=2)
    splits = dataset.splits(protocol, preset)
    expected = {split: (len(windows), windows.steps) for split, windows in splits.items()}
    assert facts.windows(name, preset, protocol) == expected


def test_each_model_and_dataset_has_a_digest_of_its_own() -> None:
    files = [*remembered.MODELS_FOLDER.glob("*.py"), *discovery.DATASETS.folder.glob("*.py")]
    assert len({remembered.code_digest(file) for file in files}) == len(files)


def test_a_model_depends_on_what_it_imports_and_a_wrapper_on_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = remembered.MODELS_FOLDER / "layers" / "convolutions.py"
    mine = remembered.code_files(CONVNET)
    assert {CONVNET, layers, remembered.MODELS_FOLDER / "baseline.py", ROOT / "benchmark" / "cell.py"} <= mine
    assert AUGMENTATION not in mine
    assert {CONVNET, AUGMENTATION, layers} <= remembered.code_files(AUGMENTATION)

    source = discovery._source
    edited = lambda file: ("0" * 64, source(file)[1]) if file == layers else source(file)  # noqa: E731
    before = [remembered.code_digest(file) for file in (CONVNET, AUGMENTATION, layers.with_name("group_draws.py"))]
    monkeypatch.setattr(discovery, "_source", edited)
    digest = remembered.code_digest.__wrapped__
    after = [digest(file) for file in (CONVNET, AUGMENTATION, layers.with_name("group_draws.py"))]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_an_answer_is_computed_once_and_kept_for_other_processes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compute() -> tuple[int, str]:
        calls.append("x")
        return 1, "b"

    for _ in range(2):
        assert remembered.answer(CONVNET, "a question", compute) == [1, "b"]
    remembered.save()
    assert [file.stem for file in cache.iterdir()] == [remembered.code_digest(CONVNET)]
    monkeypatch.setattr(remembered, "known", {})
    assert remembered.answer(CONVNET, "a question", compute) == [1, "b"]
    assert calls == ["x"]
    assert remembered.answer(AUGMENTATION, "a question", lambda: 2) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_a_broken_cache_is_replaced(cache: Path, content: str) -> None:
    cache.mkdir(parents=True)
    file = cache / f"{remembered.code_digest(CONVNET)}.json"
    file.write_text(content)
    assert remembered.answer(CONVNET, "a question", lambda: 1) == 1
    remembered.save()
    assert json.loads(file.read_text())["a question"] == 1


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert remembered.answer(CONVNET, "a question", lambda: 1) == 1
    remembered.save()
    assert cache.parent.is_file()


def test_nothing_about_plugins_is_remembered(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    plugin = tmp_path / "mine.py"
    plugin.write_text(CONVNET.read_text(encoding="utf-8"), encoding="utf-8")
    assert facts._file_of("augmentation") == AUGMENTATION
    discovery.add_plugin(plugin)
    assert facts._file_of("mine") is None
    assert facts._file_of("convnet") == CONVNET
    assert facts._file_of("augmentation") is None, "a wrapper may take the plug-in"
    assert facts.model_facts("mine") == facts.model_facts("convnet")


def test_a_suite_from_remembered_answers_is_the_suite(computed: None, cache: Path) -> None:
    plain = suites.load("icml2022-levels-small").cells
    assert [cell.id for cell in plain] == [cell.id for cell in _with_memory("icml2022-levels-small")]


def _with_memory(name: str) -> list[object]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(facts, "answer", remembered.answer)
        return list(suites.load(name).cells)
