"""The sentence above a level: who wins, by how much, and whether it is sure."""

import pytest
from fabricated_board import Board, rows_of

from results.board.contests import verdicts

RELAXED = "relaxed_steerable_rotation"


@pytest.mark.parametrize(
    ("errors", "ending"),
    [
        (
            {"e2cnn": (0.10, 0.101, 0.102), "convnet": (0.20, 0.202, 0.204)},
            "0.1010, 100 % ahead of convnet, sure (p = ",
        ),
        ({"e2cnn": (0.10, 0.15, 0.20), "convnet": (0.11, 0.16, 0.21)}, "0.1500, 7 % ahead of convnet, not sure"),
        (
            {"e2cnn": (0.10, 0.15, 0.20), "convnet": (0.17, 0.16, 0.18), RELAXED: (0.16, 0.2, 0.2)},
            f"0.1500, 18 % ahead of convnet, not sure; {RELAXED} may be as good, too",
        ),
        (
            {"e2cnn": (0.1, 0.1001, 0.1002), "convnet": (0.12, 0.1201, 0.1202), RELAXED: (0.1, 0.2, 0.3)},
            f" % ahead of {RELAXED}, not sure",
        ),
        ({"e2cnn": (0.10,), "convnet": (0.11,)}, "0.1000, 10 % ahead of convnet, not tested with one seed"),
        ({"e2cnn": (0.0,), "convnet": (0.11,)}, "0, 0.11 ahead of convnet, not tested with one seed"),
        ({"e2cnn": (0.10,)}, "; no other model has finished all its seeds"),
    ],
    ids=["sure", "not sure", "of three", "the second is worse and the third not", "one seed", "perfect", "alone"],
)
def test_the_sentence_of_a_contest(new_board, new_cell, errors: dict[str, tuple[float, ...]], ending: str) -> None:
    cells = [(new_cell(model, seed=n), value) for model, values in errors.items() for n, value in enumerate(values)]
    board: Board = new_board([cell for cell, _ in cells])
    for cell, error in cells:
        board.finish(cell, rmse_future=error, strict_floor=0.031)
    (verdict,) = verdicts(rows_of(board), "rmse_future")
    sentence = verdict.sentence("rmse_future")
    assert sentence.startswith("level 0 (data error 0, floor 0.031): e2cnn")
    assert ending in sentence
