"""Overrides of a suite (`--set`): a suite of its own, which says so in its name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import symbench

from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from results.store.store import Store

GOOD = """\
name: tiny
protocol: {name: disjoint, input_frames: 1, test_steps: 10}
datasets:
  - smoke_rotation_levels: {level: [0, 3], preset: small}
models:
  - persistence
  - convnet: &shared {hidden: [4, 8]}
  - unet: *shared
  - frame_averaging: {network: convnet}
seeds: [0, 1, 2]
train: {epochs: 2, batch_size: 4, learning_rate: 1e-3}
"""
Load = Callable[..., Suite]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load GOOD with overrides."""
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return lambda *overrides: suites.load(str(path), tmp_path / "store", overrides=overrides)


def settings(suite: Suite, model: str) -> set[tuple[object, ...]]:
    """Width, epochs, input frames and seeds of the cells of a model."""
    return {
        (cell.model.config.get("hidden"), cell.train.epochs, cell.protocol.input_frames, cell.seed)
        for cell in suite.cells
        if cell.model.name == model
    }


def test_overrides_replace_what_the_file_says(load: Load) -> None:
    suite = load("train.epochs=5", "models.convnet.hidden=[16]", "protocol.input_frames=2", "seeds=[0]")
    assert settings(suite, "convnet") == {(16, 5, 2, 0)}
    assert settings(suite, "unet") == {(4, 5, 2, 0), (8, 5, 2, 0)}, "an alias shares the settings of the other model"
    assert suite.overrides == {
        "models.convnet.hidden=[16]": [4, 8],
        "protocol.input_frames=2": 1,
        "seeds=[0]": [0, 1, 2],
        "train.epochs=5": 2,
    }


def test_networks_of_wrappers_and_sections_that_lack_are_reached(load: Load) -> None:
    suite = load("models.frame_averaging.network.convnet.hidden=4", "resources.ranks=2", "models.persistence={}")
    (wrapper,) = {json.dumps(cell.model.settings()) for cell in suite.cells if cell.model.name == "frame_averaging"}
    assert '"network.hidden": 4' in wrapper
    assert suite.resources.ranks == 2
    (zipped,) = {
        cell.train.learning_rate
        for cell in load("train={zip: {epochs: [1, 2], learning_rate: [0.1, 0.2]}}").cells
        if cell.train.epochs == 2
    }
    assert zipped == 0.2


def test_the_name_says_so_and_is_that_of_the_same_overrides(load: Load) -> None:
    assert load().name == "tiny"
    assert load("train.epochs=5").name == load(" train.epochs= 5").name == "tiny+train.epochs=5"
    one, other = load("train.epochs=5", "seeds=[0, 1]"), load("seeds=[0,1]", "train.epochs=5")
    assert one.name == other.name
    assert re.fullmatch(r"tiny\+seeds=-0,1-\+train.epochs=5-[0-9a-f]{6}", one.name)
    lists = {load(f"train.epochs={value}").name for value in ("1", "[1]", "[1,2]", "[12]", "[1, 2, 3]")}
    assert len(lists) == 5
    long = load(*(f"train.{key}=0.5" for key in ("learning_rate", "weight_decay", "learning_rate_decay")))
    assert len(long.name) < 100
    assert one.argument.endswith("tiny.yaml --set 'seeds=[0,1]' --set train.epochs=5")


