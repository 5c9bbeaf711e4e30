"""Registration of datasets: a file that declares what the benchmark cannot work with is refused by name."""

from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.data import dataset_registry
from benchmark.data.prepare import outline
from benchmark.errors import UserError

GOOD = """
from benchmark.data.dataset import Dataset, ParticlePreset, Preset

class Made(Dataset):
    group, levels, level_meaning, source = "C4", (0,), "nothing", "this test"
    presets = {"tiny": Preset(8, 8, 24)}
    training_runs, unseen_runs, test_runs = (0,), (1,), "designed"
    def parts(self, level, preset): return []
    def assemble(self, level, preset, fields): raise AssertionError
"""


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.DATASETS, "plugins", {})


def register(folder: Path, text: str) -> str:
    """Name of a dataset with this code, which no other test has."""
    path = folder / f"made_{abs(hash(text))}.py"
    path.write_text(text, encoding="utf-8")
    return discovery.DATASETS.add(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            GOOD + '    presets = {"tiny": Preset(4, 4, 2), "ions": ParticlePreset(5, 40, 0.1)}\n',
            "Made has presets of 2 kinds of states, and needs those of one",
        ),
        (GOOD.replace("def parts", "def pieces"), "Made lacks parts"),
        (GOOD.replace(', "designed"', "").replace(", test_runs", ""), "Made lacks test_runs"),
        (GOOD + "import no_such_module\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "must define one subclass of Dataset, found 0"),
    ],
)
def test_a_broken_dataset_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    name = register(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        dataset_registry.dataset(name)
    assert str(refusal.value).startswith(f"{name} ({tmp_path / name}.py)")
    assert reason in str(refusal.value)


def test_a_level_without_simulations_is_refused(tmp_path: Path) -> None:
    name = register(tmp_path, GOOD)
    with pytest.raises(UserError, match=rf"{name} level 0 \(tiny\): parts\(\) of the dataset gives no simulation"):
        outline(name, "tiny", [0], tmp_path)
