"""Markdown in which names of any origin stay text, whether GitHub, MLflow or pandoc shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

ESCAPES = str.maketrans({**{c: f"\\{c}" for c in "\\|<>`*_[]#~"}, "&": "&amp;", "$": "&#36;"})
"""MLflow would show a backslash before the last two."""


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""


def escape(value: object) -> Markdown:
    """Text as it stands, on one line: neither Markdown nor HTML, nor the end of a table cell."""
    if isinstance(value, Markdown):
        return value
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return Markdown(re.sub(r"(?<=\w)\\_(?=\w)", "_", text.translate(ESCAPES)))  # within a word it means nothing


def bold(value: object) -> Markdown:
    return Markdown(f"**{escape(value)}**")


def line(cells: Iterable[object]) -> Markdown:
    """One line of a table."""
    texts = (escape(cell).strip() for cell in cells)
    return Markdown("|" + "".join(f" {text} |" if text else " |" for text in texts))


def table(heads: Sequence[object], rows: Iterable[Iterable[object]], right: Sequence[int] = ()) -> Markdown:
    """A table; the columns `right` are numbers, aligned to the right."""
    rule = "".join("|---:" if index in right else "|---" for index in range(len(heads)))
    return Markdown("\n".join([line(heads), f"{rule}|", *map(line, rows)]))
