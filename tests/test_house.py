"""House rules that no linter knows: docstrings, names, sizes, and the one file that uses torch.distributed."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import benchmark

ROOT = Path(benchmark.__file__).parents[1]
PRODUCT = [path for folder in ("benchmark", "cluster", "results") for path in sorted((ROOT / folder).rglob("*.py"))]
PRODUCT.append(ROOT / "symbench.py")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 60
ARGUMENTS, DEFERRED_IMPORTS, PACKAGE_LINES = 6, 100, 3
FILES_IN_FOLDER, FILES_AT_ROOT = 14, 8
ONE_FILE_EACH = ("benchmark/models", "benchmark/data/datasets")
"""Folders with one file for each baseline or dataset; their tests have as many."""
RIDDLES = {"told", "found", "left", "whole", "asked"}
"""Names that do not say what a thing is."""
OPENINGS = re.compile(
    r"(Of|Those|These|This|That|It|Its|They|Their|He|She|We|Our|Who|Whom|Whose|What|Which|The same|Same|As it|By itself"
    r"|Says|For those|To whom|Where|Whether or not)\b"
)
"""A docstring opens with a noun or a verb."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Violation = tuple[int, str]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


def docstrings(path: Path) -> Iterator[Violation]:
    """Missing docstrings, and those (of constants, too) that open with a pronoun or a preposition."""
    tree = parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            name = getattr(node, "name", "module")
            public = node in tree.body and not name.startswith("_") and path in PRODUCT
            if ast.get_docstring(node) is None and (node is tree or public):
                yield getattr(node, "lineno", 1), f"{name} has no docstring"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            opening = OPENINGS.match(node.value.value)
            if opening:
                yield node.lineno, f"a docstring opens with {opening[0]!r}; open with a noun or a verb"


def names(path: Path) -> Iterator[Violation]:
    """Arguments and variables whose name is a riddle."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.arg) and node.arg in RIDDLES:
            yield node.lineno, f"argument {node.arg!r}; the name should say what it is"
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in RIDDLES:
            yield node.lineno, f"variable {node.id!r}; the name should say what it is"


def sizes(path: Path) -> Iterator[Violation]:
    """Files, package files, functions and argument lists that are too long."""
    most = PACKAGE_LINES if path.name == "__init__.py" else FILE_LINES
    if lines_of(path) > most:
        yield 1, f"{lines_of(path)} lines, at most {most}"
    for function in functions(path) if path in PRODUCT else ():
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno + 1
        if length > FUNCTION_LINES:
            yield function.lineno, f"{function.name} has {length} lines, at most {FUNCTION_LINES}"
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        count = sum(argument.arg not in ("self", "cls") for argument in arguments)
        decorators = " ".join(map(ast.unparse, function.decorator_list))
        if count > ARGUMENTS and not re.search("click|option|command", decorators):
            yield function.lineno, f"{function.name} has {count} arguments, at most {ARGUMENTS}"


@pytest.mark.parametrize("path", PRODUCT + TESTS, ids=name_of)
def test_a_file_keeps_the_rules(path: Path) -> None:
    violations = sorted((*docstrings(path), *names(path), *sizes(path)))
    assert not violations, "\n".join(f"{name_of(path)}:{line}: {what}" for line, what in violations)


@pytest.mark.parametrize("path", [path for path in PRODUCT if path.is_relative_to(ROOT / "benchmark")], ids=name_of)
def test_only_one_file_knows_torch_distributed(path: Path) -> None:
    used = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            used.add(ast.unparse(node))
    knows = any(name.startswith("torch.distributed") for name in used)
    assert knows == (path.name == "distributed.py")


def test_folders_are_small() -> None:
    """An __init__.py has no code and is not counted."""
    counts = Counter(name_of(path.parent) for path in PRODUCT + TESTS if path.name != "__init__.py")
    assert counts.pop("benchmark") <= FILES_AT_ROOT
    crowded = {
        folder: count
        for folder, count in counts.items()
        if count > FILES_IN_FOLDER and folder.removeprefix("tests/") not in ONE_FILE_EACH
    }
    assert not crowded, f"more than {FILES_IN_FOLDER} Python files in a folder"


def test_few_imports_are_deferred() -> None:
    deferred = {
        f"{name_of(path)}:{node.lineno}"
        for path in PRODUCT
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert len(deferred) <= DEFERRED_IMPORTS, "\n".join(sorted(deferred))
