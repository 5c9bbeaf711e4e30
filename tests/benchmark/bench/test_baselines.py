"""Bench of baselines. No test asserts a time."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.bench import baselines as bench


@pytest.mark.parametrize("width", [1, 5])
def test_the_reference_of_a_convnet_is_the_convnet(width: int) -> None:
    assert bench.reference_width(bench.build("convnet", {"hidden": width}, 16)) == width


def test_the_reference_of_a_steerable_network_has_its_channels() -> None:
    """A filter that is expanded once is a convolution of 4 channels for each field."""
    assert bench.reference_width(bench.build("e2cnn", {"hidden": 3}, 16)) == 12


def test_published_widths_are_settings() -> None:
    for name in bench.PUBLISHED_WIDTHS:
        bench.model_registry.model(name).Config.model_validate(bench.settings(name, quick=False))
    assert bench.settings("convnet", quick=True) == {"hidden": 114}


def test_each_trained_baseline_has_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "_peak_memory_apart", bench.peak_memory)  # in this process: the value does not matter
    monkeypatch.setitem(bench.PUBLISHED_WIDTHS, "convnet", 8)
    arguments = ["convnet", "persistence", "--quick", "--batch", "1", "--grid", "16", "--rounds", "1"]
    result = CliRunner().invoke(bench.main, [*arguments, "--json", str(tmp_path / "bench.json")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "bench.json").read_text())
    (row,) = document["rows"]
    assert (row["baseline"], row["parameters"]) == ("convnet", 20 * 2 * 9 + 2 + 3 * (2 * 2 * 9 + 2) + 2 * 2 * 9 + 2)
    assert row["convnet_width"] == 2
    assert document["environment"]["device_type"] == bench.DEVICE.type
    assert result.stdout.splitlines()[2].startswith(f"| convnet | {row['parameters']} |")
    assert "persistence: nothing to train" in result.stderr
