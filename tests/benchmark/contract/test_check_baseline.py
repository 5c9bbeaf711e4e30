"""`symbench check-baseline`, and the row of a model in `symbench list models`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_baseline import TOY

from benchmark import contract
from benchmark.cli import catalogue
from benchmark.cli.main import main
from benchmark.contract import Candidate

Make = Callable[..., Candidate]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["symbench", "check-baseline", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_table(
    call: Callable[..., int],
    make: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("forecasts_one_frame_on_12x12", "copies", "scale_is_kept")
    monkeypatch.setattr(contract, "CHECKS", [check for check in contract.CHECKS if check.name in names])
    candidate = make(TOY, ("return y", "return y.double()"))
    assert call(candidate.file) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "forecasts one frame on 12x12 FAILED: 12 x 12: forward gives numbers of type torch.float64" in printed
    assert "copies passed" in printed
    assert "scale is kept does not apply: it does not declare scale" in printed
    assert "toy: 1 passed, 1 does not apply, 1 failed" in printed


def test_json(call: Callable[..., int], make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("persistence", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["passed"]) == ("persistence", True)
    assert [set(check) for check in document["checks"]] == len(contract.CHECKS) * [
        {"check", "demand", "outcome", "reason", "seconds"}
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def (", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("", "must define one subclass of Baseline, found 0"),
    ],
)
def test_a_broken_file(
    call: Callable[..., int],
    make: Make,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str,
    reason: str,
) -> None:
    (tmp_path / "bad.py").write_text(text, encoding="utf-8")
    assert call(tmp_path / "bad.py") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert reason in printed.err


def test_unknown(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convnett") == 2
    assert "unknown model 'convnett'; did you mean 'convnet'?" in capsys.readouterr().err
    assert call("nowhere.py") == 2
    assert "nowhere.py: not a Python file" in capsys.readouterr().err


def test_parameters_are_those_of_the_default_width() -> None:
    row = catalogue.model("convnet")
    inner = 64 * (64 * 9 + 1)
    assert row["parameters"] == 64 * (20 * 9 + 1) + 3 * inner + 2 * (64 * 9 + 1)
    assert row["settings"] == "hidden=64, layers=5, kernel_size=3"
    (shown,) = catalogue.for_people("models", [row])
    assert shown["parameters"] == "124 k"
    assert "settings" not in shown
    assert catalogue.model("persistence")["parameters"] == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (976_898, "977 k"),
        (999_600, "1.00 M"),
        (5_600_000, "5.60 M"),
    ],
)
def test_rounded(count: int | None, text: str) -> None:
    assert catalogue.rounded(count) == text


def test_what_cannot_be_built_is_listed_with_its_reason(make: Make) -> None:
    make(TOY, ("#init", "1 / 0"))
    row = catalogue.model("toy")
    assert (row["family"], row["parameters"]) == ("refused", None)
    assert row["source"] == "toy: cannot be built: ZeroDivisionError: division by zero (toy.py, line 25)"
