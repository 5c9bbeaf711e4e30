"""Every family and symmetry gets a baseline that keeps its contract, and what makes no sense is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from benchmark import cli_models, contract, registry, scaffold
from benchmark.baseline import Family, Symmetry
from benchmark.contract import Candidate
from benchmark.errors import MachineError, UserError

KEPT: dict[Family, tuple[tuple[Symmetry, ...], ...]] = {
    "relaxed": (("translation",), ("rotation",), ("scale",), ("rotation", "translation")),
    "strict": (("translation",), ("rotation",), ("scale", "translation")),
    "approximate": (("translation",), ("rotation",), ("scale",)),
    "cnn": (("translation",),),
    "reference": (("translation",),),
}
COMBINATIONS = [(family, symmetries) for family, kept in KEPT.items() for symmetries in kept]
RUFF = Path(sys.executable).with_name("ruff")


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_plugins", {})
    yield
    for name in [name for name in sys.modules if name.startswith("symbench_plugin_")]:
        del sys.modules[name]


@pytest.mark.parametrize(("family", "symmetries"), COMBINATIONS, ids=lambda value: str(value))
def test_what_is_written_keeps_its_contract(tmp_path: Path, family: Family, symmetries: tuple[Symmetry, ...]) -> None:
    path, test = scaffold.write("my_model", family, symmetries, tmp_path)
    assert (path, test) == (tmp_path / "my_model.py", tmp_path / "test_my_model.py")
    candidate = Candidate.named(registry.add_plugin(path))
    declared = candidate.baseline
    assert (declared.__name__, declared.family, declared.symmetries) == ("MyModel", family, symmetries)
    assert declared.search_space
    assert candidate.has(declared.width_field)
    assert [result for result in contract.run(candidate) if result.outcome == "failed"] == []


@pytest.mark.parametrize("template", sorted(scaffold.TEMPLATES_FOLDER.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_template_is_used(template: Path) -> None:
    used = {scaffold._template(*combination) for combination in COMBINATIONS}
    assert template in used


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize(("family", "symmetries"), COMBINATIONS, ids=lambda value: str(value))
def test_what_is_written_passes_the_linter(
    tmp_path: Path, family: Family, symmetries: tuple[Symmetry, ...], built_in: bool
) -> None:
    """As the files of the checkout do, whose linter would complain of a scaffold in `benchmark/models`."""
    text = scaffold._rendered(scaffold._template(family, symmetries), "a", family, symmetries, built_in)
    assert scaffold.PLACEHOLDER not in text
    assert ("benchmark." in text) == (not built_in)
    pyproject = Path(scaffold.__file__).parent.parent / "pyproject.toml"
    lint = [RUFF, "check", "--config", pyproject, "--stdin-filename", scaffold.TEMPLATES_FOLDER / "a.py", "-"]
    result = subprocess.run(lint, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_in_the_folder_of_models_it_is_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MODELS_FOLDER", tmp_path)
    assert scaffold.write("my_model", "relaxed", ("rotation",), tmp_path) == [tmp_path / "my_model.py"]
    text = (tmp_path / "my_model.py").read_text(encoding="utf-8")
    assert "from ..baseline import" in text
    assert "from .layers.group_rotation import" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "my_model.py"]  # a test would be taken for a model there


def test_plain_families_keep_translation_by_default(tmp_path: Path) -> None:
    path, _ = scaffold.write("my_model", "cnn", (), tmp_path)
    assert '    symmetries = ("translation",)\n' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "class_name"), [("net4", "Net4"), ("task", "TaskNetwork"), ("none", "NoneNetwork")])
def test_class_names(tmp_path: Path, name: str, class_name: str) -> None:
    """A class may not hide what its file imports."""
    path, _ = scaffold.write(name, "cnn", (), tmp_path)
    assert registry.model(registry.add_plugin(path)).__name__ == class_name


@pytest.mark.parametrize(
    ("family", "symmetries", "reason"),
    [
        ("relaxed", (), "--symmetry is missing: which one does a relaxed baseline keep?"),
        ("strict", ("rotation", "scale"), "no layers here keep rotation and scale at once"),
        ("cnn", ("rotation",), "a plain network (cnn) does not keep rotation; that is --family strict, relaxed or"),
        ("reference", ("translation", "scale"), "a plain network (reference) does not keep scale"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, family: Family, symmetries: tuple[Symmetry, ...], reason: str) -> None:
    refused(tmp_path, "my_model", family, symmetries, reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MyModel", "'MyModel' cannot be the name of a baseline: it must be small letters, digits and underscores"),
        ("MyModel", "; 'my_model' would be one"),
        ("my-model", "; 'my_model' would be one"),
        ("2nd", "; 'nd' would be one"),
        ("lambda", "no keyword of Python"),
        ("test_net", "; 'net' would be one"),
        ("../net", "cannot be the name"),
        ("net\n", "cannot be the name"),
        ("convnet", "a baseline named 'convnet' exists; choose another name"),
        ("torch", "a Python module named 'torch' exists"),
        ("json", "a Python module named 'json' exists"),
    ],
)
def test_names(tmp_path: Path, name: str, reason: str) -> None:
    refused(tmp_path, name, "cnn", (), reason)


def refused(folder: Path, name: str, family: Family, symmetries: tuple[Symmetry, ...], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        scaffold.write(name, family, symmetries, folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("there", ["my_model.py", "test_my_model.py"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"{there} is there already; nothing was written"):
        scaffold.write("my_model", "cnn", (), tmp_path)
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"my_model\.py: cannot be written"):
        scaffold.write("my_model", "cnn", (), tmp_path / "file" / "below")


class TestCommand:
    """What `symbench new-baseline` prints."""

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli_models.new_baseline, arguments, catch_exceptions=False)

    def test_the_next_commands_name_the_plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = self.call("my_model", "--family", "strict", "--symmetry", "rotation", "--folder", "my models")
        assert result.output.splitlines()[0] == "wrote my models/my_model.py and my models/test_my_model.py"
        commands = [line.split("#")[0].strip() for line in result.output.splitlines()[2:]]
        assert commands == [
            "symbench check-baseline 'my models/my_model.py'",
            "symbench run SUITE.yaml --plugin 'my models/my_model.py'",
            "symbench list models --plugin 'my models/my_model.py'",
        ]
        assert "pytest 'my models/test_my_model.py'" in result.output

    def test_a_built_in_needs_no_plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "MODELS_FOLDER", tmp_path)
        result = self.call("my_model", "--family", "cnn", "--folder", str(tmp_path))
        assert "symbench check-baseline my_model " in result.output
        assert "pytest tests/contract -k my_model" in result.output
        assert "--plugin" not in result.output

    def test_choices_are_those_of_the_contract(self) -> None:
        assert get_args(Family) == cli_models.FAMILIES
        assert get_args(Symmetry) == cli_models.SYMMETRIES
