"""Bench of particles. No test asserts a time."""

from click.testing import CliRunner

from benchmark.bench import particles as bench


def test_models_are_timed_beside_gnn_and_plain_message_passing() -> None:
    result = CliRunner().invoke(bench.main, ["--models", "gnn,egnn", "--batch", "2", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    _, _, gnn, egnn, plain = result.stdout.splitlines()
    assert [row.split(" | ")[0] for row in (gnn, egnn, plain)] == ["| gnn", "| egnn", f"| {bench.PLAIN}"]
    assert gnn.split(" | ")[4] == plain.split(" | ")[5].rstrip(" |") == "1.00"


def test_a_suite_without_gnn_has_no_reference() -> None:
    result = CliRunner().invoke(bench.main, ["quickstart", "--rounds", "1"])
    assert result.exit_code == 2
    assert "the suite has no gnn" in result.output
