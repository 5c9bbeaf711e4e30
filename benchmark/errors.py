"""What may go wrong for a reason that a person can mend. The command line prints the message and no traceback."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class SymbenchError(Exception):
    """Base of the errors that are shown as one message; `exit_status` is what the process returns."""

    exit_status = 1


class UserError(SymbenchError):
    """The input is wrong: a suite, an option, a file that was named."""

    exit_status = 2


class MachineError(SymbenchError):
    """The surroundings are wrong: no permission, no space, no data, somebody else at work."""

    exit_status = 3


def unknown_name(kind: str, name: object, valid: Iterable[object]) -> str:
    """The sentence for a name that does not exist: what is nearest, and what would be right."""
    choices = {str(choice): choice for choice in valid}
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"; did you mean {choices[near[0]]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (valid: {', '.join(choices)})"


def error_location(error: BaseException, file: str | Path | None = None) -> str:
    """`ValueError: no such thing (mine.py, line 12)`: the last line of `file` on the way to the error, if there is one.

    Otherwise, the last line of any file.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    if isinstance(error, SyntaxError):  # says file and line by itself
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if file is not None and Path(frame.filename) == Path(file)]
    for frame in (own or frames)[-1:]:
        text += f" ({Path(frame.filename).name}, line {frame.lineno})"
    return text
