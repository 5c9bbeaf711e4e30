"""The two recipes of a container: what they install, what they copy, and what a linter says of them."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "container"
DOCKERFILE, APPTAINER = (FOLDER / name for name in ("Dockerfile", "symbench.def"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copied(recipe: Path) -> set[str]:
    """Files and folders of the checkout that a recipe copies."""
    text = recipe.read_text(encoding="utf-8")
    if recipe == DOCKERFILE:
        return {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    return {line.split()[0] for line in re.search(r"%files\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()}  # type: ignore[index]


def commands(recipe: Path) -> list[str]:
    """Shell commands that a recipe runs, without changes of the folder."""
    text = re.sub(r"^ *#.*\n", "", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    if recipe == DOCKERFILE:
        runs = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
        return [command.strip() for run in runs for command in run.split("&&")]
    lines = re.search(r"%post\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()  # type: ignore[index]
    return [line.strip() for line in lines if not line.startswith("    cd ")]


def variables(recipe: Path) -> list[str]:
    """Assignments of environment variables in a recipe."""
    return re.findall(r"^(?:ENV|    export) (\S+=\S+)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)


def test_both_recipes_run_the_same_commands_and_set_the_same_variables() -> None:
    assert commands(DOCKERFILE) == commands(APPTAINER)
    assert variables(DOCKERFILE) == variables(APPTAINER)


@pytest.mark.parametrize("recipe", [DOCKERFILE, APPTAINER], ids=lambda path: path.name)
def test_neither_a_home_nor_the_owner_of_a_checkout_changes_what_a_record_says(recipe: Path) -> None:
    """Apptainer mounts ~, whose ~/.local hid packages of the image; git refused the checkout of another user."""
    assert "PYTHONNOUSERSITE=1" in variables(recipe)
    assert "git config --system --add safe.directory '*'" in commands(recipe)


@pytest.mark.parametrize("recipe", [DOCKERFILE, APPTAINER], ids=lambda path: path.name)
def test_a_recipe_copies_what_the_wheel_needs_and_installs_the_pins(recipe: Path) -> None:
    wheel = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    described = {PROJECT["project"]["readme"], PROJECT["project"]["license"]["file"]}
    assert copied(recipe) == wheel | described | {"pyproject.toml", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied(recipe))
    text = recipe.read_text(encoding="utf-8")
    assert "python -m pip install --no-cache-dir -c constraints.txt '.[tune]'" in text
    assert "python:3.11-slim" in text


def test_the_linter_of_dockerfiles_says_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_built_where_docker_runs() -> None:
    if not (docker := shutil.which("docker")) or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no Docker daemon to build the image with")
    subprocess.run([docker, "build", "--file", DOCKERFILE, "--tag", "symbench-test", ROOT], check=True)
    shown = subprocess.run([docker, "run", "--rm", "symbench-test", "list", "suites"], capture_output=True, check=True)
    assert b"quickstart" in shown.stdout
