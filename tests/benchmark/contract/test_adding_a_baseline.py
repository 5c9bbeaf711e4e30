"""All commands of docs/adding-a-baseline.md, from an empty folder to the leaderboard."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from support import SYMBENCH, call

from benchmark import discovery
from benchmark.contract import checks
from benchmark.contract.candidate import Candidate

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-baseline.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Block(NamedTuple):
    """Fenced block of the page: commands, their output, or a file."""

    language: str
    name: str
    text: str


BLOCKS = [Block(*match.groups("")) for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


class Shell:
    """Shell in an empty folder, whose `symbench` runs in this process: another one spends seconds on imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{SYMBENCH.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"PATH": path, "SYMBENCH_STORE": str(folder / "runs")}

    def run(self, commands: str) -> str:
        """Stdout of the last of `commands`, all of which must succeed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            for line in commands.strip().splitlines():
                command = shlex.split(line)
                done = call(command) if command[0] == "symbench" else self.process(*command)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def process(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Completed command in a process of its own, without a look at its exit status."""
        environment = {**os.environ, **self.environment, **environment}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Shell that has executed all blocks of the page, in their order."""
    shell, printed = Shell(tmp_path_factory.mktemp("page")), ""
    for block in BLOCKS:
        if block.language == "bash":
            printed = shell.run(block.text)
        elif block.language == "text":
            require_printed(block.text, printed)
        else:
            assert block.name, f"a block of {block.language} is no file"
            (shell.folder / block.name).write_text(block.text, encoding="utf-8")
    return shell


def require_printed(expected: str, printed: str) -> None:
    """Assert that every line of `expected` was printed, up to spaces and the values of numbers."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for line in expected.splitlines():
        if line.strip() not in ("", "..."):
            parts = (re.escape(part) for part in NUMBER.split(" ".join(line.split())))
            pattern = re.compile(r"[\d.]+".join(parts))
            assert any(pattern.fullmatch(other) for other in lines), f"{line!r} was not printed:\n{printed}"


def test_the_page_leads_to_the_board(shell: Shell) -> None:
    board = json.loads(shell.run("symbench leaderboard my-board.yaml --plugin dilated_resnet.py --json"))
    rows = {row["model"]: row["metrics"] for row in board}
    assert set(rows) == {"persistence", "linear", "convnet", "dilated_resnet"}
    error = {model: metrics["rmse_future"]["mean"] for model, metrics in rows.items()}
    assert error["dilated_resnet"] < min(error["persistence"], error["linear"])
    for model in ("convnet", "dilated_resnet"):
        assert abs(rows[model]["parameters"]["mean"] - 6900) <= 0.02 * 6900


def test_the_entry_point_of_a_package_finds_it(shell: Shell, tmp_path: Path) -> None:
    """Layout of an installed package with the page's pyproject.toml; its results are those of the plug-in."""
    (toml,) = [block.text for block in BLOCKS if block.name == "pyproject.toml"]
    ((name, version),) = re.findall(r'name = "(.*)"\nversion = "(.*)"', toml)
    ((group, entry, module),) = re.findall(r'\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', toml)
    package, _, file = module.partition(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    code = (shell.folder / "dilated_resnet.py").read_text(encoding="utf-8")
    (tmp_path / package / f"{file}.py").write_text(code, encoding="utf-8")
    installed = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}\n", encoding="utf-8")

    search_path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    listed, plan = (
        json.loads(shell.process(str(SYMBENCH), *command.split(), "--json", PYTHONPATH=search_path).stdout)
        for command in ("list models", "plan my-board.yaml")
    )
    (row,) = [row for row in listed if row["name"] == "dilated_resnet"]
    assert (row["family"], row["source"]) == ("cnn", "Stachenfeld et al. 2022 (arXiv 2112.15275)")
    assert (plan["cells"], plan["left"]) == (4, 0)


def test_the_code_passes_the_linter(shell: Shell) -> None:
    """Imports are sorted in another way in the checkout."""
    config = PAGE.parent.parent / "pyproject.toml"
    shell.run(f"ruff check --config '{config}' --ignore I001 dilated_resnet.py d4_network.py")
    shell.run(f"ruff format --config '{config}' --check dilated_resnet.py d4_network.py")


def test_the_network_of_d4_keeps_its_symmetries(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them the checks that e2cnn's own R2Conv fails."""
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    candidate = Candidate.named(discovery.add_plugin(shell.folder / "d4_network.py"))
    results = [checks.examine(check, candidate) for check in checks.CHECKS if not check.name.startswith("two_ranks")]
    assert [result.reason for result in results if result.outcome == "failed"] == []
    assert {result.check.name for result in results if result.outcome == "passed"} > {
        *("rotation_is_kept_on_12x12", "reflection_is_kept_on_12x9", "translation_is_kept_away_from_walls"),
        *("resume_equals_no_interruption", "state_is_restored_in_either_mode", "copies"),
    }


def test_a_wrapper_takes_it(shell: Shell) -> None:
    (entry,) = re.findall(r"`(\w+: \{network: .*?\})`", PAGE.read_text(encoding="utf-8"))
    suite = (shell.folder / "my-board.yaml").read_text(encoding="utf-8")
    (shell.folder / "wrapped.yaml").write_text(suite.replace("  - convnet\n", f"  - {entry}\n"), encoding="utf-8")
    plan = json.loads(shell.run("symbench plan wrapped.yaml --plugin dilated_resnet.py --json"))
    assert (plan["cells"], plan["left"]) == (4, 1)


def test_the_table_of_checks_is_that_of_the_contract() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## What the contract demands")[1]
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    expected = checks_as_a_table()
    assert table == expected, f"the table should be\n\n{expected}\n"


def checks_as_a_table() -> str:
    """Table with one row for checks of the same demand, such as a demand on several grids."""
    names: dict[str, list[str]] = {}
    for check in checks.CHECKS:
        names.setdefault(check.demand, []).append(check.name.replace("_", " "))
    rows = [f"| {_joined_names(many)} | {demand} |" for demand, many in names.items()]
    return "\n".join(["| check | demand |", "|---|---|", *rows])


def _joined_names(names: list[str]) -> str:
    """`takes kernel size 3, 5` for two names that begin alike."""
    words = [name.split() for name in names]
    same = [len(set(places)) == 1 for places in zip(*words, strict=False)]
    common = same.index(False) if False in same else len(same)
    ends = [" ".join(name[common:]) for name in words]
    return " ".join(words[0][:common]) + (f" {', '.join(ends)}" if len(names) > 1 else "")
