"""Folder of a dataset that is ready for an archive with a DOI: data, card, metadata, checksums, licence, citation."""

import datetime
import io
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED
from benchmark.data.show.croissant import FILE, croissant, sha256_of
from benchmark.errors import UserError
from benchmark.files import write_errors

LICENCES = {
    "CC0-1.0": ("Creative Commons Zero 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
    "CC-BY-4.0": ("Creative Commons Attribution 4.0", "https://creativecommons.org/licenses/by/4.0/legalcode"),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    ),
}
"""Licences by SPDX identifier: name, and address of the text."""
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Terms:
    """Decisions of who publishes. UserError: a version or DOI that is none."""

    licence: str
    creators: tuple[str, ...]
    version: str
    doi: str
    date: datetime.date

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UserError(f"--version {self.version}: must be three numbers, as 1.0.0")
        if self.doi and not re.fullmatch(r"10\.\d{4,9}/[\w.();:/-]+", self.doi, flags=re.ASCII):
            raise UserError(f"--doi {self.doi}: must be a DOI without an address, as 10.5281/zenodo.1234567")
        if not all(creator.strip() and creator.isprintable() for creator in self.creators):
            raise UserError("--creator: must be a name, as 'Family, Given'")


def package(
    source: Path, target: Path, dataset_name: str, preset: str, descriptions: Sequence[Mapping[str, Any]], terms: Terms
) -> Path:
    """Write the folder `target/DATASET-PRESET-VERSION` from the data and the card in `source`; return it.

    It is complete or absent. UserError: it exists, or others published the files, so that nobody here can license them.
    """
    dataset = dataset_registry.dataset(dataset_name)
    if preset == IMPORTED:
        raise UserError(
            f"{dataset_name} (imported): others published these files, and symbench cannot license them; "
            f"{dataset.published_files.where if dataset.published_files else 'ask their authors'}"
        )
    folder = target / f"{dataset_name}-{preset}-{terms.version}"
    if folder.exists():
        raise UserError(f"{folder}: exists; give another --version, or --into another folder")
    with write_errors(folder):
        target.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=target))
        try:
            building.chmod(0o755)
            for name in ("README.md", *(str(description["file"]) for description in descriptions)):
                shutil.copyfile(source / name, building / name)
            if (source / "pictures").is_dir():
                shutil.copytree(source / "pictures", building / "pictures")
            title = f"{dataset_name} ({preset}): dynamics with a measured breaking of their symmetry"
            metadata = croissant(dataset_name, preset, descriptions, building, _published(title, terms))
            texts = {
                FILE: json.dumps(metadata, indent=1) + "\n",
                "LICENSE": _licence(title, terms),
                "CITATION.cff": _citation(title, f"Level: {dataset.level_meaning}. Source: {dataset.source}.", terms),
            }
            for name, text in texts.items():
                (building / name).write_text(text, encoding="utf-8")
            files = sorted(path for path in building.rglob("*") if path.is_file())
            lines = [f"{sha256_of(path)}  {path.relative_to(building).as_posix()}\n" for path in files]
            (building / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _published(title: str, terms: Terms) -> dict[str, Any]:
    """Properties of the metadata that only a publication has."""
    place = [f"doi = {{{terms.doi}}}"] if terms.doi else []
    entries = [
        f"title = {{{{{title}}}}}",
        f"author = {{{' and '.join(terms.creators)}}}",
        f"year = {{{terms.date.year}}}",
    ]
    return {
        "license": LICENCES[terms.licence][1],
        "creator": [{"@type": "sc:Person", "name": creator} for creator in terms.creators],
        "datePublished": terms.date.isoformat(),
        "version": terms.version,
        "citeAs": f"@misc{{data, {', '.join([*entries, *place])}}}",
        **({"url": f"https://doi.org/{terms.doi}"} if terms.doi else {}),
    }


def _licence(title: str, terms: Terms) -> str:
    name, address = LICENCES[terms.licence]
    return (
        f"{title}\nCopyright (c) {terms.date.year} {'; '.join(terms.creators)}\n\n"
        f"This data is licensed under {name} ({terms.licence}).\nThe text of the licence: {address}\n"
    )


def _citation(title: str, abstract: str, terms: Terms) -> str:
    """Text of CITATION.cff (format 1.2.0)."""
    document = {
        "cff-version": "1.2.0",
        "message": "If you use this data, please cite it.",
        "type": "dataset",
        "title": title,
        "abstract": abstract,
        "authors": [_author(creator) for creator in terms.creators],
        "version": terms.version,
        "date-released": terms.date,
        "license": terms.licence,
        **({"doi": terms.doi} if terms.doi else {}),
    }
    yaml, text = YAML(typ="rt"), io.StringIO()
    yaml.width = 10_000
    yaml.dump(document, text)
    return text.getvalue()


def _author(creator: str) -> dict[str, str]:
    family, comma, given = (part.strip() for part in creator.partition(","))
    return {"family-names": family, "given-names": given} if comma else {"name": creator}
