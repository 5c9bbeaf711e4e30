"""File of a new baseline or dataset: a copy of a registered one under another name, or a plain one."""

import ast
import importlib.util
import inspect
import io
import keyword
import re
import sys
import tokenize
from pathlib import Path
from typing import Literal

from benchmark.contract import dataset_template
from benchmark.data import dataset_registry
from benchmark.discovery import BASELINES, DATASETS
from benchmark.errors import MachineError, UserError
from benchmark.models import model_registry

Kind = Literal["baseline", "dataset"]
SOURCES = {"baseline": BASELINES, "dataset": DATASETS}
TEMPLATE_CLASS = "NewBaseline"
TEMPLATE = '''\
from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.models.layers.convolutions import convolutional_network
from symbench import Baseline, Choice, Frozen, PositiveInt, SearchSpace, Task


class NewBaseline(Baseline):
    """y = A_L relu(... relu(A_1 * x)): the equation, the differences from the paper, and the cost."""

    class Config(Frozen):
        """Settings of a suite, each with a default. Call the width `hidden`: a suite's `budget` solves for it."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 5

    family = "cnn"
    symmetries = ("translation",)
    source = "your paper (arXiv ...), section ..."
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        # Replace this network. Pad with `task.padding_mode`, which is circular in a periodic box.
        self.network = convolutional_network(task, config.hidden, config.layers, kernel_size=3)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))  # all frames as channels
'''


def write(name: str, model: str | None, folder: Path, kind: Kind = "baseline") -> Path:
    """Write NAME.py into `folder`, a copy of `model` or, for None, a plain network or dataset; returns its path.

    UserError: the name is taken or invalid, `model` is unknown or broken, or the file exists. MachineError: the file
    cannot be written.
    """
    path = folder / f"{name}.py"
    if path.exists():
        raise UserError(f"{path} exists; nothing was written")
    require_free_name(name, kind)
    text = rendered(name, model, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def require_free_name(name: str, kind: Kind) -> None:
    """UserError: the name is invalid, or a baseline, dataset or module has it."""
    _check_name(name, kind)
    if name in SOURCES[kind].all():
        raise UserError(f"a {kind} named {name!r} exists; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"a Python module named {name!r} exists, and one would hide the other; choose another name")


def is_built_in(folder: Path, kind: Kind = "baseline") -> bool:
    """Whether a file in `folder` is one of this checkout and needs no --plugin."""
    return folder.resolve() == SOURCES[kind].folder


def rendered(name: str, model: str | None, kind: Kind = "baseline") -> str:
    """Text of the new file. UserError: `model` is unknown or broken."""
    if model is None and kind == "baseline":
        text, old_class, package = TEMPLATE, TEMPLATE_CLASS, ""
        summary = f"{name}: one line about the model."
    else:
        original: type = dataset_template.NewDataset
        if model is not None:
            original = model_registry.model(model) if kind == "baseline" else type(dataset_registry.dataset(model))
        module = sys.modules[original.__module__]
        text, old_class, package = inspect.getsource(module), original.__name__, module.__package__ or ""
        summary = f"{name}: starts from {model or 'vortices in a wind'}."
    text = _with_class(text, old_class, name)
    return _with_summary(_with_absolute_imports(text, package), summary)


def _with_class(text: str, old_class: str, name: str) -> str:
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.NAME]
    new_class = "".join(part.capitalize() for part in name.split("_"))
    while keyword.iskeyword(new_class) or any(token.string == new_class != old_class for token in tokens):
        new_class += "Network"  # the name is in use within the file
    lines = text.splitlines(keepends=True)
    for token in reversed(tokens):
        if token.string == old_class:
            (row, start), (_, end) = token.start, token.end
            lines[row - 1] = lines[row - 1][:start] + new_class + lines[row - 1][end:]
    return "".join(lines)


def _with_absolute_imports(text: str, package: str) -> str:
    def absolute(match: re.Match[str]) -> str:
        return match[1] + importlib.util.resolve_name(match[2], package)

    return re.sub(r"^(\s*from )(\.+[\w.]*)(?= import\b)", absolute, text, flags=re.MULTILINE)


def _with_summary(text: str, summary: str) -> str:
    """`text` with `summary` as a new first line of the module's docstring."""
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    if docstring is None:
        return f'"""{summary}"""\n\n{text}'
    escaped = docstring.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    lines = text.splitlines(keepends=True)
    lines[tree.body[0].lineno - 1 : tree.body[0].end_lineno] = [f'"""{summary}\n\n{escaped}\n"""\n']
    return "".join(lines)


def _check_name(name: str, kind: Kind) -> None:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name) and not name.startswith("test_"):
        return
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    near = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_0123456789").removeprefix("test_")
    hint = f"; {near!r} would be one" if re.match(r"[a-z]", near) and not keyword.iskeyword(near) else ""
    raise UserError(
        f"{name!r} cannot be the name of a {kind}: it must be small letters, digits and underscores, begin with a"
        f" letter and not with 'test_', and be no keyword of Python{hint}"
    )
