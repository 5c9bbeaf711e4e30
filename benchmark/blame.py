"""How an error in an author's file is told: in one line, with the place in that file."""

from __future__ import annotations

import traceback
from pathlib import Path


def blame(error: BaseException, file: str | Path | None = None) -> str:
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
