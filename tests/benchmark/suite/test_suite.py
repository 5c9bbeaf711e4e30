"""Reading suites: the grid, and what a person is told about each kind of mistake."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.cell import RELAXATION_RATE
from benchmark.errors import UserError
from benchmark.models import convnet, model_registry
from benchmark.suite import loading as suites
from benchmark.suite.suite import Resources, Suite

GOOD = """\
name: tiny
protocol: {name: disjoint, input_frames: 1, test_steps: 10}
datasets:
  - smoke_rotation_levels: {level: [0, 3], preset: small}
models:
  - persistence
  - convnet: {hidden: [4, 8]}
seeds: [0, 1, 2]
train: {epochs: 2, batch_size: 4, learning_rate: 1e-3}
resources: {ranks: 2}
"""

Load = Callable[[str], Suite]


def test_every_list_is_an_axis(load: Load) -> None:
    loaded = load(GOOD)
    # 2 levels x (persistence once + 2 widths x 3 seeds)
    assert len(loaded.cells) == 2 * (1 + 2 * 3)
    assert len({cell.id for cell in loaded.cells}) == len(loaded.cells)
    assert all(cell.train.learning_rate == 1e-3 for cell in loaded.cells)
    assert loaded.resources.ranks == 2


def test_every_default_is_written_out(load: Load) -> None:
    cell = next(cell for cell in load(GOOD).cells if cell.model.name == "convnet")
    later = {"norm"}  # whose default older cells lack
    assert set(cell.model.config) == set(model_registry.model("convnet").Config.model_fields) - later
    assert cell.train.weight_decay == 4e-4


def test_the_relaxation_rate_is_written_where_it_acts(load: Load) -> None:
    """Other models have one cell at all rates, with the identity that it had before there was a rate."""
    rates = GOOD.replace("train: {", "train: {relaxation_rate: [0.1, 0.3], ").replace("seeds: [0, 1, 2]", "seeds: [0]")
    text = rates.replace(
        "  - persistence\n", "  - persistence\n  - gm_cnn: {rank: [0, 1]}\n  - remul: {network: clcnn}\n"
    )
    rates_of = [
        (cell.model.name, cell.model.config.get("rank"), cell.train.relaxation_rate)
        for cell in load(text).cells
        if cell.model.config.get("hidden") in (None, 128) and cell.dataset.level == 0
    ]
    assert sorted(rates_of, key=str) == [
        ("gm_cnn", 0, None),
        ("gm_cnn", 1, 0.1),
        ("gm_cnn", 1, 0.3),
        ("persistence", None, None),
        ("remul", None, 0.1),
        ("remul", None, 0.3),
    ]
    plain, rated = (
        {cell.id for cell in load(one).cells if cell.model.name == "convnet"}
        for one in (GOOD.replace("seeds: [0, 1, 2]", "seeds: [0]"), rates)
    )
    assert plain == rated
    (default,) = {
        cell.train.relaxation_rate for cell in load(GOOD).cells + load(GOOD.replace("convnet", "gm_cnn")).cells
    } - {None}
    assert default == RELAXATION_RATE


def test_same_cell_in_two_suites_is_one(load: Load) -> None:
    first = load(GOOD).cells
    second = load(GOOD.replace("name: tiny", "name: other").replace("ranks: 2", "ranks: 4")).cells
    assert [cell.id for cell in first] == [cell.id for cell in second]


def test_only_selects(load: Load) -> None:
    loaded = load(GOOD)
    chosen = loaded.only("model=convnet, seed=1,hidden=8")
    assert len(chosen.cells) == 2
    assert {cell.seed for cell in chosen.cells} == {1}
    assert len(loaded.only(f"id={loaded.cells[0].id}").cells) == 1


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("modle=convnet", "unknown key 'modle'; did you mean 'model'?"),
        ("model=convnett", "unknown model 'convnett'; did you mean 'convnet'?"),
        ("seed", "'seed' is not of the form key=value"),
        ("model=[convnet,convnett]", "unknown model 'convnett'; did you mean 'convnet'?"),
        ("level>=high", "level>=high: 'high' is not a number"),
        ("model>2", "model>2: model is not a number; use = or !="),
        ("level>3", "no cell has level>3 (level: 0, 3)"),
        ("seed!=[0,1,2]", "no cell has seed!=[0,1,2] (seed: 0, 1, 2)"),
        ("hidden=None", "unknown hidden 'None' (valid: 4, 8)"),
    ],
)
def test_only_explains(load: Load, expression: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(GOOD).only(expression)


@pytest.mark.parametrize(
    ("expression", "cells"),
    [
        ("level>=1", 1 + 6),
        ("level<3, model=[persistence, convnet]", 1 + 6),
        ("seed<2,hidden=[4,8]", 2 * 2 * 2),
        ("seed!=0", 2 * 2 * 2),
        ("hidden!=4", 2 + 2 * 3),
        ("hidden>4,level=[0]", 3),
        ("seed>0.5,seed<=1", 4),
    ],
)
def test_only_compares_and_takes_lists(load: Load, expression: str, cells: int) -> None:
    assert len(load(GOOD).only(expression).cells) == cells


TOGETHER = "train: {epochs: 2, zip: {learning_rate: [1e-3, 3e-3], batch_size: [4, 2]}}"


def test_zipped_lists_are_one_axis(load: Load) -> None:
    """A value may stand twice in one of them, and other lists are axes beside them."""
    text = GOOD.replace("train: {epochs: 2, batch_size: 4, learning_rate: 1e-3}", TOGETHER)
    trained = [cell for cell in load(text).cells if cell.model.name == "convnet"]
    assert {(cell.train.learning_rate, cell.train.batch_size) for cell in trained} == {(1e-3, 4), (3e-3, 2)}
    assert len(trained) == 2 * 2 * 3 * 2
    of_data = GOOD.replace("level: [0, 3], preset: small", "zip: {level: [0, 3], preset: [small, small]}")
    assert load(of_data).cells == load(GOOD).cells
    of_model = GOOD.replace("hidden: [4, 8]", "zip: {hidden: [4, 8], norm: [none, batch]}")
    models = {(cell.model.config.get("hidden"), cell.model.config.get("norm")) for cell in load(of_model).cells}
    assert len(models - {(None, None)}) == 2


@pytest.mark.parametrize(
    ("zipped", "message"),
    [
        ("3", "train.zip: must be a mapping of at least two keys"),
        ("{batch_size: [4, 2]}", "train.zip: must be a mapping of at least two keys"),
        ("{learning_rate: [1e-3, 3e-3], batch_size: [4]}", "equal lengths (learning_rate has 2, batch_size has 1)"),
        ("{learning_rate: [1e-3, 3e-3], batch_size: 4}", "train.zip.batch_size: must be a list"),
        ("{learning_rate: [1e-3, 3e-3], batch_sise: [4, 2]}", "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        ("{learning_rate: [1e-3, 3e-3], epochs: [4, 2]}", "train.zip.epochs: stands outside of zip, too"),
        ("{learning_rate: [1e-3, 1e-3], batch_size: [4, 4]}", "stands there twice"),
        ("{learning_rate: [1e-3, 3e-3], batch_size: [4, many]}", "train.batch_size: "),
    ],
)
def test_mistakes_of_a_zip_are_named(load: Load, zipped: str, message: str) -> None:
    text = GOOD.replace("batch_size: 4, learning_rate: 1e-3", f"zip: {zipped}")
    with pytest.raises(UserError, match=rf"tiny.yaml:9: .*{re.escape(message)}"):
        load(text)


def test_networks_and_budgets_are_not_zipped(load: Load) -> None:
    wrapper = "frame_averaging: {zip: {network: [convnet, mlp], hidden: [1, 2]}}"
    with pytest.raises(UserError, match=r"zip.network: a network cannot stand under zip"):
        load(GOOD.replace("convnet: {hidden: [4, 8]}", wrapper))
    sized = GOOD.replace("hidden: [4, 8]", "zip: {hidden: [4, 8], norm: [none, batch]}")
    with pytest.raises(UserError, match=r"the budget decides 'hidden'"):
        load(f"{sized}budget: 60k\n")


BOMB = ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else '0' * 9)}]" for n in range(9))
"""A few hundred characters, whose last alias is 43 million zeros."""


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seeds:", "sedes:", 8, "sedes: unknown key 'sedes'; did you mean 'seeds'?"),
        ("hidden:", "hiden:", 7, "models.1.convnet.hiden: unknown key 'hiden'; did you mean 'hidden'?"),
        ("- convnet", "- convnett", 7, "unknown model 'convnett'; did you mean 'convnet'?"),
        ("- smoke_rotation_levels", "- smoke_rotation_level", 4, "did you mean 'smoke_rotation_levels'?"),
        ("[0, 3]", "[0, 30]", 4, "level: unknown level of smoke_rotation_levels 30"),
        ("preset: small", "preset: smal", 4, "did you mean 'small'?"),
        ("batch_size: 4", "batch_size: 5", 9, "train.batch_size: 5 is not divisible by the 2 ranks"),
        ("batch_size: 4", "batch_size: four", 9, "train.batch_size: Input should be a valid integer"),
        ("learning_rate: 1e-3", "learning_rate: .nan", 9, "train.learning_rate: Input should be a finite number"),
        ("test_steps: 10", "test_steps: 100", 2, "does not fit"),
        ("[0, 1, 2]", "[0, 1, 1]", 8, "seeds: 1 stands there twice"),
        ("[0, 1, 2]", "[]", 8, "seeds: an empty list"),
        ("seeds: [0, 1, 2]", "seeds: [-1]", 8, "greater than or equal to 0"),
        ("ranks: 2", "ranks: [1, 2]", 10, "resources: takes no lists"),
        ("ranks: 2", "rank: 2", 10, "resources.rank: unknown key 'rank'; did you mean 'ranks'?"),
        (
            "{hidden: [4, 8]}",
            "{resources: {gpu: 1}}",
            7,
            "convnet.resources.gpu: unknown key 'gpu'; did you mean 'gpus'?",
        ),
        ("{hidden: [4, 8]}", "{resources: {gpus: [1, 2]}}", 7, "convnet.resources: takes no lists"),
        ("{hidden: [4, 8]}", "{resources: 120}", 7, "convnet.resources: must be a mapping of keys to values"),
        ("{hidden: [4, 8]}", "{resources: {ranks: 3}}", 7, "4 is not divisible by the 3 ranks of `resources`"),
        (
            "- persistence",
            "- persistence: {resources: {ranks: 1}}",
            6,
            "has nothing to train, and runs on one CPU rank",
        ),
        ("- persistence", "- convnet: {hidden: 8, resources: {minutes: 9}}", 7, "stand above with other resources"),
        ("resources: {ranks: 2}", "keep: weights", 10, "keep: must be checkpoints, or left out, not 'weights'"),
        ("name: tiny", "nam: tiny", 1, "the key 'name' is missing"),
        ("name: tiny", "name: tiny\nname: again", 2, "duplicate key"),
        ("train: {", "train: {{", 9, "not valid YAML: while parsing a flow mapping: expected ',' or '}'"),
        ("[0, 1, 2]", "[0, 1, 2", 8, "not valid YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("models:", "models: [", 6, "not valid YAML: while parsing a flow node: expected the node content"),
        ("[4, 8]", "[4, 8", 7, "not valid YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("name: tiny", 'name: "tiny', 1, "not valid YAML: while scanning a quoted scalar"),
        ("{hidden: [4, 8]}", "false", 7, "models.1.convnet: must be a name, or a name with its settings"),
        ("{hidden: [4, 8]}", "[]", 7, "models.1.convnet: must be a name, or a name with its settings"),
        ("convnet: {hidden: [4, 8]}", "remul: {network: {convnet: 0}}", 7, "network.convnet: must be a name"),
        ("{level: [0, 3], preset: small}", "''", 4, "smoke_rotation_levels: must be a name, or a name with its"),
        ("[4, 8]", "100000000000", 7, "convnet.hidden: 100000000000 is more than 65536, the widest that can be built"),
        ("[0, 1, 2]", "&s [*s]", 8, "*s stands within &s, which it repeats"),
        ("train: {", "train: &t {<<: *t, ", 9, "*t stands within &t, which it repeats"),
        ("batch_size: 4", f"batch_size: 0x{'f' * 5000}", 9, "a value of 5,002 characters; at most 1000 are read"),
        ("[0, 1, 2]", "[" * 60 + "]" * 60, 8, "more than 50 lists and mappings within each other"),
        ("[0, 1, 2]", "!range [0, 4]", 8, "the tag !range is not known here; write the values out"),
        ("convnet: {", "convnet: !!map {", 7, "the tag !!map is not known here"),
        ("[0, 1, 2]", "5", 8, "write [5] for this one seed, or {count: N} for the seeds 0 to N - 1"),
        ("[0, 1, 2]", "{cuont: 5}", 8, "seeds.cuont: unknown key 'cuont'; did you mean 'count'?"),
        ("[0, 1, 2]", "{count: 0}", 8, "seeds.count: Input should be greater than or equal to 1 (got 0)"),
        ("disjoint", "disjont", 2, "protocol.name: unknown name 'disjont'; did you mean 'disjoint'?"),
        ("disjoint", "disjoint, target: chnge", 2, "protocol.target: unknown target 'chnge'; did you mean 'change'?"),
        ("[0, 3]", "0, grid: center", 4, "grid: unknown grid 'center'; did you mean 'centered'?"),
        ("epochs: 2", "precision: bf17", 9, "train.precision: unknown precision 'bf17'; did you mean 'bf16'?"),
        ("convnet: {hidden: [4, 8]}", "e2cnn: {order: 5}", 7, "e2cnn.order: unknown order 5 (valid: 4, 8)"),
        ("ranks: 2}", "ranks: 2}\nplugins: mine.py", 11, "plugins: must be a list of Python files"),
        ("ranks: 2}", "ranks: 2}\nplugins:\n  - mine.py", 12, "mine.py: not a Python file"),
        ("- persistence", "- {persistence: 3}", 6, "must be a name"),
        ("[0, 3]", '"3"', 4, "unknown level of smoke_rotation_levels '3'; did you mean 3?"),
        ("[0, 3]", "2001-01-01", 4, "must be made of numbers, texts"),
        ("[0, 3]", "[3, 3.0]", 4, "stands there twice"),
        ("batch_size: 4", "batch_size: 4000", 9, "4000 is more than the 128 training windows"),
        (
            "protocol: {name: disjoint, input_frames: 1, test_steps: 10}",
            "protocol: nonsense",
            2,
            "protocol.name: unknown name 'nonsense' (valid: disjoint, icml2022)",
        ),
    ],
)
def test_mistakes_are_named_with_line_and_key(load: Load, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(GOOD.replace(old, new, 1))
    assert f"tiny.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_level_has_one_identity_however_it_is_written(load: Load) -> None:
    cells = load(GOOD).cells
    assert [cell.id for cell in load(GOOD.replace("[0, 3]", "[0.0, 3.0]")).cells] == [c.id for c in cells]


def test_minus_zero_is_zero(load: Load) -> None:
    train = "train: {weight_decay: "
    one, other = (load(GOOD.replace("train: {", f"{train}{zero}, ")).cells for zero in ("0", "-0.0"))
    assert [cell.id for cell in one] == [cell.id for cell in other]
    assert "-0.0" not in other[0].model_dump_json()


def test_seeds_may_be_counted(load: Load) -> None:
    assert load(GOOD.replace("[0, 1, 2]", "{count: 3}")) == load(GOOD)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the baseline `mine` in a file of its own, which no command has named."""
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "mine.py").write_text(Path(convnet.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def test_a_suite_names_its_plugins(load: Load, plugins: Path, tmp_path: Path) -> None:
    text = f"{GOOD.replace('convnet', 'mine')}plugins: ['my models/mine.py']  # beside\n"
    suite = load(text)
    assert suite.plugins == discovery.plugin_paths() == (plugins / "mine.py",)
    assert load(text) == suite
    elsewhere = tmp_path / "elsewhere" / "suite.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(suites.copied(suite, [str(path) for path in suite.plugins]), encoding="utf-8")
    assert "# beside" in elsewhere.read_text()
    assert suites.load(str(elsewhere)).cells == suite.cells


def test_a_forgotten_plugin_is_named(load: Load, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("convnet", "mine")
    with pytest.raises(UserError, match=r"needs its file: `--plugin FILE`$"):
        load(text)
    monkeypatch.chdir(plugins)
    with pytest.raises(
        UserError, match=r"7: .*unknown model 'mine'; mine.py was not given: add `--plugin mine.py`, or"
    ):
        load(text)
    (plugins / "mine.py").rename(plugins.parent / "mine.py")
    with pytest.raises(UserError, match=r"add `--plugin .*/mine.py`, or `plugins: \[mine.py\]` in the suite"):
        load(text)


def test_resources_of_a_model_replace_keys_of_the_suite_and_change_no_cell(load: Load) -> None:
    plain = load(GOOD)
    loaded = load(GOOD.replace("[4, 8]}", "[4, 8], resources: {gpus: 1, minutes: 120}}\n  - mlp"))
    assert {cell.id for cell in plain.cells} == {cell.id for cell in loaded.cells if cell.model.name != "mlp"}
    resources = {cell.model.name: loaded.resources_of(cell) for cell in loaded.cells}
    shared = Resources(ranks=2)
    assert resources == {"persistence": shared, "convnet": Resources(ranks=2, gpus=1, minutes=120), "mlp": shared}
    assert str(resources["convnet"]) == "1 GPU, 120 min"
    assert [len(part.cells) for part in loaded.by_resources().values()] == [2 + 6, 12]


def test_sections_may_be_empty_and_protocols_an_axis(load: Load) -> None:
    loaded = load(GOOD.replace("seeds: [0, 1, 2]", "seeds: [0]").replace("resources: {ranks: 2}", "resources:"))
    assert loaded.resources.ranks == 1
    assert {cell.seed for cell in loaded.cells} == {0}
    both = GOOD.replace("name: disjoint, input_frames: 1", "name: [disjoint, icml2022], input_frames: 1")
    assert {cell.protocol.name for cell in load(both).cells} == {"disjoint", "icml2022"}


def test_an_untrained_baseline_is_one_cell_however_the_others_are_trained(load: Load) -> None:
    loaded = load(GOOD.replace("epochs: 2", "epochs: [2, 3]")).only("model=persistence")
    assert len(loaded.cells) == 2  # one for each level


def test_control_characters_are_refused(load: Load) -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        load(GOOD + "\x01")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0, 1, 2]", f"[{BOMB}]", "has more than 100,000 values, those of its aliases included"),
        ("epochs: 2", f"epochs: [{BOMB}]", "has more than 100,000 values, those of its aliases included"),
        ("seeds: [0, 1, 2]", f"seeds: [0]  # {'.' * 2**20}", "characters, and at most 1,000,000 are read"),
        (
            "seeds: [0, 1, 2]\ntrain: {epochs: 2",
            "seeds: {count: 10000}\ntrain: {epochs: [2, 3]",
            "has 120,000 cells, and a suite has at most 100,000",
        ),
        (
            "epochs: 2, batch_size: 4",
            "epochs: &a [1, 2, 3, 4, 5, 6, 7, 8, 9], batch_size: *a, early_stop_after: *a, rollout_steps: *a,"
            " gradient_clip: *a, weight_decay: *a",
            "train: its lists make 531,441 combinations; a suite has at most 100,000 cells",
        ),
        ("{hidden: [4, 8]}", "{? [1, {b: 2}] : 3}", "not valid YAML: a key is a mapping, and must be a name"),
        ("- persistence", f"- {'p' * 300}", "models.0: a word of 300 characters; no name has more than 200"),
        ("- persistence", f"- remul: {{network: {'p' * 300}}}", "models.0: a word of 300 characters"),
        ("seeds: [0, 1, 2]", f"plugins: [{'p' * 300}.py]", "plugins.0: 'ppp"),
        ("seeds: [0, 1, 2]", 'plugins: ["\\0.py"]', "plugins.0: "),
        ("seeds: [0, 1, 2]", "plugins: [~nobody-at-all/a.py]", "plugins.0: "),
    ],
    ids=["seeds", "epochs", "text", "cells", "axes", "key", "name", "network", "path", "null", "home"],
)
def test_a_file_is_bounded(load: Load, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(GOOD.replace(old, new))
    assert message in str(caught.value)


def test_a_pipe_is_no_suite(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="is not a file"):
        suites.load(str(tmp_path / "pipe.yaml"))


def test_all_mistakes_are_told_at_once(load: Load) -> None:
    with pytest.raises(UserError) as caught:
        load(GOOD.replace("hidden", "hiden").replace("preset: small", "preset: smal"))
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        suites.load("quikstart")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        suites.load(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        suites.load(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize("name", suites.available())
def test_shipped_suites_load(name: str) -> None:
    assert suites.load(name).cells
