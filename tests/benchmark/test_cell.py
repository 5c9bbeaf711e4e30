"""The identity of a cell."""

import json

import pytest
from pydantic import ValidationError

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training


def a_cell(**changes: object) -> Cell:
    fields = {
        "dataset": DatasetChoice(name="smoke_rotation_levels", level=3, preset="small"),
        "model": ModelChoice(name="convnet", config={"hidden": 64, "layers": 5, "kernel_size": 3}),
        "protocol": Protocol(),
        "train": Training(),
        "seed": 0,
    }
    return Cell.model_validate({**fields, **changes})


def test_identity_is_golden() -> None:
    """A change here makes every stored result unknown: raise SCHEMA_VERSION only when a field changes its meaning."""
    assert a_cell().id == "1633edef2a8de423"


def test_identity_survives_json_and_key_order() -> None:
    cell = a_cell()
    document = json.loads(cell.model_dump_json())
    assert Cell.model_validate(dict(reversed(document.items()))).id == cell.id


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"train": Training(learning_rate=2e-3)},
        {"protocol": Protocol(name="icml2022")},
        {"dataset": DatasetChoice(name="smoke_rotation_levels", level=3, preset="small", grid="staggered")},
        {"model": ModelChoice(name="convnet", config={"hidden": 65, "layers": 5, "kernel_size": 3})},
    ],
)
def test_identity_changes_with_everything_that_changes_the_result(changes: dict[str, object]) -> None:
    assert a_cell(**changes).id != a_cell().id


def test_the_first_version_of_a_model_is_no_part_of_the_identity() -> None:
    """Cells from before models had versions keep their identity, and a raised version gives a new one."""
    first, second = (
        ModelChoice(name="convnet", config={"hidden": 64, "layers": 5, "kernel_size": 3}, version=version)
        for version in (1, 2)
    )
    assert "version" not in first.model_dump()
    assert a_cell(model=first).id == a_cell().id != a_cell(model=second).id
    assert second.settings() == {"version": 2, **first.settings()}
    assert Cell.model_validate_json(a_cell(model=second).model_dump_json()) == a_cell(model=second)


def test_settings_give_the_model_back() -> None:
    network = ModelChoice(name="convnet", config={"hidden": 4}, version=2)
    wrapper = ModelChoice(name="remul", config={"network": network.model_dump(mode="json"), "weight": 0.5}, version=3)
    assert wrapper.settings()["network.version"] == 2
    for model in (network, wrapper, ModelChoice(name="persistence", config={})):
        assert ModelChoice.of_settings(model.name, model.settings()) == model


def test_a_later_field_is_no_part_of_the_identity_at_its_default() -> None:
    assert a_cell(protocol=Protocol(train_runs=None)).id == a_cell().id != a_cell(protocol=Protocol(train_runs=3)).id
    assert "train_runs" not in Protocol().model_dump()
    assert Protocol(train_runs=3).model_dump()["train_runs"] == 3


def test_a_copy_has_its_own_identity() -> None:
    cell = a_cell()
    assert cell.id == a_cell().id  # so that both have cached what the copies below must not keep
    slow = cell.train.model_copy(update={"learning_rate": 1e-4})
    copied = cell.model_copy(update={"train": slow})
    assert copied.id == a_cell(train=Training(learning_rate=1e-4)).id != cell.id
    assert copied.document == copied.model_dump(mode="json")


@pytest.mark.parametrize("value", ["1", 1.5, -1, True, 2**31])
def test_seed_is_strict(value: object) -> None:
    with pytest.raises(ValidationError):
        a_cell(seed=value)


def test_minus_zero_is_zero() -> None:
    zeros = [
        a_cell(train=Training(weight_decay=zero), model=ModelChoice(name="a-0.0", config={"penalty": [zero, 0.5]}))
        for zero in (0.0, -0.0)
    ]
    assert zeros[0].id == zeros[1].id


def test_nan_is_no_setting() -> None:
    with pytest.raises(ValidationError):
        Training(learning_rate=float("nan"))
