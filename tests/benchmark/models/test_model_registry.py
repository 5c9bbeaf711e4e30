"""Baselines are discovered by their files; a broken one is refused by name and the others remain."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.cell import ModelChoice
from benchmark.cli import catalogue
from benchmark.data import dataset_registry
from benchmark.errors import UserError
from benchmark.models import model_registry
from benchmark.suite import facts

GOOD = """
from benchmark.models.baseline import Baseline
class Still(Baseline):
    family, symmetries, source = "reference", (), "test"
    def __init__(self, config, task): super().__init__(config, task)
    def forward(self, x): return x[:, -1]
"""


def with_config(text: str) -> str:
    return GOOD.replace("class Still(Baseline):", f"class Still(Baseline):\n    {text}")


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    before = dict(discovery.BASELINES.plugins)
    yield
    discovery.BASELINES.plugins.clear()
    discovery.BASELINES.plugins.update(before)


def plugin(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return discovery.add_plugin(folder / f"{name}.py")


def test_what_lies_in_the_folder_is_found() -> None:
    folder = Path(model_registry.__file__).parent
    others = {"__init__", *discovery.BASELINES.excluded}
    assert model_registry.model_names() == sorted({path.stem for path in folder.glob("*.py")} - others)
    assert "smoke_rotation_levels" in dataset_registry.dataset_names()
    assert "dataset" not in dataset_registry.dataset_names()


def test_a_plugin_is_known_by_its_file_name(tmp_path: Path) -> None:
    assert plugin(tmp_path, "still", GOOD) == "still"
    assert model_registry.model("still").__name__ == "Still"
    assert "still" in model_registry.model_names()


def test_a_plugin_has_a_config_with_lazy_annotations(tmp_path: Path) -> None:
    text = "from __future__ import annotations\n" + GOOD.replace(
        "class Still(Baseline):",
        "from benchmark.cell import Frozen, PositiveInt\n"
        "class Still(Baseline):\n    class Config(Frozen):\n        hidden: PositiveInt = 4",
    )
    plugin(tmp_path, "lazy", text)
    assert model_registry.model("lazy").Config.model_validate({"hidden": 8}).model_dump() == {"hidden": 8}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("syntax", "x = 1\ndef (", "cannot be imported: SyntaxError: invalid syntax (syntax.py, line 2)"),
        ("raises", "x = 1\n1 / 0", "cannot be imported: ZeroDivisionError: division by zero (raises.py, line 2)"),
        (
            "imports",
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module' (imports.py, line 1)",
        ),
        ("leaves", "raise SystemExit(5)", "cannot be imported: SystemExit: 5 (leaves.py, line 1)"),
        ("empty", "", "must define one subclass of Baseline, found 0"),
        ("twice", GOOD + GOOD.replace("Still", "Other"), "found 2"),
        ("no_forward", GOOD.replace("def forward", "def backward"), "Still lacks forward"),
        ("no_init", GOOD.replace("def __init__", "def init"), "Still lacks __init__"),
        ("no_family", GOOD.replace("family, symmetries, source =", "_a, symmetries, source ="), "Still lacks family"),
        (
            "other_family",
            GOOD.replace('"reference"', '"referense"'),
            "Still declares the unknown family 'referense'; did you mean 'reference'? (valid: relaxed, strict, cnn,",
        ),
        (
            "other_symmetry",
            GOOD.replace("()", '("rotations",)', 1),
            "Still declares the unknown symmetry 'rotations'; did you mean 'rotation'?",
        ),
        (
            "one_symmetry",
            GOOD.replace("()", '("rotation")', 1),
            "declares symmetries = 'rotation', expected a tuple such as",
        ),
        ("no_source", GOOD.replace('"test"', "None"), "declares source = None, expected a string"),
        ("no_sentence", with_config("differs = 1"), "declares differs = 1, expected a sentence, or an empty text"),
        ("version_0", with_config("version = 0"), "declares version = 0, expected a whole number from 1"),
        ("open_config", with_config("class Config: pass"), "has a Config that is no subclass of benchmark.cell.Frozen"),
        (
            "no_default",
            with_config("from benchmark.cell import Frozen\n    class Config(Frozen): hidden: int"),
            "has a Config without a default for hidden",
        ),
    ],
)
def test_a_broken_plugin_is_refused_by_name(tmp_path: Path, name: str, text: str, reason: str) -> None:
    plugin(tmp_path, name, text)
    with pytest.raises(UserError, match=name) as caught:
        model_registry.model(name)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert catalogue.model(name)["family"] == "refused"
    assert reason in catalogue.model(name)["source"]
    assert catalogue.model("convnet")["family"] == "cnn"


def test_a_plugin_cannot_take_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a baseline named 'convnet' exists"):
        plugin(tmp_path, "convnet", GOOD)
    with pytest.raises(UserError, match="not a Python file"):
        discovery.add_plugin(tmp_path / "none.py")


def test_a_file_of_the_suite_is_known_already() -> None:
    assert discovery.add_plugin(Path(model_registry.__file__).parent / "convnet.py") == "convnet"
    assert discovery.plugin_paths() == ()


def test_another_plugin_of_the_same_name_is_another_module(tmp_path: Path) -> None:
    for folder, name in ((tmp_path / "a", "First"), (tmp_path / "b", "Second")):
        folder.mkdir()
        (folder / "still.py").write_text(GOOD.replace("Still", name), encoding="utf-8")
        discovery.replace_plugins([folder / "still.py"])
        assert model_registry.model("still").__name__ == name


def test_the_version_of_a_baseline_goes_into_its_choices(tmp_path: Path) -> None:
    plugin(tmp_path, "second", with_config("version = 2"))
    assert facts.configured("second", {}).version == 2
    assert facts.configured("unet", {}).model_dump().keys() == {"name", "config"}
    wrapped = facts.configured("augmentation", {"network": "second"})
    assert wrapped.config["network"] == {"name": "second", "config": {}, "version": 2}
    assert wrapped.settings()["network.version"] == 2
    model_registry.configured(wrapped)


def test_settings_for_another_version_of_a_baseline_are_refused(tmp_path: Path) -> None:
    plugin(tmp_path, "newer", with_config("version = 3"))
    with pytest.raises(UserError, match=r"newer: these settings are for version 1 of the model.* version 3"):
        model_registry.configured(ModelChoice(name="newer", config={}))
