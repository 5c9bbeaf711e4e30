"""Errors that a user can mend. The command line prints their message without a traceback."""

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path


class SymbenchError(Exception):
    """Base class of the errors that end a command with one message; `exit_status` is that of the process."""

    exit_status = 1


class UserError(SymbenchError):
    """The input is wrong: a suite, an option, or a named file."""

    exit_status = 2


class MachineError(SymbenchError):
    """The environment is wrong: no permission, no space, no data, or another process at work."""

    exit_status = 3


def unknown_name(kind: str, name: object, valid: Iterable[object]) -> str:
    """Message for a name that does not exist, with the nearest name and all valid names."""
    choices = {str(choice): choice for choice in valid}
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"; did you mean {choices[near[0]]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (valid: {', '.join(choices)})"


CHOOSES_A_DEVICE = (
    "forward must not choose a device: windows and weights are on the same one; make new tensors with device=x.device,"
    " and register constants as buffers"
)
LACKS_INIT = "__init__ must first call super().__init__(config, task)"
REMEDIES = {
    r"before Module\.__init__\(\)|Baseline\.__init__\(\) missing": LACKS_INIT,
    r"has no attribute '(_modules|_parameters|_buffers|_\w*hooks\w*|task)'": LACKS_INIT,
    r"not compiled with CUDA|NVIDIA driver|No CUDA GPUs|same device|torch\.cuda\.FloatTensor": CHOOSES_A_DEVICE,
    r"'tostring'|expanded_bias|deepcopy protocol": "e2cnn's own R2Conv? `r2conv` of layers/steerable.py mends it",
}
"""Part of an error's text, as a pattern -> what to do."""


def error_location(error: BaseException, file: str | Path | None = None) -> str:
    """Error with its place: `ValueError: no such thing (mine.py, line 12)`, and the remedy of a frequent one.

    The place is the last line of `file` in the traceback, or the last line of any file if `file` is not in it.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    if isinstance(error, SyntaxError):  # its text has file and line
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if file is not None and Path(frame.filename) == Path(file)]
    for frame in (own or frames)[-1:]:
        text += f" ({Path(frame.filename).name}, line {frame.lineno})"
    remedy = next((remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, str(error))), None)
    return f"{text}: {remedy}" if remedy else text
