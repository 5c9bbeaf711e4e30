"""Arithmetic limit of a training step, in closed form, and the bench of baselines. No test asserts a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from benchmark.bench import baselines as bench
from benchmark.bench.limit import DataOperand, LimitNetwork, ProductRecorder, WeightOperand
from benchmark.cell import Training
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.coordconv import CoordConv
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.convolutions import convolutional_network
from benchmark.models.mlp import MLP
from benchmark.models.relaxed_group_translation import RelaxedGroupTranslation
from benchmark.models.relaxed_steerable_scale import RelaxedSteerableScale
from benchmark.models.rpp_rotation import RPPRotation
from benchmark.models.unet import UNet
from benchmark.training.loss import RolledOutLoss

B, T, C, H, W, S = 3, 2, 2, 8, 6, 2
TASK = Task("made_up", T, C, H, W)


def windows() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, T, C, H, W, generator=generator), torch.zeros(B, S, C, H, W), torch.zeros(B)


def recorded(baseline: type[Baseline], **config: Any) -> ProductRecorder:
    """Products of a step of S rolled-out frames."""
    torch.manual_seed(0)
    model = baseline(baseline.Config.model_validate(config), TASK)
    x, y, draws = windows()
    with ProductRecorder(x) as recorder:
        RolledOutLoss(model, Training(), x.device, cache_filters=True)(x, y, draws)
    return recorder


def filters(recorder: ProductRecorder) -> list[tuple[int, ...]]:
    """Shape of the second operand of each convolution; no other product is allowed."""
    assert {product.operator for product in recorder.products} == {"convolution.default"}
    operands = [product.arguments[1] for product in recorder.products]
    assert all(isinstance(one, WeightOperand) for one in operands)
    return [recorder.weights[one.index].shape for one in operands]


def sources(recorder: ProductRecorder) -> list[tuple[int, ...]]:
    return [one.sources for product in recorder.products for one in product.data]


PLAIN = [(5, T * C, 3, 3), (5, 5, 3, 3), (C, 5, 3, 3)]


def test_the_limit_of_a_convnet_is_the_convnet() -> None:
    """A chain of convolutions, twice; the second chain also reads the first forecast."""
    recorder = recorded(ConvNet, hidden=5, layers=3)
    assert filters(recorder) == S * PLAIN
    assert sources(recorder) == [(-1,), (0,), (1,), (-1, 2), (3,), (4,)]
    model = ConvNet(ConvNet.Config(hidden=5, layers=3), TASK)
    limit = LimitNetwork(recorder.products, recorder.weights)
    assert [tuple(p.shape) for p in limit.parameters()] == [tuple(p.shape) for p in model.parameters()]


def test_the_limit_computes_what_the_convnet_computes() -> None:
    """Over one frame, equal weights give an equal loss and equal gradients."""
    torch.manual_seed(0)
    network = convolutional_network(TASK, 5, 3, 3)
    x, y, draws = windows()
    with ProductRecorder(x) as recorder:
        network(x.flatten(1, 2))
    limit = LimitNetwork(recorder.products, recorder.weights)
    with torch.no_grad():
        for ours, theirs in zip(limit.parameters(), network.parameters(), strict=True):
            ours.copy_(theirs)
    loss, expected = limit(x, y, draws)[0], network(x.flatten(1, 2)).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for ours, theirs in zip(limit.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("banks", [1, 3])
def test_a_bank_counts_as_a_convolution(banks: int) -> None:
    recorder = recorded(RelaxedGroupTranslation, hidden=5, layers=3, banks=banks)
    assert filters(recorder) == S * [(banks * out, *others) for out, *others in PLAIN]


@pytest.mark.parametrize(("baseline", "config"), [(E2CNN, {"order": 4}), (RPPRotation, {"order": 4})])
def test_what_builds_a_filter_does_not_count(baseline: type[Baseline], config: dict[str, Any]) -> None:
    """The einsum of coefficients with a basis is not among the products of a ConvNet with as many channels."""
    recorder = recorded(baseline, hidden=2, layers=3, **config)
    assert filters(recorder) == S * [(8, T * C, 3, 3), (8, 8, 3, 3), (C, 8, 3, 3)]
    # A sum of two filters is a new tensor in each frame, but one weight.
    assert len({product.arguments[1] for product in recorder.products}) == 3


def test_a_map_that_is_the_same_for_all_windows_does_not_count() -> None:
    assert filters(recorded(CoordConv, hidden=5, layers=3)) == S * PLAIN


def test_each_scale_counts() -> None:
    recorder = recorded(RelaxedSteerableScale, hidden=3, layers=2, kernel_size=3, scales=(1.0, 2.0))
    assert filters(recorder) == S * [(3, T * C, 3, 3), (3, T * C, 7, 7), (C, 3, 3, 3), (C, 3, 7, 7)]


def test_dense_layers_count() -> None:
    recorder = recorded(MLP, hidden=7, layers=2)
    shapes = [[recorder.weights[one.index].shape for one in p.arguments[::2]] for p in recorder.products]
    assert shapes == S * [[(7,), (T * C * H * W, 7)], [(C * H * W,), (7, C * H * W)]]


def test_a_loss_on_the_windows_counts() -> None:
    """A forward pass in the regularization adds its products, not new weights."""

    class Twice(ConvNet):
        def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
            return self(x_BTCHW).square().mean()

    recorder = recorded(Twice, hidden=5, layers=3)
    assert filters(recorder) == (S + 1) * PLAIN
    assert len(recorder.weights) == 2 * len(PLAIN)  # and their biases


def test_a_skip_is_concatenated_and_a_residual_added() -> None:
    recorder = recorded(UNet, hidden=2, depth=1)
    (merged,) = [one for product in recorder.products[:7] for one in product.data if len(one.sources) == 2]
    assert merged.sources == (1, 4)
    assert not merged.is_sum

    x, y, draws = windows()
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)
    with ProductRecorder(x) as recorder:
        field = x.flatten(1, 2)
        second(field + first(field))
    (residual,) = recorder.products[1].data
    assert residual == DataOperand(residual.key, (-1, 0), (B, 4, H, W), torch.float32, is_sum=True)
    assert LimitNetwork(recorder.products, recorder.weights)(x, y, draws)[0] > 0


def test_views_and_writes_in_place_keep_their_sources() -> None:
    x, *_ = windows()
    plain, weight = torch.zeros(B, T * C), torch.ones(T * C, 5)
    with ProductRecorder(x) as recorder:
        plain[1:, 0].add_(x[1:, 0, 0, 0, 0])
        plain @ weight
        torch.zeros(B, T * C) @ weight  # does not depend on the window
    assert [product.operator for product in recorder.products] == ["mm.default"]
    assert sources(recorder) == [(-1,)]


@pytest.mark.parametrize("name", sorted(set(bench.model_registry.model_names()) - {"persistence", "linear"}))
def test_every_baseline_has_a_limit(name: str) -> None:
    """The shapes fit, and each weight of the limit gets a gradient."""
    torch.manual_seed(0)
    fields = bench.model_registry.model(name).Config.model_fields
    model = bench.build(name, {"hidden": 2} if "hidden" in fields else {}, 16)
    limit = LimitNetwork(*bench.record(model, 2, 16))
    bench.training_step(limit, 2, 16)()
    assert limit.products
    assert all(p.grad is not None and p.grad.isfinite().all() for p in limit.parameters())


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
    assert row["allowed_time"] == 1.15
    assert document["environment"]["device_type"] == bench.DEVICE.type
    assert result.stdout.splitlines()[2].startswith(f"| convnet | {row['parameters']} |")
    assert "persistence: nothing to train" in result.stderr
