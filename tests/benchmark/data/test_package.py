"""Croissant metadata of a dataset, and its package for an archive."""

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from swirls import Swirls, write_swirls

from benchmark.data import dataset_registry, layout
from benchmark.data.dataset import IMPORTED
from benchmark.data.show import info
from benchmark.data.show.croissant import croissant
from benchmark.data.show.package import Terms, package
from benchmark.errors import UserError

TERMS = Terms("CC-BY-4.0", ("Curie, Marie", "The {lab}: #1"), "1.2.0", "10.5281/zenodo.123", datetime.date(2026, 12, 1))
HOSTILE = '"}], <script>alert(1)</script> \\ \n# end'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_swirls`, with the swirls as the only dataset."""
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Swirls())
    return partial(write_swirls, tmp_path)


def described(write: Callable[..., Path], **changes: Any) -> tuple[Path, list[Any]]:
    """Folder of two levels, with a card and a picture, and their descriptions."""
    paths = [write(level=level, **changes) for level in (0, "paper")]
    folder = paths[0].parent
    (folder / "README.md").write_text("A card", encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "level_0.png").write_bytes(b"picture")
    return folder, [info.describe(layout.read(path), Swirls()) for path in paths]


VALIDATE = """
import json, sys, mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
issues, metadata = dataset.metadata.ctx.issues, dataset.metadata
as_text = lambda value: value.decode() if isinstance(value, bytes) else value
print(json.dumps({
    "warnings": sorted(issues.warnings),
    "records": [{key: as_text(value) for key, value in record.items()} for record in dataset.records("levels")],
    "files": {file.name: file.sha256 for file in metadata.file_objects},
    "license": [str(licence) for licence in metadata.license or ()],
    "description": metadata.description,
}))
"""


def validated(path: Path) -> dict[str, Any]:
    """The metadata as mlcroissant reads it, and its warnings; an error fails. It replaces the handlers of logging, so
    that it has a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", VALIDATE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_validator_accepts_the_metadata_of_a_card(write: Callable[..., Path]) -> None:
    """Licence, citation, date and version are missing, which a publication decides. Levels are records."""
    folder, descriptions = described(write)
    path = folder / "croissant.json"
    path.write_text(json.dumps(croissant("swirls", "tiny", descriptions, folder)), encoding="utf-8")
    answer = validated(path)
    missing = [warning.split('"')[1].rpartition("/")[2] for warning in answer["warnings"]]
    assert sorted(missing) == ["citeAs", "datePublished", "license", "version"]
    records = answer["records"]
    assert [record["levels/level"] for record in records] == ["0", "paper"]
    assert [record["levels/mean_absolute_error"] for record in records] == [0.5, 0.5]
    assert "how much the wall moves" in answer["description"]
    files = answer["files"]
    assert set(files) == {description["file"] for description in descriptions}
    for name, digest in files.items():
        listed = subprocess.run(["sha256sum", str(folder / name)], capture_output=True, text=True, check=True).stdout
        assert listed.split()[0] == digest


def test_errors_that_were_not_measured_are_no_column(write: Callable[..., Path], tmp_path: Path) -> None:
    folder, descriptions = described(write, equivariance_errors=[])
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(croissant("swirls", "tiny", descriptions, folder)), encoding="utf-8")
    first, _ = validated(path)["records"]
    assert set(first) == {f"levels/{key}" for key in ("level", "level_value", "file", "runs", "frames")}


def test_a_package_is_complete_and_its_parts_agree(write: Callable[..., Path], tmp_path: Path) -> None:
    folder, descriptions = described(write)
    target = package(folder, tmp_path / "archive", "swirls", "tiny", descriptions, TERMS)
    assert target == tmp_path / "archive" / "swirls-tiny-1.2.0"
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == {
        *("README.md", "croissant.json", "LICENSE", "CITATION.cff", "SHA256SUMS", "pictures/level_0.png"),
        *(description["file"] for description in descriptions),
    }
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=target, capture_output=True)
    assert checked.returncode == 0
    answer = validated(target / "croissant.json")
    assert answer["warnings"] == []
    assert answer["license"] == ["https://creativecommons.org/licenses/by/4.0/legalcode"]
    citation = YAML(typ="safe").load((target / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [{"family-names": "Curie", "given-names": "Marie"}, {"name": "The {lab}: #1"}]
    assert (citation["license"], citation["doi"], citation["type"]) == ("CC-BY-4.0", TERMS.doi, "dataset")
    assert citation["title"] == "swirls (tiny): dynamics with a measured breaking of their symmetry"
    assert citation["abstract"].startswith("Level: ")
    assert "Copyright (c) 2026 Curie, Marie; The {lab}: #1" in (target / "LICENSE").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="exists; give another --version"):
        package(folder, tmp_path / "archive", "swirls", "tiny", descriptions, TERMS)


def test_a_package_that_fails_leaves_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    folder, descriptions = described(write)
    (folder / "README.md").unlink()
    with pytest.raises(Exception, match="cannot be written"):
        package(folder, tmp_path / "archive", "swirls", "tiny", descriptions, TERMS)
    assert list((tmp_path / "archive").iterdir()) == []


def test_files_of_others_are_not_licensed(write: Callable[..., Path], tmp_path: Path) -> None:
    folder, descriptions = described(write, preset=IMPORTED)
    with pytest.raises(UserError, match="others published these files, and symbench cannot license them; "):
        package(folder, tmp_path / "archive", "swirls", IMPORTED, descriptions, TERMS)
    assert "Imported from published files" in croissant("swirls", IMPORTED, descriptions, folder)["description"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "1"}, "--version 1: must be three numbers, as 1.0.0"),
        ({"doi": "https://doi.org/10.5281/zenodo.1"}, "must be a DOI without an address, as 10.5281/zenodo.1234567"),
        ({"creators": (" ",)}, "--creator: must be a name"),
        ({"creators": (HOSTILE,)}, "--creator: must be a name"),
    ],
)
def test_terms_that_are_none_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Terms(**{**vars(TERMS), **change})
