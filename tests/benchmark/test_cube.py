"""Turns of the cube, against their defining properties."""

import numpy as np

from benchmark.cube import turned, turns


def test_the_turns_are_the_24_rotations_that_keep_the_cube() -> None:
    group = turns()
    assert next(iter(group)) == "+x+y+z"
    assert np.array_equal(group["+x+y+z"], np.eye(3))
    assert len({turn.tobytes() for turn in group.values()}) == 24
    known = {(turn + 0.0).tobytes() for turn in group.values()}
    for turn in group.values():
        assert np.array_equal(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) > 0
        assert all((turn @ other + 0.0).tobytes() in known for other in group.values())


def test_a_turn_acts_on_position_and_velocity() -> None:
    state = np.array([1.0, 2, 3, 4, 5, 6])
    assert turned(state, turns()["-y+x+z"]).tolist() == [-2, 1, 3, -5, 4, 6]
