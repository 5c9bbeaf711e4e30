"""Verification of published boards: what was trained again agrees, and a forged number is caught."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import records, store_in, suite_in, symbench

from benchmark.files import write_json
from benchmark.suite import loading as suites
from benchmark.training.recorder import Status
from cluster.jobs import retrain
from results.board.published_board import read
from results.report import board_check, verification
from results.report.publish import PUBLISHED_FOLDER, page, write_page
from results.store.record import Record
from results.store.store import Store

EARLY = ("icml2022-levels-small", "precision-small")
"""Boards that were made before boards held the value of each seed, and whose stores are gone."""


def has_been_repeated(folder: Path) -> bool:
    """Whether committed code has given numbers of the board again, bit for bit."""
    if not (folder / verification.FILE).exists():
        return False
    done = json.loads((folder / verification.FILE).read_text(encoding="utf-8"))["verifications"]
    return any(
        one["environment"]["git_dirty"] == "false" and {rule for *_, rule in one["cells"]} == {"bit-equal"}
        for one in done
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """Published board of two seeds and a trivial forecast, and its store; trained once for all tests."""
    folder = tmp_path_factory.mktemp("trained")
    store = store_in(folder / "store")
    suite = suite_in(folder, "[persistence, {convnet: {hidden: 4}}]", seeds="[0, 1]")
    assert symbench("run", suite, store=store).returncode == 0
    assert symbench("publish", suite, "--into", folder, store=store).returncode == 0
    return folder / "tiny", store


@pytest.fixture
def board(trained: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the board, as if it came from this code without uncommitted changes."""
    document = read(trained[0] / "board.json")
    for environment in document["environments"]:
        environment["git_dirty"] = "false"
    monkeypatch.setattr(verification, "_code_difference", lambda commit: "")
    write_json(tmp_path / "board.json", document)
    (tmp_path / "suite.yaml").write_bytes((trained[0] / "suite.yaml").read_bytes())
    return tmp_path


def test_a_board_that_was_trained_again_says_who_did_it(trained: tuple[Path, Store], board: Path) -> None:
    store = trained[1]
    before = sorted(path.name for path in store.root.iterdir())
    result = symbench("verify", board, "--cells", 99, store=store)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("bit-equal: ") == 3
    assert sorted(path.name for path in store.root.iterdir()) == before
    (entry,) = verification.verifications(board)
    assert len(entry.cells) == entry.board_cells == 3
    assert f"Verified by {entry.by} on {entry.date}: 3 of 3 cells" in (board / "README.md").read_text(encoding="utf-8")

    write_json(board / "board.json", {**read(board / "board.json"), "claim": "another"})
    assert verification.verifications(board) == (), "they were of the board before"
    write_page(board)
    assert not (board / "verified.json").exists()
    assert "Verified by" not in (board / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["suite"], "another", "suite is 'another'"),
        (["states", "done"], 2, "states is {'done': 2}, the rows give {'done': 3}"),
        (["missing"], [{"id": "x"}], "cell x: its state and the list of missing cells do not agree"),
        (["rows", 1, "config", "hidden"], 5, "its settings give"),
        (["rows", 1, "seeds"], [], "a cell of suite.yaml that the board leaves out"),
        (["rows", 1, "seeds", 0, "state"], "failed", "done is 2, its seeds give 1"),
        (["rows", 1, "seeds", 0, "model_digest"], "0" * 16, "its seeds differ in model_digest: 0000000000000000, "),
        (["rows", 1, "seeds", 0, "values", "rmse_future"], 1.0, "metrics.rmse_future.mean is 0."),
        (
            ["rows", 0, "seeds", 0, "values", "skill_future"],
            1.0,
            "seed 0: values.skill_future is 1.0, the other values",
        ),
        (["rows", 1, "seeds", 0, "values"], {}, "1 of 2 rows have numbers without the value of each seed"),
        (["rows", 1, "written", "rmse_future"], "0.0001", "written.rmse_future is 0.0001"),
        (["rows", 1, "group"], "z", "group is z"),
        (["rows", 1, "train", "epochs"], "many", "not the settings of a cell"),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, list) else None,
)
def test_what_does_not_fit_together_is_named(board: Path, place: list[Any], value: object, message: str) -> None:
    document = read(board / "board.json")
    parts = document
    for key in place[:-1]:
        parts = parts[key]
    parts[place[-1]] = value
    problems = board_check.problems(document, suites.load(str(board / "suite.yaml")))
    assert any(message in problem for problem in problems), problems


def forge(document: dict[str, Any], consistently: bool) -> None:
    """Halve the errors of a seed, in its row alone or in all that follows from them."""
    row = next(row for row in document["rows"] if row["model"] == "convnet")
    row["metrics"]["rmse_future"]["mean"] /= 2
    if consistently:
        seed = row["seeds"][0]
        seed["values"]["rmse_future"] /= 2
        seed["by_run"]["rmse_future"] = [value / 2 for value in seed["by_run"]["rmse_future"]]
        for computed, written in zip(board_check.computed_rows(document), document["rows"], strict=True):
            written.update({key: computed[key] for key in (*board_check.DERIVED, "group")})
            for mine, theirs in zip(written["seeds"], computed["seeds"], strict=True):
                mine["values"] = theirs["values"]


