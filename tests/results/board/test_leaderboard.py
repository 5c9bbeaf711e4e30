"""The leaderboard: aggregation, labels, groups, standings, tables and exports."""

import csv
import dataclasses
import io
import json
import math
import re

import pytest
from click.testing import CliRunner
from fabricated_board import rows_of
from rich.console import Console

from benchmark.cli.main import cli
from benchmark.errors import UserError
from results.board import leaderboard
from results.board.contests import BoardTests, effect_text
from results.board.quantities import METRICS, Statistic, written, written_statistic
from results.board.standings import overall
from results.board.table import standings_table, to_table
from results.report import export
from results.statistics.two_models import Sample, effects


def printed(renderable, width=100):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_mean_and_sample_standard_deviation(new_board, new_cell):
    cells = [new_cell(seed=seed) for seed in range(3)]
    board = new_board(cells)
    for cell, value in zip(cells, (1.0, 2.0, 6.0), strict=True):
        board.finish(cell, rmse_future=value, rmse_future_by_step=[value, 2 * value])
    (row,) = rows_of(board)
    assert row.complete
    assert row.metrics["rmse_future"] == Statistic(3.0, pytest.approx(math.sqrt(7.0)), 3, 1.0, 6.0)
    assert [step.mean for step in row.curves["rmse_future_by_step"]] == [3.0, 6.0]


def test_one_seed_has_no_standard_deviation(new_board, new_cell):
    board = new_board([new_cell()])
    board.finish(new_cell(), rmse_future=2.0)
    (row,) = rows_of(board)
    assert row.metrics["rmse_future"] == Statistic(2.0, None, 1)


def test_an_incomplete_row_says_so_and_cannot_win(new_board, new_cell):
    complete = [new_cell("e2cnn", seed=seed) for seed in (0, 1)]
    partial = [new_cell("convnet", seed=seed) for seed in (0, 1, 2)]
    board = new_board([*partial, *complete])
    for cell in complete:
        board.finish(cell, rmse_future=2.0)
    board.finish(partial[0], rmse_future=1.0)
    board.diverge(partial[1])
    rows = rows_of(board)
    assert [row.model for row in rows] == ["e2cnn", "convnet"], "a diverged seed puts a row behind"
    assert rows[1].remark == "1 diverged, 1 absent"
    assert not rows[1].complete
    assert leaderboard.best(rows, "rmse_future") == {0}


def test_a_model_that_cannot_run_gives_its_reason(new_board, new_cell):
    board = new_board([new_cell()])
    board.refuse(new_cell(), "needs a square grid")
    (row,) = rows_of(board)
    assert row.remark == "n/a: needs a square grid"
    assert row.metrics == {}


def test_a_label_holds_only_what_tells_rows_of_a_model_apart(new_board, new_cell):
    board = new_board([new_cell("convnet", hidden=32), new_cell("convnet", hidden=64), new_cell("e2cnn", epochs=9)])
    assert [row.label for row in rows_of(board)] == ["convnet hidden=32", "convnet hidden=64", "e2cnn"]


