"""`symbench new-baseline` writes a file that trains: a copy of a registered baseline, or a plain network."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import symbench

from benchmark import discovery
from benchmark.cli import models as cli_models
from benchmark.contract import checks, scaffold
from benchmark.contract.candidate import Candidate, noise
from benchmark.errors import MachineError, UserError
from benchmark.models import model_registry
from results.store.store import Store

MODELS = model_registry.model_names()
COPIED = ("relaxed_steerable_rotation", "gm_cnn", "frame_averaging", None)
"""A steerable network, layers and an autograd function of the file's own, a wrapper, and the plain network."""
RUFF = Path(sys.executable).with_name("ruff")


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    yield
    for name in [name for name in sys.modules if name.startswith("symbench_plugin_")]:
        del sys.modules[name]


@pytest.mark.parametrize("model", [*MODELS, None])
def test_a_copy_is_the_baseline_under_another_name(tmp_path: Path, model: str | None) -> None:
    path = scaffold.write("my_model", model, tmp_path)
    assert path == tmp_path / "my_model.py"
    summary = path.read_text(encoding="utf-8").splitlines()[0]
    assert summary.startswith(f'"""my_model: starts from {model}.' if model else '"""my_model: one line about')
    copy = Candidate.named(discovery.add_plugin(path))
    assert copy.baseline.__name__ == "MyModel"
    task = copy.task()
    frame = copy.build(task)(noise(task))
    if model is not None:
        original = Candidate.named(model)
        assert (copy.baseline.family, copy.baseline.symmetries) == (
            original.baseline.family,
            original.baseline.symmetries,
        )
        assert (frame == original.build(task)(noise(task))).all()


def test_the_plain_network_keeps_the_contract(tmp_path: Path) -> None:
    """A copy has the code of a baseline, whose contract `tests/contract` checks."""
    candidate = Candidate.named(discovery.add_plugin(scaffold.write("my_model", None, tmp_path)))
    results = [checks.examine(check, candidate) for check in checks.CHECKS]
    assert [result for result in results if result.outcome == "failed"] == []


def test_a_copy_trains_at_once(store: Store, make_suite: Callable[..., Path], tmp_path: Path) -> None:
    plugins: list[object] = []
    for number, model in enumerate(COPIED):
        plugins += ["--plugin", scaffold.write(f"copy_{number}", model, tmp_path)]
    settings = ["hidden: 4", "hidden: 4", "network: {convnet: {hidden: 4}}", "hidden: 4"]
    models = ", ".join(f"{{copy_{number}: {{{setting}}}}}" for number, setting in enumerate(settings))
    suite = make_suite(models=f"[{models}]", epochs=1)
    result = symbench("run", suite, *plugins, store=store)
    assert result.returncode == 0, result.stderr
    board = json.loads(symbench("leaderboard", suite, *plugins, "--json", store=store).stdout)
    assert {row["model"] for row in board} == {"copy_0", "copy_1", "copy_2", "copy_3"}


def test_what_is_written_passes_the_linter(tmp_path: Path) -> None:
    pyproject = Path(scaffold.__file__).parents[2] / "pyproject.toml"
    for number, model in enumerate([*MODELS, None]):
        text = scaffold.rendered("my_model", model)
        assert "from benchmark" in text
        assert scaffold.TEMPLATE_CLASS not in text
        (tmp_path / f"model_{number}.py").write_text(text, encoding="utf-8")
    ours = ["--config", pyproject, "--config", f"src = ['{pyproject.parent}']"]
    for command in (["check", *ours, "--no-cache"], ["format", *ours, "--check"]):
        result = subprocess.run([RUFF, *command, tmp_path], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout


def test_in_the_folder_of_models_it_is_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.BASELINES, "folder", tmp_path)
    path = scaffold.write("my_model", "relaxed_steerable_rotation", tmp_path)
    text = path.read_text(encoding="utf-8")
    assert scaffold.is_built_in(path.parent)
    assert "from benchmark.models.baseline import" in text
    assert "from benchmark.models.layers.steerable import" in text


