"""Helpers of several folders: calls of the command line, small stores and suites, faults."""

import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmark import discovery
from benchmark.cell import Cell, Level
from benchmark.cli import main as cli
from benchmark.data import dataset_registry
from benchmark.data.dataset import Dataset, EquivarianceError, Preset, Simulation
from benchmark.data.layout import write
from benchmark.data.paths import data_path
from benchmark.files import write_json
from benchmark.suite import loading as suites
from results.store.record import FINISHED, PARTS, Record
from results.store.store import Store

SYMBENCH = Path(sys.executable).with_name("symbench")

DATASET, PRESET = "smoke_rotation_levels", "tiny"
SUITE = """\
name: tiny
protocol: {{name: disjoint, input_frames: 1, train_steps: 2, test_steps: 4}}
datasets:
  - smoke_rotation_levels: {{level: 0, preset: tiny}}
models: {models}
seeds: {seeds}
train: {{epochs: {epochs}, batch_size: 8, learning_rate: 1e-3}}
resources: {{ranks: {ranks}}}
"""


def symbench(*arguments: object, store: Store | None) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: a process of its own spends two seconds on the import of torch.

    Cells run one after another unless the test says otherwise, because each lane imports torch. Jobs and their ranks
    are processes.
    """
    where = [] if store is None else ["--store", os.path.relpath(store.root)]
    command = [str(SYMBENCH), *map(str, arguments), *where]
    if arguments[0] == "run" and not {"--parallel", "--on"} & set(arguments):
        command += ["--parallel", "1"]
    return call(command)


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Call the console script; it raises exceptions that it would show as a traceback."""
    plugins, handler = discovery.plugin_paths(), signal.getsignal(signal.SIGTERM)
    status, out, err = 0, StringIO(), StringIO()
    with patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries of MLflow warn, and pytest turns warnings into errors
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
            discovery.replace_plugins(plugins)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def start(*arguments: object, store: Store) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, as a shell does."""
    command = [str(SYMBENCH), *map(str, arguments), "--store", os.path.relpath(store.root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def records(path: Path, store: Store) -> list[Record]:
    """Records of the cells of a suite that have started."""
    started, broken = store.read(suites.load(str(path)).cells)
    assert not broken
    return list(started.values())


def rewrite(store: Store, cell: Cell, /, **parts: object) -> None:
    """Replace parts of the record of a finished cell, as `environment={"torch": "2.6"}`."""
    path = store.cell_folder(cell.id) / FINISHED
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | parts)


def in_old_layout(store: Store, cell: Cell) -> Path:
    """Folder of a finished cell, with a file for each part of the record as earlier versions left them."""
    folder = store.cell_folder(cell.id)
    record = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    for part in PARTS:
        write_json(folder / f"{part}.json", record[part])
    (folder / FINISHED).unlink()
    return folder


def store_in(folder: Path, preset: str = PRESET) -> Store:
    """Store with a decaying field of the size of the preset; always the same bytes."""
    size = dataset_registry.dataset(DATASET).presets[preset]
    start = np.random.default_rng(0).standard_normal((8, 1, 2, size.height, size.width), dtype=np.float32)
    decay = np.float32(0.97) ** np.arange(size.frames, dtype=np.float32)[None, :, None, None, None]
    simulation = Simulation(
        field=start * decay,
        grid="staggered",
        divergence_free=False,
        spacing=8.0,
        time_step=1.0,
        parameters={},
        run_parameters=[{} for _ in range(8)],
        equivariance_errors=[EquivarianceError("rot90", 0.5, 0.25)],
    )
    store = Store(folder)
    store.make()
    write(data_path(store.data_folder, DATASET, preset, 0), DATASET, preset, 0, simulation)
    return store


def suite_in(
    folder: Path, models: str = "[{convnet: {hidden: 4}}]", seeds: str = "[0]", epochs: int = 3, ranks: int = 1
) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(SUITE.format(models=models, seeds=seeds, epochs=epochs, ranks=ranks), encoding="utf-8")
    return path


def tiny(name: str, preset: Preset) -> Dataset:
    """The dataset with `preset` as its only preset, "tiny"."""
    original = type(dataset_registry.dataset(name))
    return type(original.__name__, (original,), {"presets": {"tiny": preset}})()


def simulate(dataset: Dataset, level: Level, preset: str) -> Simulation:
    """One level in this process, without a file."""
    fields = [part.simulate() for part in dataset.parts(level, preset)]
    return dataset.assemble(level, preset, fields)


@contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses files above 2000 bytes; nothing else may be written meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
