"""Committed boards: nothing is left out, the same store gives the same files, and README.md lists them."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.suite import loading as suites
from results.board import published_board
from results.board.quantities import Statistic, written_column
from results.board.reproduce import Commands
from results.report import publish
from results.statistics.multiple_comparisons import holm

EMPTY = f"# x\n\n{publish.BEGIN}\n{publish.END}\n\nrest\n"


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(EMPTY)
    return path


def test_a_board_tells_what_is_there_and_what_is_missing(full_board, tmp_path, readme):
    folder = tmp_path / "published"
    done = publish.publish(full_board.store, full_board.suite, folder, readme)
    assert done.unfinished == {"absent": 1, "diverged": 1, "n/a": 3}
    document = json.loads((folder / "levels" / "board.json").read_text())
    assert document["states"] == {"absent": 1, "diverged": 1, "done": 16, "n/a": 3}
    assert {one["state"] for one in document["missing"]} == {"absent", "diverged", "n/a"}
    assert [one["why"] for one in document["missing"] if one["state"] == "n/a"] == ["needs a square grid"] * 3
    page = (folder / "levels" / "README.md").read_text()
    assert "NaN in epoch 3" in page
    assert "16 of 21 cells done (1 absent, 1 diverged, 3 n/a), 2 seeds each" in page
    assert "commit 000000000000" in page
    winner = next(line for line in page.splitlines() if line.startswith("| relaxed_steerable_rotation |"))
    assert "**0.175 ± 0.007**" in winner, "the mean of 0.17 and 0.18"
    assert "CHANGELOG.md says what a later one changes): convnet 1, relaxed_steerable_rotation 1." in page


def test_where_it_comes_from_tells_all_values(new_board, new_cell, tmp_path):
    cells = [new_cell(seed=seed) for seed in range(2)]
    board = new_board(cells)
    for cell, lanes in zip(cells, (10, 2), strict=True):
        with board.recording(cell) as recorder:
            recorder.environment({"host": "secret", "threads": 2, "lanes": lanes})
            recorder.finish("done", {"rmse_future": 0.1})
    published = publish.publish(board.store, board.suite, tmp_path, None)
    page = (published.files[0].parent / "README.md").read_text()
    assert "| threads | 2 |\n| lanes | 2, 10 |" in page
    assert "secret" not in page


def test_round_off_of_the_data_is_0_and_boards_of_particles_have_learned_levels(new_board, new_cell, tmp_path):
    board = new_board([new_cell()])
    numbers = {"data_equivariance_error": 0.18026, "strict_floor": 2.7e-16, "learned_level": 0.2, "learned_angle": 1.5}
    board.finish(new_cell(), {"data_checksum": "d" * 64, "data_file": "level_0.h5"}, **numbers)
    page = (publish.publish(board.store, board.suite, tmp_path, None).files[0].parent / "README.md").read_text()
    assert f"| level_0.h5 | {'d' * 16} | 0.18 | 0 |" in page
    assert "| Learned level | Angle of the learned breaking |" in page
    assert "| 0.200 | 1.50 |" in page


def test_boards_of_two_versions_of_the_metrics_do_not_stand_side_by_side_unmarked(
    new_board, new_cell, tmp_path, readme, monkeypatch
):
    """Boards and records from before there was a version are of version 1."""
    cells, folder = [new_cell(seed=seed) for seed in range(2)], tmp_path / "published"
    board = new_board(cells)
    board.finish(cells[0])
    board.finish(cells[1], {"metrics_version": 1, "data_checksum": "d" * 64, "model_digest": "c0de"})
    path = publish.publish(board.store, board.suite, folder, readme).files[0]
    document = json.loads(path.read_text())
    assert document["metrics_version"] == 1
    known, unknown = (
        {key: seed.get(key) for key in ("data_checksum", "model_digest")} for seed in document["rows"][0]["seeds"][::-1]
    )
    assert known == {"data_checksum": "d" * 64, "model_digest": "c0de"}
    assert set(unknown.values()) == {None}
    assert "Its metrics are of version" not in readme.read_text()

    del document["metrics_version"]
    path.write_text(json.dumps(document))
    monkeypatch.setattr(publish, "METRICS_VERSION", 2)
    assert "Its metrics are of version 1, today's of 2: they do not compare" in publish.section(folder)
    board.finish(cells[1], {"metrics_version": 2})
    with pytest.raises(UserError, match="metrics of version 1 and 2, which do not compare; `symbench run --retrain`"):
        publish.publish(board.store, board.suite, folder, readme)


def test_the_same_store_gives_the_same_files(full_board, tmp_path, readme):
    def content(name):
        published = publish.publish(full_board.store, full_board.suite, tmp_path / name, None)
        return [path.read_bytes() for path in published.files]

    assert content("a") == content("b")


def test_readme_lists_the_boards_with_their_questions_and_keeps_the_rest(full_board, tmp_path, readme):
    folder = tmp_path / "published"
    document = published_board.read(publish.publish(full_board.store, full_board.suite, folder, None).files[0])
    for name, opening in {
        "asked": "# Which is\n# the best? It is hard to say.\n\n# Not this?\n",
        "no-question": "",
        "told": "# The rate of docs/relaxation.md on two cores, 3.5 s.\n",
    }.items():
        write_json(folder / name / "board.json", {**document, "suite": name, "last_result": "2020-01-01 00:00 UTC"})
        (folder / name / "suite.yaml").write_text(opening + f"name: {name}  # no opening\n")
    publish.publish(full_board.store, full_board.suite, folder, readme)
    text = readme.read_text()
    assert text.startswith("# x\n")
    assert text.endswith("rest\n")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert rows[0] == "| [asked](asked/README.md) | Which is the best? | 16 of 21 | 2020-01-01 |"
    assert [line.partition("](")[0] for line in rows] == ["| [asked", "| [levels", "| [no-question", "| [told"]
    assert rows[2].startswith("| [no-question](no-question/README.md) | | 16")
    assert " | The rate of docs/relaxation.md on two cores, 3.5 s. | " in rows[3]
    assert publish.with_section(text, publish.section(folder)) == text
    assert publish.with_section(text, "") == EMPTY


def test_what_cannot_be_published(full_board, new_board, new_cell, tmp_path, readme):
    with pytest.raises(UserError, match="nothing is finished"):
        publish.publish(full_board.store, replace(full_board.suite, cells=(new_cell("e2cnn", 1),)), tmp_path, None)
    publish.publish(full_board.store, replace(full_board.suite, name="a/b"), tmp_path, None)
    with pytest.raises(UserError, match="the board of suite 'a/b' is there"):
        publish.publish(full_board.store, replace(full_board.suite, name="a b"), tmp_path, None)
    readme.write_text("no markers")
    with pytest.raises(UserError, match="are missing"):
        publish.publish(full_board.store, full_board.suite, tmp_path, readme)


def test_hostile_names_stay_text_and_inside_the_folder(new_board, new_cell, tmp_path):
    cell = new_cell("<script>|x|\n# [y](javascript:1)")
    board = new_board([cell], f"../../<b>evil</b>` {publish.END}")
    with board.recording(cell) as recorder:
        recorder.environment({"device": "<b>gpu</b>", "torch": "[y](javascript:1)", "git_commit": "<b>0</b>"})
        recorder.finish("n/a", {}, "<img src=x> | `")
    published = publish.publish(board.store, board.suite, tmp_path / "published", None)
    assert all(path.is_relative_to(tmp_path / "published") for path in published.files)
    page = (published.files[0].parent / "README.md").read_text()
    section = publish.section(tmp_path / "published")
    for active in ("<script", "<img", "<b>", "[y]"):
        assert active not in (page + section).replace("\\" + active[0], "")
    assert "\n# [y]" not in page
    text = publish.with_section(EMPTY, section)
    assert publish.with_section(text, "") == EMPTY, "the name does not end the section"


def test_the_commands_of_a_board_that_was_asked_for_tuned_settings(full_board):
    tuned = suites.load("quickstart", tuned=True)
    assert (tuned.tuned_by_option, suites.load("quickstart").tuned_by_option) == (True, False)
    suite = replace(full_board.suite, tuned_by_option=True)
    assert Commands(suite).of_cell("abc") == "symbench run levels.yaml --only id=abc --tuned"
    records, broken = full_board.store.read(suite.cells)
    assert published_board.board(suite, records, broken, "rmse_future")["command"] == "symbench run suite.yaml --tuned"


def test_readme_and_the_published_boards_agree():
    """`symbench publish SUITE` writes both in this repository."""
    text = publish.README.read_text(encoding="utf-8")
    assert publish.with_section(text, publish.section(publish.PUBLISHED_FOLDER)) == text


def test_the_table_shows_the_metric_that_was_asked_for(full_board, tmp_path):
    published = publish.publish(full_board.store, full_board.suite, tmp_path, None, "rmse_validation")
    document = published_board.read(published.files[0])
    numbers = [Statistic(**row["metrics"]["rmse_validation"]) for row in document["rows"] if row["done"]]
    written = written_column("rmse_validation", numbers)
    assert written
    page = published.files[1].read_text()
    assert all(f"| {text}" in page or f"**{text}**" in page for text in written)


def test_others_can_redo_the_tests_from_the_board(new_board, new_cell, tmp_path):
    """Welch's test on logarithms and Holm's adjustment, with scipy, from the values of board.json alone."""
    models = ("convnet", "e2cnn", "relaxed_steerable_rotation")
    cells = [new_cell(model, seed=seed) for model in models for seed in range(4)]
    board, rng = new_board(cells), np.random.default_rng(2)
    errors = dict(zip(models, (0.1, 0.102, 0.2), strict=True))
    for cell in cells:
        error = errors[cell.model.name] * np.exp(0.03 * rng.standard_normal())
        board.finish(cell, rmse_future=error, rmse_future_by_run=[0.9 * error, 1.1 * error])
    published = publish.publish(board.store, board.suite, tmp_path, None)
    document = json.loads(published.files[0].read_text())
    rows = document["rows"]
    assert [row["test_runs"] for row in rows] == ["designed"] * 3
    logs = [np.log([seed["values"]["rmse_future"] for seed in row["seeds"]]) for row in rows]
    pairs = list(itertools.combinations(range(3), 2))
    p = holm([stats.ttest_ind(logs[i], logs[j], equal_var=False).pvalue for i, j in pairs])
    for (i, j), adjusted in zip(pairs, p, strict=True):
        assert bool(set(rows[i]["group"]) & set(rows[j]["group"])) == (adjusted >= 0.05)
    first = rows[0]["seeds"][0]
    assert first["by_run"]["rmse_future"] == pytest.approx([r * first["values"]["rmse_future"] for r in (0.9, 1.1)])
    assert "are designed: statements are about these runs and no others" in published.files[1].read_text()


def test_a_board_of_earlier_statistics_says_so(full_board, tmp_path):
    published = publish.publish(full_board.store, full_board.suite, tmp_path, None)
    document = json.loads(published.files[0].read_text())
    del document["statistics"], document["claim"]
    assert "The letters are those of symbench 0.1.0" in publish.page(document)