@pytest.mark.parametrize(
    ("consistently", "message"),
    [(False, "metrics.rmse_future.mean is 0"), (True, "1 of 3 cells do not agree with the board")],
)
def test_a_forged_number_is_caught(
    trained: tuple[Path, Store], board: Path, monkeypatch: pytest.MonkeyPatch, consistently: bool, message: str
) -> None:
    document = read(board / "board.json")
    forge(document, consistently)
    write_json(board / "board.json", document)
    again = {record.cell.id: record for record in records(board / "suite.yaml", trained[1])}
    monkeypatch.setattr(retrain, "retrain", lambda claims, suite, store: again)
    result = symbench("verify", board, "--cells", 99, store=trained[1])
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stdout.count("DIFFERS: RMSE future") == consistently
    assert not (board / "verified.json").exists()


def test_a_board_of_other_metrics_names_its_commit(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "METRICS_VERSION", 99)
    result = symbench("verify", board, store=None)
    assert result.returncode == 2
    assert (
        f"check out the commit of the board: {read(board / 'board.json')['provenance']['git_commit'][0]}"
        in result.stderr
    )


VALUES = [0.100, 0.102, 0.104, 0.098]
HERE = {"torch": "2", "threads": 1, "data_checksum": "d", "git_commit": "c", "git_dirty": False}


@pytest.mark.parametrize(
    ("model", "board_values", "here", "conditions", "rule", "text"),
    [
        ("convnet", VALUES, 0.1, {}, "bit-equal", "2 numbers, RMSE future 0.1"),
        ("convnet", VALUES, 0.1, {"torch": "1"}, "bit-equal", "2 numbers"),
        ("convnet", VALUES, 0.101, {}, None, "0.101 here, 0.1 on the board, although code, data, versions and machine"),
        ("convnet", VALUES, 0.101, {"torch": "1"}, "within the spread", "at most 0.02065 apart"),
        ("convnet", VALUES, 0.101, {"git_dirty": "true"}, "within the spread", "with uncommitted changes"),
        ("convnet", VALUES, 0.101, {"data_checksum": "e"}, "within the spread", "data_checksum d here, e on the board"),
        ("convnet", VALUES, 0.15, {"torch": "1"}, None, "torch 2 here, 1 on the board"),
        ("convnet", [0.05, *VALUES[1:]], 0.1, {"torch": "1"}, None, "the spread of 4 seeds"),
        ("convnet", [0.05, 0.051, 0.052, 0.049], 0.1, {"torch": "1"}, None, "the spread of 4 seeds"),
        ("convnet", [0.1], 0.1001, {"torch": "1"}, None, "a single seed has no spread"),
        ("persistence", [0.1], 0.1001, {"torch": "1"}, "within the spread", "1%, a forecast without training"),
        ("persistence", [0.1], 0.102, {"torch": "1"}, None, "at most 0.001 apart"),
    ],
)
def test_the_rule_of_the_comparison(
    monkeypatch: pytest.MonkeyPatch,
    new_cell: Any,
    model: str,
    board_values: list[float],
    here: float,
    conditions: dict[str, str],
    rule: str | None,
    text: str,
) -> None:
    """A wrong value on the board widens the spread of its row, and wrong values of all seeds leave it as it is."""
    monkeypatch.setattr(verification, "_code_difference", lambda commit: "")
    environment = {"torch": "2", "threads": "1", "data_checksum": "d", "git_commit": "c", "git_dirty": "false"}
    numbers = {"rmse_future": board_values[0], "parameters": 7}
    row_values = {"rmse_future": board_values, "parameters": [7] * len(board_values)}
    claim = verification.Claim(new_cell(model), "done", numbers, row_values, {**environment, **conditions}, 1.0)
    record = Record(new_cell(model), Status("done"), {"rmse_future": here, "parameters": 7}, [], HERE, Path())
    checked = verification.check(claim, record)
    assert checked.rule == rule
    assert text in checked.text
    smaller = Record(new_cell(model), Status("done"), {"rmse_future": here, "parameters": 6}, [], HERE, Path())
    assert verification.check(claim, smaller).rule is None, "another network"
    diverged = Record(new_cell(model), Status("diverged", message="NaN in epoch 3"), {}, [], HERE, Path())
    assert verification.check(claim, diverged).text == "diverged here, done on the board; NaN in epoch 3"
    hidden = replace(claim, state="diverged", numbers={})
    assert verification.check(hidden, record).rule is None, "a bad seed that the board calls diverged"
    assert verification.check(hidden, diverged).rule == "bit-equal"


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in PUBLISHED_FOLDER.glob("*/board.json")), ids=lambda path: path.name
)
def test_published_boards_fit_together(folder: Path) -> None:
    """Schema; identities from the settings and from suite.yaml; every number follows from the values of its seeds."""
    document = read(folder / "board.json")
    problems = board_check.problems(document, suites.load(str(folder / "suite.yaml")))
    if folder.name in EARLY:
        rows = len(document["rows"])
        assert problems == [f"{rows} of {rows} rows {board_check.SEEDLESS}"]
    else:
        assert problems == []
    assert (folder / "README.md").read_text(encoding="utf-8") == page(document, verification.verifications(folder))
    is_clean = document["provenance"]["git_dirty"] == ["false"]
    assert is_clean or has_been_repeated(folder), "nobody else has uncommitted code"
    pictures = [each for each in folder.rglob("*") if each.suffix in (".png", ".svg", ".gif", ".jpg")]
    assert all(each.stat().st_size < 200_000 for each in pictures)
