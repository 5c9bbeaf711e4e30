"""Tables of docs/relaxation.md and their sources."""

import pytest

from benchmark.errors import UserError
from results.report import relaxation_page


def test_the_tables_are_those_of_the_committed_results() -> None:
    """`python -m results.report.relaxation_page` writes them."""
    text = relaxation_page.PAGE.read_text(encoding="utf-8")
    assert relaxation_page.filled(text) == text


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(UserError, match="the markers of the table rates are missing"):
        relaxation_page.filled("# Relaxation\n")
