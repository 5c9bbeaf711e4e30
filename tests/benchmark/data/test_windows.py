"""Windows against naive slicing, and the frames that each protocol shares or does not share."""

import pytest
import torch
from support import tiny

from benchmark.cell import Protocol
from benchmark.data import dataset_registry
from benchmark.data.dataset import Preset, Split
from benchmark.data.windows import Windows
from benchmark.errors import UserError

NAME = "smoke_rotation_levels"
LEVELS = dataset_registry.dataset(NAME)


def frames_of(split: Split, input_frames: int) -> set[tuple[int, int]]:
    """All (run, frame) that the windows of a split touch."""
    length = input_frames + split.steps
    return {(run, start + offset) for run in split.runs for start in split.starts for offset in range(length)}


def test_a_batch_is_what_slicing_gives() -> None:
    field = torch.randn(3, 12, 2, 4, 5)
    windows = Windows.of(field, Split(runs=(0, 2), starts=(1, 4, 5), steps=3), input_frames=2)
    pairs = [(run, start) for run in (0, 2) for start in (1, 4, 5)]
    assert len(windows) == len(pairs)
    inputs, targets = windows.batch(torch.tensor([5, 0, 3, 0]))
    assert inputs.shape == (4, 2, 2, 4, 5)
    assert targets.shape == (4, 3, 2, 4, 5)
    for row, number in enumerate([5, 0, 3, 0]):
        run, start = pairs[number]
        assert torch.equal(inputs[row], field[run, start : start + 2])
        assert torch.equal(targets[row], field[run, start + 2 : start + 5])


def test_a_batch_of_one_and_of_none() -> None:
    field = torch.randn(1, 4, 2, 3, 3)
    windows = Windows.of(field, Split((0,), (0,), 1), 3)
    inputs, targets = windows.batch(torch.tensor([0]))
    assert torch.equal(torch.cat((inputs, targets), dim=1), field)
    assert windows.batch(torch.tensor([], dtype=torch.long))[0].shape == (0, 3, 2, 3, 3)


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(input_frames=1, train_steps=6, test_steps=7)])
@pytest.mark.parametrize("frames", [120, 310])
def test_disjoint_splits_share_no_frame(frames: int, protocol: Protocol) -> None:
    splits = tiny(NAME, Preset(4, 4, frames)).splits(protocol, "tiny")
    touched = [frames_of(split, protocol.input_frames) for split in splits.values()]
    assert sum(len(one) for one in touched) == len(set.union(*touched))
    assert max(frame for _, frame in set.union(*touched)) < frames
    assert all(split.starts for split in splits.values())


def test_disjoint_says_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="a validation window of 10 input and 6 target frames does not fit into the 13"):
        tiny(NAME, Preset(4, 4, 90)).splits(Protocol(), "tiny")


def test_fewer_training_runs_make_epochs_of_equal_length() -> None:
    short, frames = Protocol(input_frames=1, train_steps=2, test_steps=2), Preset(4, 4, 64)
    dataset = tiny(NAME, frames)
    many, few = (dataset.splits(short.model_copy(update={"train_runs": n}), "tiny") for n in (None, 2))
    runs = tuple(dataset.training_runs)
    assert set(few["train"].runs) == set(runs[:2])
    assert len(few["train"]) == len(many["train"])
    assert few["validation"].runs == few["future"].runs == runs[:2]
    assert few["domain"] == many["domain"]
    with pytest.raises(UserError, match=f"train_runs: 99 is more than the {len(runs)} training runs"):
        dataset.splits(short.model_copy(update={"train_runs": 99}), "tiny")


def test_published_windows_of_the_level_experiment() -> None:
    splits = LEVELS.splits(Protocol(name="icml2022", input_frames=1, train_steps=6, test_steps=6), "paper")
    assert splits["train"] == Split((0, 1, 2, 3), tuple(range(2, 32)), 6)
    assert splits["validation"] == Split((0, 1, 2, 3), tuple(range(32, 42)), 6)
    assert splits["future"] == Split((0, 1, 2, 3), (42, 43), 6)
    assert splits["domain"] == Split((4, 5, 6, 7), tuple(range(2, 42)), 6)


def test_published_windows_end_with_the_frames() -> None:
    protocol = Protocol(name="icml2022", input_frames=1, test_steps=20)
    splits = LEVELS.splits(protocol, "small")
    assert splits["future"].starts == tuple(range(42, 64 - 21 + 1))
    assert splits["domain"].starts == tuple(range(2, 42))


def test_a_horizon_beyond_the_frames_says_what_fits() -> None:
    with pytest.raises(UserError, match="may sum up to 8 at most, not 10 \\+ 20"):
        LEVELS.splits(Protocol(name="icml2022"), "paper")
