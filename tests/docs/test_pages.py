"""The pages of docs: their commands exist, what their consoles show comes, and the site builds without a warning."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import SYMBENCH, call

from benchmark import discovery
from benchmark.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
COMMAND = re.compile(r"^(?:    |\$ |`)(symbench (?!=)[^`#\n]+)", re.MULTILINE)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
WRONG_SHAPE = '''
from benchmark.models.convnet import ConvNet


class Mine(ConvNet):
    """A ConvNet without its second component."""

    def forward(self, x_BTCHW):
        return super().forward(x_BTCHW)[:, : FIRST]
'''


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for line in COMMAND.findall(page.read_text(encoding="utf-8")):
        for command in re.split(r"&&|\|", line.replace("SUITE.yaml", "SUITE")):
            words = shlex.split(command)
            if words[:1] == ["symbench"]:
                unknown = unknown_words(words[1:])
                assert not unknown, f"{page.name}: {command.strip()}: {unknown}"


def unknown_words(words: list[str]) -> list[str]:
    """Subcommands and options of a command line that do not exist."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        if words[0].startswith("-"):
            break
        following = command.get_command(click.Context(command), words[0])
        if following is None:
            return words[:1]
        command, words = following, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    return sorted(given - options - {"--help", "-h"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMBENCH_STORE", raising=False)
    return tmp_path


def test_the_consoles_of_the_first_page(folder: Path) -> None:
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (folder / "first.yaml").write_text(suite, encoding="utf-8")
    for command, expected in consoles(page):
        check(command, expected)


def test_the_page_about_a_dataset_of_your_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (folder / "flows.yaml").write_text(suite, encoding="utf-8")
    for command, expected in consoles(page):
        monkeypatch.setattr(discovery.DATASETS, "plugins", {})
        check(command, expected)


def test_the_page_about_data_of_others(folder: Path) -> None:
    page = (ROOT / "docs" / "importing-data.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for python in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(python, names)
    for command, expected in consoles(page):
        check(command, expected)


def test_the_errors_that_people_meet(folder: Path) -> None:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    changes = {
        "my-suite": ("", ""),
        "misspelt": ("convnet", "convet"),
        "key": ("epochs", "epoch"),
        "long": ("input_frames: 1", "input_frames: 10"),
        "budget": ("convnet: {hidden: 4}", "e2cnn"),
        "mine": ("convnet", "mine"),
    }
    for name, (old, new) in changes.items():
        text = suite.replace(old, new).replace("name: my-suite", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text + "budget: {flops: 1M}\n" * (name == "budget"), encoding="utf-8")
    (plugin := folder / "mine.py").write_text(WRONG_SHAPE.replace("FIRST", "1"), encoding="utf-8")
    examples = consoles(page)
    assert len(examples) == 13
    for command, expected in examples:
        if "forward gives" in expected:
            assert call([str(SYMBENCH), "data", "prepare", "my-suite.yaml"]).returncode == 0
        if "other code" in expected:
            plugin.write_text(WRONG_SHAPE.replace("FIRST", "2"), encoding="utf-8")
            check(command, "...0 failed\n")
            plugin.write_text(WRONG_SHAPE.replace("FIRST", "2 + 0"), encoding="utf-8")
        if "checksum" in expected:
            flip_a_bit(folder / "runs" / "data" / "smoke_rotation_levels" / "tiny" / "level_0.h5")
        check(command, expected)


def consoles(page: str) -> list[tuple[str, str]]:
    """(Command, expected output) of each command of the consoles of a page."""
    pairs = []
    for console in CONSOLE.findall(page):
        for example in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
            command, _, expected = example.partition("\n")
            pairs.append((command, expected))
    return pairs


def check(command: str, expected: str) -> None:
    words = [str(SYMBENCH), *shlex.split(command)[1:]]
    if words[1] == "run":
        words += ["--parallel", "1"]
    own_process = "--plugin" in words  # a process imports one version of a plug-in
    done = subprocess.run(words, capture_output=True, text=True, check=False) if own_process else call(words)
    output = "".join(line for line in (done.stderr + done.stdout).splitlines(True) if "login node" not in line)
    same = doctest.OutputChecker().check_output(expected, output, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert same, f"$ {command}\n{output}\n--- expected\n{expected}"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_site_builds_without_a_warning() -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "docs/build_site.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
