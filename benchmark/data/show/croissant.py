"""Croissant metadata of a dataset: the JSON-LD that search engines and loaders of data sets read.

Format: Croissant 1.0, http://mlcommons.org/croissant/1.0.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED

Description = Mapping[str, Any]
FILE = "croissant.json"
TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in TERMS},
}
"""Context of the format, as its specification has it."""
COLUMNS = {
    "level": ("sc:Text", "setting of symmetry breaking"),
    "level_value": ("sc:Float", "the level as a number"),
    "file": ("sc:Text", "HDF5 file with the data set `field`"),
    "runs": ("sc:Integer", "runs in the file"),
    "frames": ("sc:Integer", "frames of each run"),
    "mean_absolute_error": ("sc:Float", "measured data equivariance error, in units of the field"),
}
"""Columns of the record set of the levels: type and meaning. Errors are there if all levels have one."""


def croissant(
    dataset_name: str,
    preset: str,
    descriptions: Sequence[Description],
    folder: Path,
    published: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Croissant metadata (JSON) of one dataset and preset, with the files of `descriptions` in `folder`.

    A description is the result of `info.describe`. `published` adds what only a publication has: licence, creators,
    date, version, citation. Without it these properties are absent, since nobody has decided them.
    """
    dataset = dataset_registry.dataset(dataset_name)
    first = descriptions[0]
    shape = ", ".join(f"{axis} {length}" for axis, length in zip(first["axes"], first["shape"], strict=True))
    published_by = dataset.published_files.where if dataset.published_files else dataset.terms.rstrip(".")
    origin = f"Imported from published files: {published_by}" if preset == IMPORTED else "Simulated by symbench"
    sentences = (
        inspect.getdoc(type(dataset)) or dataset_name,
        f"Level: {dataset.level_meaning}. Source: {dataset.source}. {origin}.",
        f"Each HDF5 file has the data set `field` ({shape}), float32: {first['contents']}.",
    )
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{dataset_name}-{preset}",
        "description": " ".join(" ".join(sentences).split()),
        "keywords": ["symmetry breaking", "equivariance", "dynamics", dataset.group],
        "isLiveDataset": False,
        **(published or {}),
        "distribution": [_file(folder / description["file"]) for description in descriptions],
        "recordSet": [_levels(descriptions)],
    }


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-hdf5",
        "sha256": sha256_of(path),
    }


def _levels(descriptions: Sequence[Description]) -> dict[str, Any]:
    """Record set with one record for each level, written out in the metadata."""
    known = [key for key in COLUMNS if all(description[key] is not None for description in descriptions)]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"levels/{key}",
            "name": key,
            "description": COLUMNS[key][1],
            "dataType": COLUMNS[key][0],
        }
        for key in known
    ]
    records = [
        {f"levels/{key}": str(d[key]) if COLUMNS[key][0] == "sc:Text" else d[key] for key in known}
        for d in descriptions
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "levels",
        "name": "levels",
        "description": "Levels of symmetry breaking, one file each.",
        "field": fields,
        "data": records,
    }