@pytest.mark.parametrize(
    ("name", "model", "class_name"),
    [
        ("net4", None, "Net4"),
        ("task", None, "TaskNetwork"),
        ("none", None, "NoneNetwork"),
        ("scale", "sesn", "Scale"),
        ("projection", "combo_scale", "ProjectionNetwork"),
        ("scale_network", "group_scale", "ScaleNetworkNetwork"),
        ("se_s_n", "sesn", "SeSN"),
        ("conv_net", "convnet", "ConvNet"),
    ],
)
def test_class_names(tmp_path: Path, name: str, model: str | None, class_name: str) -> None:
    """A class may not hide what its file imports."""
    path = scaffold.write(name, model, tmp_path)
    assert model_registry.model(discovery.add_plugin(path)).__name__ == class_name


@pytest.mark.parametrize("docstring", ['r"""On \\alpha."""\n', "'Short.'\n", '"""Two\n\nparagraphs\n"""\n', ""])
def test_the_docstring_stays_below_the_new_first_line(docstring: str) -> None:
    text = scaffold._with_summary(f"# comment\n{docstring}import math\n", "my_model: starts from theirs.")
    (node, *_) = ast.parse(text).body
    first, *rest = ast.literal_eval(node.value).splitlines()
    assert first == "my_model: starts from theirs."
    assert "\n".join(rest).strip() == ast.literal_eval(docstring or "''").strip()
    assert text.endswith("import math\n")


def test_a_baseline_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "installed_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").touch()
    text = scaffold.rendered("theirs", None) + "\n\nfrom . import parts\nfrom .parts import __doc__\n"
    (package / "theirs.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    origin = "installed_models.theirs"
    source = discovery.Source(origin, partial(importlib.import_module, origin))
    monkeypatch.setattr(discovery.BASELINES, "_installed", {"theirs": source})
    written = scaffold.write("my_model", "theirs", tmp_path).read_text(encoding="utf-8")
    assert written.endswith("from installed_models import parts\nfrom installed_models.parts import __doc__\n")


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
    refused(tmp_path, name, None, reason)


def test_an_unknown_model(tmp_path: Path) -> None:
    refused(tmp_path, "my_model", "relaxed_steerable_rotatoin", "did you mean 'relaxed_steerable_rotation'?")


def refused(folder: Path, name: str, model: str | None, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        scaffold.write(name, model, folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "my_model.py"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"my_model\.py exists; nothing was written"):
        scaffold.write("my_model", None, tmp_path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"my_model\.py: cannot be written"):
        scaffold.write("my_model", None, tmp_path / "file" / "below")


class TestCommand:
    """Output of `symbench new-baseline`."""

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli_models.new_baseline, arguments, catch_exceptions=False)

    def test_the_next_commands_name_the_plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = self.call("my_model", "--from", "e2cnn", "--folder", "my models")
        assert result.output.splitlines()[0] == "wrote my models/my_model.py"
        commands = [line.split("#")[0].strip() for line in result.output.splitlines()[2:]]
        assert commands == [
            "symbench check-baseline 'my models/my_model.py'",
            "symbench run SUITE.yaml --plugin 'my models/my_model.py'",
            "symbench list models --plugin 'my models/my_model.py'",
        ]

    def test_a_built_in_needs_no_plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(discovery.BASELINES, "folder", tmp_path)
        result = self.call("my_model", "--folder", str(tmp_path))
        assert "symbench check-baseline my_model " in result.output
        assert "pytest tests/contract -k my_model" in result.output
        assert "--plugin" not in result.output

    @pytest.mark.parametrize(
        "arguments", [["convnet"], ["my_model", "--from", "convnt"], ["my_model", "--family", "cnn"]]
    )
    def test_mistakes_exit_with_2(self, tmp_path: Path, arguments: list[str]) -> None:
        result = symbench("new-baseline", *arguments, "--folder", tmp_path, store=None)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert list(tmp_path.iterdir()) == []
