"""Writes `benchmark/suite/remembered.json`: `python -m benchmark.planning.remember`, or `make remembered`.

It holds every answer that `list`, and `status` and `plan` of the suites that come with symbench, ask for.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmark import discovery
from benchmark.data import dataset_registry
from benchmark.files import write_text
from benchmark.models import model_registry
from benchmark.suite import facts, loading, remembered


def ask() -> None:
    """Ask all questions that those commands ask."""
    for name in model_registry.model_names():
        facts.model_facts(name)
        facts.parameters(facts.configured(name, {}), facts.STANDARD[facts.model_facts(name).kinds[0]])
    for name in dataset_registry.dataset_names():
        facts.dataset_facts(name)
        facts.runs(name)
    for name in loading.available():
        for cell in loading.load(name).cells:
            facts.work(cell.model, facts.task_of(cell.dataset, cell.protocol))
            facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)


def main() -> None:
    """Compute all answers anew, and write them by the names of the files that they are about."""
    shipped = remembered.SHIPPED  # stays until the new one is complete
    with tempfile.TemporaryDirectory() as empty:
        remembered.SHIPPED, os.environ["XDG_CACHE_HOME"] = Path(empty, "none.json"), empty
        ask()
        remembered.save()
    files = [
        *(model_registry.MODELS_FOLDER / f"{name}.py" for name in model_registry.model_names()),
        *(discovery.DATASETS.folder / f"{name}.py" for name in dataset_registry.dataset_names()),
    ]
    document: dict[str, Any] = {}
    for file in files:
        digest = remembered.code_digest(file)
        document[file.stem] = {"digest": digest, "answers": remembered.known[digest]}
    write_text(shipped, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
