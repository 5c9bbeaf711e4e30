"""A new baseline that works from the start: a template of `templates/`, under the name and family that were asked for.

A template is itself a baseline of the package; what is written differs from it in its names and its imports alone.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import registry
from .errors import MachineError, UserError

if TYPE_CHECKING:
    from .baseline import Family, Symmetry

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
PLACEHOLDER = "NewBaseline"
PLAIN = ("cnn", "reference")
"""Families of networks that keep no more than a convolution does."""
TEST = '''\
"""The contract of `{name}`; its own tests belong below."""

from pathlib import Path

import pytest

from benchmark import contract, registry

NAME = registry.add_plugin(Path(__file__).with_name("{name}.py"))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
def test_contract(check):
    result = contract.examine(check, contract.Candidate.named(NAME))
    if result.outcome == "does not apply":
        pytest.skip(result.reason)
    assert result.outcome == "passed", result.reason
'''


def write(name: str, family: Family, symmetries: Sequence[Symmetry], folder: Path) -> list[Path]:
    """Write the baseline `name` into `folder`; returns what was written, its own file first.

    In `benchmark/models/` that is the one file, since the contract tests take whatever lies there; in any other folder
    it is a plug-in, and its test lies beside it. UserError: the name is taken or cannot be one, no template fits, or a
    file is there already.
    """
    _check_name(name)
    symmetries = tuple(dict.fromkeys(symmetries)) or (("translation",) if family in PLAIN else ())
    template = _template(family, symmetries)
    built_in = is_built_in(folder)
    files = {folder / f"{name}.py": _rendered(template, name, family, symmetries, built_in)}
    if not built_in:
        files[folder / f"test_{name}.py"] = TEST.format(name=name)
    for path in files:
        if path.exists():
            raise UserError(f"{path} is there already; nothing was written")
    _check_free(name)
    for path, text in files.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise MachineError(f"{path}: cannot be written: {error.strerror or error}") from error
    return list(files)


def is_built_in(folder: Path) -> bool:
    """Whether what lies there is a baseline of this checkout, and no plug-in."""
    return folder.resolve() == registry.MODELS_FOLDER


def _template(family: Family, symmetries: Sequence[Symmetry]) -> Path:
    if not symmetries:
        raise UserError(
            f"--symmetry is missing: which one does a {family} baseline keep? (translation, rotation, scale)"
        )
    if "rotation" in symmetries and "scale" in symmetries:
        raise UserError("no layers here keep rotation and scale at once; begin with one of the two and add the other")
    beyond = [one for one in symmetries if one != "translation"]
    leading = beyond[0] if beyond else "translation"
    if family in PLAIN and leading != "translation":
        raise UserError(
            f"a plain network ({family}) does not keep {leading}; that is --family strict, relaxed or approximate"
        )
    plain = family in PLAIN or (family, leading) == ("strict", "translation")
    return TEMPLATES_FOLDER / ("plain.py" if plain else f"{family}_{leading}.py")


def _check_name(name: str) -> None:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name) and not name.startswith("test_"):
        return
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    near = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_0123456789").removeprefix("test_")
    hint = f"; {near!r} would be one" if re.match(r"[a-z]", near) and not keyword.iskeyword(near) else ""
    raise UserError(
        f"{name!r} cannot be the name of a baseline: it must be small letters, digits and underscores, begin with a"
        f" letter and not with 'test_', and be no keyword of Python{hint}"
    )


def _check_free(name: str) -> None:
    if name in registry.model_names():
        raise UserError(f"a baseline named {name!r} exists; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"a Python module named {name!r} exists, and one would hide the other; choose another name")


def _rendered(template: Path, name: str, family: Family, symmetries: Sequence[Symmetry], built_in: bool) -> str:
    text = template.read_text(encoding="utf-8")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    if keyword.iskeyword(class_name) or re.search(rf"\b{class_name}\b", text):
        class_name += "Network"  # a name that the file imports
    declared = ", ".join(f'"{symmetry}"' for symmetry in symmetries) + ("," if len(symmetries) == 1 else "")
    changes = {
        rf"\b{PLACEHOLDER}\b": class_name,
        r"^    family = .*$": f'    family = "{family}"',
        r"^    symmetries = .*$": f"    symmetries = ({declared})",
    }
    for old, new in changes.items():
        text, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count, f"{template} lacks {old}"
    if built_in:
        return text.replace("from ..models.", "from .")
    return text.replace("from ..", "from benchmark.")