def test_a_copy_is_the_suite(load: Load, tmp_path: Path) -> None:
    """Jobs of a cluster and boards read the copy; anchors and short forms are written out."""
    path = load().path
    path.write_text(GOOD.replace("{name: disjoint, input_frames: 1, test_steps: 10}", "disjoint"), encoding="utf-8")
    frames = ("protocol.input_frames=1", "protocol.test_steps=10")
    suite = load("models.convnet.hidden=[16]", "models.frame_averaging.network=mlp", *frames)
    copy = tmp_path / "elsewhere" / "suite.yaml"
    copy.parent.mkdir()
    copy.write_text(suites.copied(suite, ()), encoding="utf-8")
    loaded = suites.load(str(copy))
    assert (loaded.name, loaded.cells, loaded.overrides) == (suite.name, suite.cells, {})
    tuned = suites.copied(suites.load(str(suite.path), tuned=True, overrides=suite.overrides), ())
    assert tuned.splitlines()[1] == f"name: {suite.name}", "a job adds -tuned to it, as to that of every suite"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochz=2", "--set train.epochz=2: train.epochz: unknown key 'epochz'; did you mean 'epochs'? (valid:"),
        ("train.epochs=two", "--set train.epochs=two: train.epochs: Input should be a valid integer (got 'two')"),
        ("trian.epochs=2", "with --set trian.epochs=2: trian: unknown key 'trian'; did you mean 'train'?"),
        ("models.convnett.hidden=2", "unknown entry of models 'convnett'; did you mean 'convnet'? (valid: persistence"),
        ("models.convnet.hiden=2", "models.1.convnet.hiden: unknown key 'hiden'; did you mean 'hidden'? (valid:"),
        ("protocol.input_frames=99", "with --set protocol.input_frames=99: protocol: smoke_rotation_levels (small):"),
        ("seeds.count=2", "--set seeds.count=2: seeds is [0, 1, 2] in the file, and has no key 'count'"),
        ("train.epochs.x=2", "--set train.epochs.x=2: train.epochs is 2 in the file, and has no key 'x'"),
        ("models.3=2", "--set models.3=2: unknown entry of models '3'"),
        ("name=other", "--set name: cannot be set; it follows from the other overrides"),
        ("plugins=[a.py]", "--set plugins: cannot be set; use --plugin FILE"),
        ("epochs", "--set epochs: must be KEY=VALUE with the keys on the way, as train.epochs=2"),
        ("train.epochs=", "must be KEY=VALUE"),
        ("train..epochs=2", "must be KEY=VALUE"),
        (".".join("a" * 60) + "=2", "must be KEY=VALUE"),
        ("train.epochs=[1", "not valid YAML: while parsing a flow sequence"),
        ("train.epochs={{a: 1}: 2}", "train.epochs: Input should be a valid integer"),
        ("train=!!python/object:os.system {}", "the tag !!python/object:os.system is not known here"),
        (f"seeds={'[' * 60}{']' * 60}", "more than 50 lists and mappings within each other"),
        (f"train.epochs={'9' * 1001}", "a value of 1,001 characters; at most 1000 are read"),
        (f"seeds=[{', '.join(map(str, range(100_001)))}]", "has more than 100,000 values"),
        ("seeds=&a [*a]", "*a stands within &a, which it repeats"),
        ("seeds={count: 10000}", "cells, and a suite has at most 100,000"),
        ("models.convnet.hidden=9999999", "models.1.convnet.hidden: 9999999 is more than"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(load: Load, override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        load(override)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_key_is_set_once(load: Load) -> None:
    with pytest.raises(UserError, match=r"--set train.epochs: is given twice"):
        load("train.epochs=2", "train.epochs=3")
    assert load("train={epochs: 3, batch_size: 4}", "train.epochs=2").cells[-1].train.epochs == 2


def test_later_commands_name_the_suite_of_a_run(store: Store, make_suite: Callable[..., Path]) -> None:
    path, options = make_suite(models="[persistence, convnet]", seeds="[0]"), ("--set", "models=[persistence]")
    planned = symbench("plan", path, *options, "--json", store=store)
    assert json.loads(planned.stdout)["set"] == ["models=[persistence]"]
    assert (
        '--set models=[persistence]: instead of ["persistence", "convnet"]'
        in symbench("plan", path, *options, store=store).stderr
    )
    assert suites.kept(store.root) == [], "a plan changes nothing"
    ran = symbench("run", path, *options, store=store)
    (name,) = suites.kept(store.root)
    assert f"{name}: 1 cells run, 0 were finished, 0 failed" in ran.stdout
    for command in (("status", name), ("status", path, *options)):
        (row,) = json.loads(symbench(*command, "--json", store=store).stdout)
        assert row["state"] == "done"
    assert len(json.loads(symbench("status", path, "--json", store=store).stdout)) == 2
    assert name in symbench("leaderboard", store=store).stdout
    (ranked,) = json.loads(symbench("leaderboard", name, "--json", store=store).stdout)
    assert ranked["model"] == "persistence"
    refused = symbench("run", path, "--set", "seeds=none", store=store)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