def test_rows_are_sorted_by_level_as_numbers_and_then_by_the_metric(new_board, new_cell):
    cells = [new_cell(model, level) for level in (10, 9) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    for cell, speed in zip(cells, (1.0, 2.0, 1.0, 2.0), strict=True):
        board.finish(cell, samples_per_second=speed)
    order = [(row.level, row.model) for row in rows_of(board, "samples_per_second")]
    assert order == [(9, "e2cnn"), (9, "convnet"), (10, "e2cnn"), (10, "convnet")]


def test_an_unknown_metric_names_the_nearest(new_board):
    with pytest.raises(UserError, match=r"'rmse_futur'; did you mean 'rmse_future'\? \(valid: .*rmse_domain"):
        leaderboard.aggregate([], {}, "rmse_futur")


def test_json_has_stable_fields(full_board):
    rows = leaderboard.to_json(rows_of(full_board))
    assert json.loads(json.dumps(rows, allow_nan=False)) is not None
    identity = {"dataset", "preset", "grid", "level", "model", "label", "family", "source", "differs"}
    settings = {"config", "protocol", "train"}
    state = {"seeds", "complete", "reason", "mixed", "done", "expected", "diverged", "failed", "test_runs", "budget"}
    assert set(rows[0]) == identity | settings | state | {"metrics", "curves", "vectors", "values"}
    assert rows[0]["metrics"]["rmse_future"]["n"] == 2


def test_the_table_fits_a_terminal_and_keeps_names_literal(full_board):
    for metric in (name for name, each in METRICS.items() if not each.unranked):
        text = printed(to_table(rows_of(full_board, metric), metric))
        assert max(map(len, text.splitlines())) <= 100, metric
        assert "relaxed_steerable_" in text
        assert "1 diverged, 1 absent" in " ".join(text.split())
        assert "0.175 ± 0.007" in text
        assert " 2/2" in text, "no column is cut off"


def test_a_narrow_terminal_leaves_columns_out_and_names_them(full_board):
    def shown(width, metric):
        return printed(to_table(rows_of(full_board, metric), metric), width)

    text = shown(62, "flops")
    assert max(map(len, text.splitlines())) <= 62
    assert "0.175 ± 0.007" in text
    assert "30.6 G" in text, "what the board is sorted by stays"
    assert re.search("0.175 ± 0.007 +2/2 +[a-d] *\n", shown(40, "rmse_future")), "the models' column gives way"
    assert "Hidden in this narrow terminal: RMSE domain, Model equivariance error, Params." in " ".join(text.split())


def test_what_a_record_says_cannot_steer_the_terminal(new_board, new_cell):
    board = new_board([new_cell()])
    board.refuse(new_cell(), "no \x1b]0;title\x07 here\r\n\u202egone")
    text = printed(to_table(rows_of(board)))
    assert "n/a: no ]0;title" in text
    assert "here gone" in text
    assert all(letter.isprintable() for line in text.split("\n") for letter in line)


def test_a_sample_counts_what_diverged_and_not_what_is_missing(new_board, new_cell):
    cells = [new_cell(seed=seed) for seed in range(4)]
    board = new_board(cells)
    board.finish(cells[0], rmse_future=1.0, rmse_future_by_run=[0.9, 1.1])
    board.finish(cells[1], rmse_future=2.0, rmse_future_by_run=[1.9, 2.1])
    board.diverge(cells[2])
    (row,) = rows_of(board)
    by_run = ((0.9, 1.1), (1.9, 2.1), (math.inf, math.inf))
    assert row.test_runs == "designed"
    assert row.sample("rmse_future") == Sample((0, 1, 2), (1.0, 2.0, math.inf)), "designed runs are no factor"
    sampled = dataclasses.replace(row, test_runs="sampled")
    assert sampled.sample("rmse_future") == Sample((0, 1, 2), (1.0, 2.0, math.inf), by_run)
    assert row.sample("samples_per_second").values == (410.0, 410.0, -math.inf)
    (complete,) = leaderboard.aggregate(cells[:2], board.store.read(cells[:2])[0])
    complete = dataclasses.replace(complete, test_runs="sampled")
    assert complete.sample("rmse_future").by_run == ((0.9, 1.1), (1.9, 2.1))


def test_letters_compare_within_a_level_only(new_board, new_cell):
    cells = [new_cell(model, level, seed) for level in (0, 3) for model in ("convnet", "e2cnn") for seed in range(3)]
    board = new_board(cells)
    for cell in cells:
        far = 1.0 if cell.model.name == "e2cnn" and cell.dataset.level == 0 else 0.0
        board.finish(cell, rmse_future=1.0 + far + 0.01 * (cell.seed if cell.model.name == "e2cnn" else -cell.seed))
    rows = rows_of(board)
    assert [(row.level, row.model) for row in rows][:2] == [(0, "convnet"), (0, "e2cnn")]
    letters = BoardTests(rows, "rmse_future").letters
    assert letters[:2] == ["a", "b"]
    assert letters[2:] == ["a", "a"]


def test_a_significant_win_stays_so_beside_a_row_that_lacks_seeds(new_board, new_cell):
    models = ("convnet", "e2cnn", "relaxed_steerable_rotation")
    cells = [new_cell(model, seed=seed) for model in models for seed in range(3)]
    board = new_board(cells)
    for cell in cells:
        if cell.model.name == "relaxed_steerable_rotation" and cell.seed == 2:
            board.diverge(cell)
            continue
        base = {"convnet": 0.3, "e2cnn": 0.2, "relaxed_steerable_rotation": 0.1}[cell.model.name]
        slope = 0.001 if cell.model.name == "convnet" else -0.001
        board.finish(cell, rmse_future=base + slope * cell.seed)
    rows = rows_of(board)
    assert [row.model for row in rows] == ["e2cnn", "convnet", "relaxed_steerable_rotation"]
    assert BoardTests(rows, "rmse_future").letters[0] == "a"
    (verdict,) = BoardTests(rows, "rmse_future").verdicts
    assert re.fullmatch(r"sure \(p = [\d.e-]+\), among models with all seeds \(1 without\)", verdict.certainty)


def test_models_of_which_the_same_seed_diverged_are_compared_over_the_others(new_board, new_cell):
    cells = [new_cell(model, seed=seed) for model in ("convnet", "e2cnn") for seed in range(3)]
    board = new_board(cells)
    for cell in cells:
        if cell.seed == 2:
            board.diverge(cell)
        else:
            error = (0.3 if cell.model.name == "convnet" else 0.2) + 0.01 * cell.seed
            board.finish(cell, rmse_future=error, rmse_future_by_run=[0.9 * error, 1.1 * error])
    rows = [dataclasses.replace(row, test_runs="sampled") for row in rows_of(board)]
    effect = effects([row.sample("rmse_future") for row in rows], [(0, 1)])[0, 1]
    assert (effect.seeds, effect.runs) == ((2, 2), 2), "one that diverged does not cost the test runs of the others"


def test_a_label_has_no_control_characters(new_board, new_cell):
    board = new_board([new_cell(note="a\x07\n b"), new_cell(note="c")])
    assert [row.label for row in rows_of(board)] == ["convnet note=a b", "convnet note=c"]


def test_one_seed_has_no_letter(new_board, new_cell):
    cells = [new_cell(model) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    for cell in cells:
        board.finish(cell)
    assert BoardTests(rows_of(board), "rmse_future").letters == ["", ""]


def test_standings_rank_over_levels_and_count_what_diverged(full_board):
    standings = overall(rows_of(full_board), "rmse_future")
    assert (standings.baseline, standings.blocks) == ("convnet", 3)
    by_label = {one.label: one for one in standings.models}
    relaxed = by_label["relaxed_steerable_rotation"]
    assert (relaxed.diverged, relaxed.missing) == (1, 1)
    assert relaxed.mean_rank == pytest.approx((1 + 1 + 3) / 3), "the seed that diverged makes it the last of its level"
    assert by_label["unheard_of"].blocks == 0
    assert by_label["convnet"].relative.value == pytest.approx(1.0, rel=0.01)
    assert standings.reason.startswith("3 levels")
    with pytest.raises(UserError, match="'convne'; did you mean 'convnet'"):
        overall(rows_of(full_board), "rmse_future", "convne")


def test_one_block_has_ranks_and_nothing_resampled(new_board, new_cell):
    cells = [new_cell(model, seed=seed) for model in ("convnet", "e2cnn") for seed in (0, 1)]
    board = new_board(cells)
    for cell in cells:
        board.finish(cell)
    standings = [
        (one.label, one.mean_rank, one.relative, one.improvement)
        for one in overall(rows_of(board), "rmse_future").models
    ]
    assert standings == [("e2cnn", 1.0, None, None), ("convnet", 2.0, None, None)]


def test_the_standings_fit_a_terminal(full_board):
    text = printed(standings_table(overall(rows_of(full_board), "rmse_future")))
    assert "RMSE future over 3 levels" in text
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"relaxed_steerable_rotation +1\.667 +3/3 ", text)


def test_a_winner_is_significant_only_if_it_differs_from_every_other(full_board, new_board, new_cell):
    first = BoardTests(rows_of(full_board), "rmse_future").verdicts[0]
    assert first.best.model == "relaxed_steerable_rotation"
    assert first.rival.model == "e2cnn"
    assert first.test.effect.size == pytest.approx(math.sqrt(0.20 * 0.21 / (0.17 * 0.18)) - 1)
    assert effect_text(first.test, "rmse_future").startswith("+17.2 % [")
    cells = [new_cell(model, epochs=9) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    assert [one.certainty for one in BoardTests(rows_of(board), "rmse_future").verdicts] == [
        "no model has finished all its seeds"
    ]
    for cell in cells:
        board.finish(cell)
    assert [one.certainty for one in BoardTests(rows_of(board), "rmse_future").verdicts] == ["not tested with one seed"]


class TestCommand:
    def run(self, make_suite, tmp_path, *options):
        suite = make_suite(models="[convnet: {hidden: 4}, e2cnn: {hidden: 2}]", seeds="[0, 1]")
        (tmp_path / "empty").mkdir(exist_ok=True)
        return CliRunner().invoke(cli, ["leaderboard", str(suite), "--store", str(tmp_path / "empty"), *options])

    def test_a_format_on_standard_output_comes_alone(self, make_suite, tmp_path):
        lines = list(csv.DictReader(io.StringIO(self.run(make_suite, tmp_path, "--csv", "-").stdout)))
        assert [(line["model"], line["seeds"], line["absent"]) for line in lines] == [
            ("convnet", "2", "2"),
            ("e2cnn", "2", "2"),
        ]
        assert self.run(make_suite, tmp_path, "--markdown", "-").stdout.startswith("### smoke")
        assert self.run(make_suite, tmp_path, "--latex", "-").stdout.startswith("%")

    def test_files_and_the_table_go_together(self, make_suite, tmp_path):
        result = self.run(make_suite, tmp_path, "--csv", str(tmp_path / "a.csv"), "--latex", str(tmp_path / "a.tex"))
        assert result.exit_code == 0, result.output
        assert "convnet" in result.stdout
        assert (tmp_path / "a.csv").read_text().startswith("dataset,")
        assert r"\toprule" in (tmp_path / "a.tex").read_text()

    def test_two_cannot_share_the_standard_output(self, make_suite, tmp_path):
        result = self.run(make_suite, tmp_path, "--csv", "-", "--json")
        assert isinstance(result.exception, UserError)
        assert "only one" in str(result.exception)


class TestExport:
    def test_csv_holds_every_number_and_no_formula(self, new_board, new_cell):
        cells = [new_cell("convnet", note=note) for note in ("=1+1", "b")]
        board = new_board(cells)
        for cell in cells:
            board.finish(cell, rmse_future=0.1)
        rows = [dataclasses.replace(row, label=f"={row.label}") for row in rows_of(board)]
        table = list(csv.DictReader(io.StringIO(export.to_csv(rows))))
        assert [line["label"][:2] for line in table] == ["'=", "'="]
        assert float(table[0]["rmse_future_mean"]) == 0.1
        assert table[0]["rmse_future_low"] == "", "one seed has no interval"
        for start in ("+1", "-1", "@a", "\t=1", "\n=1", " =1"):
            assert export._not_a_formula(start).startswith("'")
        assert export._not_a_formula("relaxed -1") == "relaxed -1"

    def test_a_negative_number_stays_a_number(self, new_board, new_cell):
        board = new_board([new_cell()])
        board.finish(new_cell())
        (row,) = rows_of(board)
        worse = dataclasses.replace(row, metrics={**row.metrics, "skill_future": Statistic(-0.5, None, 1)})
        (line,) = csv.DictReader(io.StringIO(export.to_csv([worse])))
        assert float(line["skill_future_mean"]) == -0.5

    def test_diverged_absent_and_refused_are_in_the_csv(self, full_board):
        lines = list(csv.DictReader(io.StringIO(export.to_csv(rows_of(full_board)))))
        assert sum(int(line["diverged"]) for line in lines) == 1
        assert sum(int(line["absent"]) for line in lines) == 1
        assert {line["reason"] for line in lines} == {"", "needs a square grid"}

    def test_markdown_shows_a_hostile_name_as_text(self, full_board):
        row = dataclasses.replace(rows_of(full_board)[0], label="<script>a|b\n`*_[x](y)")
        text = export.to_markdown([row])
        (line,) = [line for line in text.splitlines() if "script" in line]
        assert line.startswith("| \\<script\\>a\\|b \\`\\*\\_\\[x\\](y)")
        columns = next(line for line in text.splitlines() if line.startswith("|---")).count("|")
        assert len(re.findall(r"(?<!\\)\|", line)) == columns

    def test_latex_does_not_take_a_name_for_the_option_of_the_line_before(self, full_board):
        rows = [dataclasses.replace(rows_of(full_board)[0], label=label) for label in ("[3pt] a", "*b")]
        text = export.to_latex(rows)
        assert "\n{[}3pt] a" in text
        assert "\n{*}b" in text

    def test_latex_escapes_what_tex_acts_upon(self, full_board):
        assert export.latex_text("a_b & 50% {x} \\ ~^#$ ± <\n>") == (
            r"a\_b \& 50\% \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$ "
            r"$\pm$ \textless{} \textgreater{}"
        )
        text = export.to_latex(rows_of(full_board))
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {7 + 2}, (
            "the metrics that the records have, seeds and group"
        )
        assert r"\textbf{0.175 $\pm$ 0.007}" in text


def test_numbers_are_written_without_noise():
    assert [written(v) for v in (0.0, 0.17499999, 3e-7, 1234.56)] == ["0", "0.1750", "3.00e-07", "1235"]
    assert written_statistic("epochs", Statistic(6, 0.0, 2)) == "6"
    assert written_statistic("peak_memory_bytes", Statistic(2.0**20, None, 1)) == "1.000"
    assert written_statistic("rmse_future", Statistic(0.8, 1e-6, 2)) == "0.8000 ± 1e-06"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (12.5, "12.50"), (512, "512"), (1234, "1.23 k"), (999_499, "999 k"), (999_999, "1.00 M")),
        *((5_594_336, "5.59 M"), (30_550_000_000, "30.6 G"), (728e9, "728 G"), (1.5e12, "1.50 T"), (3e18, "3000 P")),
    ],
)
def test_sizes_are_written_with_a_prefix(value, text):
    assert written_statistic("flops", Statistic(value, None, 1)) == text


