"""symbench in Python: suites, results as a DataFrame, comparisons, figures, and the classes that plug-ins are made of.

    import symbench

    frame = symbench.results("beta-plane")                    # a published board: one row a seed
    frame = symbench.results("my-suite.yaml", store="runs")   # a suite in a store
    symbench.figure("beta-plane").savefig("crossing.png")

Importing it takes milliseconds; a name is imported when it is first used, and torch with `train` and the classes alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.cell import Cell as Cell
    from benchmark.cell import Frozen as Frozen
    from benchmark.cell import PositiveInt as PositiveInt
    from benchmark.data.dataset import Dataset as Dataset
    from benchmark.data.dataset import Part as Part
    from benchmark.data.dataset import Preset as Preset
    from benchmark.data.dataset import Simulation as Simulation
    from benchmark.data.imported import ImportedDataset as ImportedDataset
    from benchmark.errors import SymbenchError as SymbenchError
    from benchmark.errors import UserError as UserError
    from benchmark.models.baseline import Baseline as Baseline
    from benchmark.models.baseline import Choice as Choice
    from benchmark.models.baseline import FramesAsChannels as FramesAsChannels
    from benchmark.models.baseline import LogUniform as LogUniform
    from benchmark.models.baseline import ParticleBaseline as ParticleBaseline
    from benchmark.models.baseline import SearchSpace as SearchSpace
    from benchmark.models.task import ParticleTask as ParticleTask
    from benchmark.models.task import Task as Task
    from benchmark.suite.loading import load as load_suite  # noqa: F401 - public under this name
    from benchmark.suite.suite import Suite as Suite
    from cluster.jobs.train import train as train
    from results.report.frames import compare as compare
    from results.report.frames import results as results
    from results.report.paper_figure import figure as figure

PLACES = {
    "load_suite": "benchmark.suite.loading:load",
    "results": "results.report.frames:results",
    "compare": "results.report.frames:compare",
    "figure": "results.report.paper_figure:figure",
    "train": "cluster.jobs.train:train",
    "Baseline": "benchmark.models.baseline:Baseline",
    "Cell": "benchmark.cell:Cell",
    "Choice": "benchmark.models.baseline:Choice",
    "Dataset": "benchmark.data.dataset:Dataset",
    "FramesAsChannels": "benchmark.models.baseline:FramesAsChannels",
    "Frozen": "benchmark.cell:Frozen",
    "ImportedDataset": "benchmark.data.imported:ImportedDataset",
    "LogUniform": "benchmark.models.baseline:LogUniform",
    "ParticleBaseline": "benchmark.models.baseline:ParticleBaseline",
    "ParticleTask": "benchmark.models.task:ParticleTask",
    "Part": "benchmark.data.dataset:Part",
    "PositiveInt": "benchmark.cell:PositiveInt",
    "Preset": "benchmark.data.dataset:Preset",
    "SearchSpace": "benchmark.models.baseline:SearchSpace",
    "Simulation": "benchmark.data.dataset:Simulation",
    "Suite": "benchmark.suite.suite:Suite",
    "SymbenchError": "benchmark.errors:SymbenchError",
    "Task": "benchmark.models.task:Task",
    "UserError": "benchmark.errors:UserError",
}
"""Public name -> module and name in it."""
__all__ = sorted(PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module 'symbench' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = PLACES[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return list(__all__)
