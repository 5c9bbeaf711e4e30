"""Networks that equal a forecast without weights say `did not learn`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import records, symbench
from torch import nn

from benchmark import discovery
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import forecast_error
from benchmark.evaluation.trivial import trivial_forecast
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.linear import Linear
from benchmark.training.distributed import World
from results.board.leaderboard import aggregate
from results.store.store import Store

SILENT = """
import torch
from torch import nn
from benchmark.models.baseline import Baseline


class Silent(Baseline):
    family, symmetries, source = "cnn", (), "test"

    def __init__(self, config, task):
        super().__init__(config, task)
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, -1] + 0 * self.w
"""


def equals(model: Baseline) -> str | None:
    """Trivial forecast that `model` equals on four windows of a random field."""
    field = torch.randn(2, 8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    windows = Windows.of(field, Split((0, 1), (0, 1), 3), 2)
    rmse = forecast_error(model, windows, World(), "fp32").rmse()
    return trivial_forecast(rmse, model.task, windows, World())


@pytest.mark.parametrize(("target", "equal"), [("change", "persistence"), ("frame", "a zero forecast")])
def test_a_network_without_output_equals_a_trivial_forecast(target: str, equal: str) -> None:
    task = Task("noise", 2, 6, 6, target)  # type: ignore[arg-type]
    model = ConvNet(ConvNet.Config(hidden=4, layers=2), task)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert equals(model) == equal
    nn.init.normal_(next(model.parameters()))
    nn.init.constant_(model.network[-1].bias, 0.1)
    assert equals(model) is None
    assert equals(Linear(Linear.Config(), task)) == "linear"


def test_the_record_and_the_board_say_so(
    store: Store, make_suite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "silent.py"
    file.write_text(SILENT, encoding="utf-8")
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(file)
    suite = make_suite(models="[persistence, silent]", epochs=1)
    run = symbench("run", suite, "--plugin", file, store=store)
    assert run.returncode == 0, run.stderr
    persistence, silent = records(suite, store)
    assert (persistence.status.message, silent.status.message) == ("", "did not learn (RMSE of persistence)")
    rows = aggregate([persistence.cell, silent.cell], {one.cell.id: one for one in (persistence, silent)})
    assert sorted(row.remark for row in rows) == ["", "1 did not learn (RMSE of persistence)"]
    assert all(row.complete for row in rows)