def test_a_size_that_differs_between_seeds_tells_its_spread_in_the_same_unit():
    assert written_statistic("parameters", Statistic(5.6e6, 2e4, 2)) == "5.60 ± 0.02 M"


def test_parameters_and_flops_are_on_the_board_and_integers_in_json(full_board):
    text = printed(to_table(rows_of(full_board)))
    assert "Params" in text
    assert "FLOPs" in text
    assert "5.60 M" in text
    assert "30.6 G" in text
    flops = json.dumps(leaderboard.to_json(rows_of(full_board))[0]["metrics"]["flops"])
    assert flops.startswith('{"mean": 30550000000, "std": 0.0, "n": 2')


def test_records_from_before_flops_were_counted_still_read(new_board, new_cell):
    board = new_board([new_cell(seed=seed) for seed in (0, 1)])
    with board.recording(new_cell(seed=0)) as recorder:
        recorder.finish("done", {"rmse_future": 2.0, "parameters": 1000})
    board.finish(new_cell(seed=1), rmse_future=2.0, parameters=1001, flops=4_000_000)
    (row,) = rows_of(board)
    assert row.metrics["flops"] == Statistic(4_000_000, None, 1)
    assert row.metrics["parameters"].mean == 1000.5
    assert written_statistic("flops", row.metrics["flops"]) == "4.00 M"
