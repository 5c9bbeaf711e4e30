"""Discovery of baselines and datasets by the folder of their files."""

import inspect
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Contract = TypeVar("Contract")


@cache
def module_names(folder: Path) -> tuple[str, ...]:
    """Names of the Python files directly in `folder`, sorted, without importing one."""
    return tuple(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.ispkg)


def subclasses(module: ModuleType, contract: type[Contract]) -> list[type[Contract]]:
    """Subclasses of `contract` that `module` itself defines."""
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and member.__module__ == module.__name__ and issubclass(member, contract)
    ]
