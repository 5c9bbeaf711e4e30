"""Markdown whose values are escaped, so that GitHub, MLflow and pandoc show them as text."""

import re
from collections.abc import Iterable, Sequence

ESCAPES = str.maketrans({**{c: f"\\{c}" for c in "\\|<>`*_[]#~"}, "&": "&amp;", "$": "&#36;"})
"""Escape of each special character. `&` and `$` are entities, because MLflow shows a backslash before them."""


class Markdown(str):
    """Text that is Markdown already; `escape` leaves it unchanged."""


def escape(value: object) -> Markdown:
    """Value as plain text on one line, safe in a table cell."""
    if isinstance(value, Markdown):
        return value
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return Markdown(re.sub(r"(?<=\w)\\_(?=\w)", "_", text.translate(ESCAPES)))  # within a word, _ needs no escape


def bold(value: object) -> Markdown:
    """Value in bold."""
    return Markdown(f"**{escape(value)}**")


def line(cells: Iterable[object]) -> Markdown:
    """Line of a table."""
    texts = (escape(cell).strip() for cell in cells)
    return Markdown("|" + "".join(f" {text} |" if text else " |" for text in texts))


def table(heads: Sequence[object], rows: Iterable[Iterable[object]], right: Sequence[int] = ()) -> Markdown:
    """Table whose columns with the numbers `right` are aligned to the right."""
    rule = "".join("|---:" if index in right else "|---" for index in range(len(heads)))
    return Markdown("\n".join([line(heads), f"{rule}|", *map(line, rows)]))
