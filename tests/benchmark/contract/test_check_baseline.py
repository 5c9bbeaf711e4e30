"""`symbench check-baseline`, and the row of a model in `symbench list models`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import symbench
from toy_baseline import TOY

from benchmark.cli import catalogue
from benchmark.contract import checks
from benchmark.contract.candidate import Candidate

Make = Callable[..., Candidate]


def test_table(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("takes_kernel_size_5", "copies", "scale_is_kept")
    monkeypatch.setattr(checks, "CHECKS", [check for check in checks.CHECKS if check.name in names])
    result = symbench("check-baseline", make(TOY, ("size // 2", "1")).file, store=None)
    assert result.returncode == 1
    printed = " ".join(result.stdout.split())
    assert "takes kernel size 5 FAILED: kernel_size 5, 12 x 12: forward gives a tensor of shape" in printed
    assert "copies passed" in printed
    assert "scale is kept does not apply: it does not declare scale" in printed
    assert "toy: 1 passed, 1 does not apply, 1 failed" in printed


@pytest.mark.parametrize(
    ("change", "reason", "counts"),
    [
        (("super().__init__(config, task)", "pass"), "super().__init__(config, task)", "1 failed 37 not run"),
        (("return y", "return y[:, None]"), "shape (2, 1, 2, 12, 12)", "1 failed 37 not run"),
        (("return y", "return y.to('meta')"), "forward must not choose a device", "1 failed 37 not run"),
        (("return y", "x.numpy().tostring()"), "`r2conv` of layers/steerable.py", "1 failed 37 not run"),
        (("'ok'", "1 / 0"), "division by zero", "failed"),
    ],
    ids=["orphan", "shape", "device", "e2cnn", "regularization"],
)
def test_one_bug_is_one_message(make: Make, change: tuple[str, str], reason: str, counts: str) -> None:
    text = f"{TOY}\n    def regularization(self, x, draws):\n        'ok'\n        return torch.zeros(())\n"
    printed = " ".join(symbench("check-baseline", make(text, change).file, store=None).stdout.split())
    assert printed.count(reason) == 1
    assert counts in printed


def test_json() -> None:
    result = symbench("check-baseline", "persistence", "--json", store=None)
    assert result.returncode == 0
    document = json.loads(result.stdout)
    assert (document["name"], document["passed"]) == ("persistence", True)
    keys = {"check", "demand", "outcome", "reason", "seconds"}
    assert [set(check) for check in document["checks"]] == len(checks.CHECKS) * [keys]


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        ("bad.py", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("empty.py", "must define one subclass of Baseline, found 0"),
        ("convnett", "unknown model 'convnett'; did you mean 'convnet'?"),
        ("nowhere.py", "nowhere.py: not a Python file"),
        ("~nobody-of-this-name/a.py", "Could not determine home directory"),
    ],
)
def test_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("def (", encoding="utf-8")
    Path("empty.py").touch()
    result = symbench("check-baseline", baseline, store=None)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert reason in result.stderr


def test_parameters_are_those_of_the_default_width() -> None:
    row = catalogue.model("convnet")
    inner = 64 * (64 * 9 + 1)
    assert row["parameters"] == 64 * (20 * 9 + 1) + 3 * inner + 2 * (64 * 9 + 1)
    assert row["settings"] == {"hidden": 64, "layers": 5, "kernel_size": 3}
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
