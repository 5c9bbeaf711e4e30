"""The pins install from an ordinary package index, on every Python that is supported."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
PYTHONS = [
    version.rpartition(" ")[2]
    for version in PROJECT["classifiers"]
    if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", version)
]
PLAIN_PYTHON_SOURCES = ("jsonpath-rw", "phiflow", "phiml")
"""Packages that come without a wheel and need no compiler."""


def normalized(name: str) -> str:
    """Name of a package as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies() -> set[str]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", requirement).group() for group in groups for requirement in group}  # type: ignore[union-attr]
    return {normalized(name) for name in names} - {PROJECT["name"]}


def test_no_pin_is_a_local_version() -> None:
    assert [version for version in PINS.values() if "+" in version] == []


def test_every_direct_dependency_is_pinned() -> None:
    assert direct_dependencies() <= {normalized(name) for name in PINS}


def test_the_classifiers_name_the_pythons_that_are_allowed() -> None:
    assert PYTHONS == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_resolve_without_wheels_of_this_machine(python: str) -> None:
    """With every setting of pip and uv off: the answer of the public index alone."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-config"),
        *("--python-version", python, "--python-platform", "x86_64-manylinux_2_28"),
        *("--constraint", "constraints.txt", "--extra", "dev", "pyproject.toml"),
        *("--only-binary", ":all:", *(f"--no-binary={package}" for package in PLAIN_PYTHON_SOURCES)),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**settings, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
        pytest.skip(f"no package index in reach: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert f"torch=={PINS['torch']}" in done.stdout.splitlines()
