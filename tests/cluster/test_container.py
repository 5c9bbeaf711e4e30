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
