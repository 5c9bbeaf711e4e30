"""Digest of a model's code: which files change it, and which do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.cell import ModelChoice
from benchmark.models import model_digest as digests
from benchmark.models.model_digest import model_digest
from benchmark.models.model_registry import MODELS_FOLDER

CONVNET, AUGMENTATION = ModelChoice(name="convnet", config={}), ModelChoice(name="augmentation", config={})
WRAPPED = ModelChoice(name="augmentation", config={"network": CONVNET.model_dump()})
LAYERS = MODELS_FOLDER / "layers"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget()
    yield
    forget()
    discovery.replace_plugins([])


def forget() -> None:
    """Forget files that were read: a process reads the code once."""
    discovery._source.cache_clear()
    digests._digest.cache_clear()


def digest_of(choice: ModelChoice) -> str | None:
    forget()
    return model_digest(choice)


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        (MODELS_FOLDER / "convnet.py", [CONVNET, WRAPPED]),
        (LAYERS / "convolutions.py", [CONVNET, WRAPPED]),
        (LAYERS / "wrapper.py", [AUGMENTATION, WRAPPED]),
        (MODELS_FOLDER / "e2cnn.py", []),
        (MODELS_FOLDER / "baseline.py", []),
        (discovery.ROOT / "benchmark" / "cell.py", []),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_a_model_depends_on_its_file_its_layers_and_its_networks(
    edited: Path, changed: list[ModelChoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [CONVNET, AUGMENTATION, WRAPPED]
    before = [model_digest(choice) for choice in choices]
    source = discovery._source
    digests._digest.cache_clear()
    monkeypatch.setattr(
        discovery, "_source", lambda file: ("edited", source(file)[1]) if file == edited else source(file)
    )
    after = [model_digest(choice) for choice in choices]
    monkeypatch.undo()
    assert None not in before
    assert [choice for one, other, choice in zip(before, after, choices, strict=True) if one != other] == changed


def test_a_plugin_depends_on_its_file_and_on_modules_beside_it_wherever_they_lie(tmp_path: Path) -> None:
    mine, digests_seen = ModelChoice(name="mine", config={}), []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plugin, helper = (tmp_path / folder / f"{name}.py" for name in ("mine", "helper"))
        plugin.write_text("import helper\nimport torch\nfrom benchmark.models.layers.norm import BatchNorm\n")
        helper.write_text("x = 1\n")
        discovery.replace_plugins([plugin])
        digests_seen.append(digest_of(mine))
    assert digests_seen[0] == digests_seen[1] is not None
    helper.write_text("x = 2\n")
    digests_seen.append(digest_of(mine))
    plugin.write_text(plugin.read_text() + "# edited\n")
    digests_seen.append(digest_of(mine))
    assert len(set(digests_seen)) == 3


def test_the_digest_of_an_unknown_model_is_unknown() -> None:
    assert model_digest(ModelChoice(name="unheard_of", config={})) is None
    assert model_digest(ModelChoice(name="augmentation", config={"network": {"name": "gone", "config": {}}})) is None
