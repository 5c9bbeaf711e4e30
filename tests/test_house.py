"""Rules of the house that no linter knows."""

import ast
from pathlib import Path

import pytest

import benchmark

FILES = sorted(Path(benchmark.__file__).parent.rglob("*.py"))


def names_used(path: Path) -> set[str]:
    """Dotted names that a file imports or reaches through attributes."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_one_file_knows_torch_distributed(path: Path) -> None:
    knows = any(name.startswith("torch.distributed") for name in names_used(path))
    assert knows == (path.name == "distributed.py")
