"""How many ranks pay off, in closed form; and what `bench_ddp` puts in."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import suites
from benchmark.bench_ddp import ALONE, HALF, on_rank
from benchmark.bench_scaling import (
    FIRST_BUCKET,
    NOMINAL,
    Link,
    Step,
    efficiency,
    link_of,
    most_ranks,
    overlap_of,
    payoff,
    ring_seconds,
    step_of,
    step_seconds,
)

LINK = Link("made up", bandwidth=1e9, latency=1e-5)
STEP = Step(fixed=0.0, window=1e-3, batch=64, gradient_bytes=1_000_000, overlap=0.0)


def test_one_rank_sends_nothing() -> None:
    assert ring_seconds(1, 10**9, LINK) == 0
    assert step_seconds(1, STEP, LINK) == pytest.approx(0.064)
    assert efficiency(1, STEP, LINK) == 1


def test_a_ring_sends_everything_twice_at_most() -> None:
    """Each rank sends (n - 1) / n of the bytes twice, and its 2 (n - 1) hops take the latency each."""
    assert ring_seconds(2, 1_000_000, LINK) == pytest.approx(1e-3 + 2e-5)
    without_latency = replace(LINK, latency=0.0)
    assert ring_seconds(10**6, 1_000_000, without_latency) == pytest.approx(2e-3, rel=1e-5)
    assert ring_seconds(4, 1_000_000, replace(without_latency, bandwidth=2e9)) == pytest.approx(0.75e-3)


def test_each_bucket_has_its_own_latency() -> None:
    one, two = (ring_seconds(2, FIRST_BUCKET + more, LINK) for more in (0, 1))
    assert two - one == pytest.approx(2e-5, rel=1e-3)


def test_what_is_sent_during_the_backward_pass_costs_nothing() -> None:
    """16 ms of computing on four ranks hide 1.6 ms of sending, where the ring takes 1.56."""
    assert step_seconds(4, replace(STEP, overlap=0.1), LINK) == pytest.approx(0.016)
    assert step_seconds(4, replace(STEP, overlap=0.05), LINK) == pytest.approx(0.016 + 1.56e-3 - 0.8e-3)


def test_what_no_rank_saves_limits_the_efficiency() -> None:
    """With as much fixed as computed: (1 + 1) / (n (1 + 1 / n)) of n ranks, over a link that costs nothing."""
    free = Link("free", math.inf, 0.0)
    half_fixed = replace(STEP, fixed=0.064)
    assert efficiency(4, half_fixed, free) == pytest.approx(2 / 5)
    assert most_ranks(half_fixed, free, least=0.4) == 4
    assert most_ranks(half_fixed, free, least=0.41) == 2


def test_the_most_ranks_share_the_batch_evenly() -> None:
    free = Link("free", math.inf, 0.0)
    assert most_ranks(replace(STEP, batch=12), free) == 12
    assert most_ranks(replace(STEP, batch=7), replace(LINK, bandwidth=2e8)) == 1  # nothing else divides 7


def test_the_weights_are_shared_by_all_rolled_out_steps() -> None:
    assert overlap_of(1) == pytest.approx(2 / 3)
    assert overlap_of(6) == pytest.approx(1 / 9)


def test_what_was_measured_gives_the_model_back() -> None:
    ranks, size = 4, 500_000
    number, gradients = (ring_seconds(ranks, sent, LINK) for sent in (0, size))
    link = link_of(ranks, size, number, gradients)
    assert (link.bandwidth, link.latency) == pytest.approx((LINK.bandwidth, LINK.latency))
    step = step_of(0.01 + 0.005, 0.01 + 0.002, batch=5, gradient_bytes=size, overlap=0.0)
    assert (step.fixed, step.window) == pytest.approx((0.01, 0.001))
    assert step_of(0.004, 0.001, batch=4, gradient_bytes=size, overlap=0.0).fixed == 0  # a busy machine


def test_the_paper_gains_more_ranks_than_the_demo() -> None:
    demo, paper = (
        next(cell for cell in suites.load(name).cells if cell.model.name == "convnet")
        for name in ("quickstart", "icml2022-levels")
    )
    ranks = [payoff("", cell, tflops=10.0, fixed=(0.0, 0.01))["ranks"] for cell in (demo, paper)]
    for link in NOMINAL:
        of_demo, of_paper = (one[link.name] for one in ranks)
        assert of_demo[0] < of_paper[0]
        assert (of_demo[1], of_paper[1] < of_paper[0]) == (1, True)  # what is fixed pays for nobody


def test_a_rank_alone_is_timed(tmp_path: Path) -> None:
    cell = next(cell for cell in suites.load("quickstart").cells if cell.model.name == "convnet")
    seconds = on_rank(cell, 0, 1, tmp_path / "rendezvous", rounds=2, steps=1)
    assert seconds.keys() == {ALONE, HALF}
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
