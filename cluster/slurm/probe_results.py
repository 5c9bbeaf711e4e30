"""Results of probes: training steps of each kind of cell, timed on the resources that the cells will have.

`STORE/step_timings/<key>.json` holds one result. The key covers the kind of cell, the ranks, and the machine or the
settings of the site that decide the speed, so that a result is used for no other model, size of data or machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.files import write_json
from benchmark.planning.step_timing import StepTiming, kind
from benchmark.training.machine import available_cpus
from cluster.jobs.capacity import threads_of
from cluster.jobs.packing import Shape
from cluster.site import Site
from cluster.slurm import commands as slurm
from results.store.store import Store

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ProbeResults:
    """Probe results of one machine or site, for cells with one shape."""

    folder: Path
    where: Mapping[str, Any]
    shape: Shape

    @classmethod
    def here(cls, store: Store, shape: Shape) -> ProbeResults:
        """Results of this machine."""
        device = platform.machine()
        if shape.device == "cuda":
            import torch  # takes seconds

            device = torch.cuda.get_device_name(0)
        where = {"host": socket.gethostname(), "device": device, "cpus": available_cpus(), "threads": threads_of(shape)}
        return cls(store.root / "step_timings", where, shape)

    @classmethod
    def on_site(cls, store: Store, site: Site, shape: Shape) -> ProbeResults:
        """Results of the nodes of `site`."""
        keys = {"constraint", "gres", "gpus_per_node", "cpus", "setup", "python", "srun"}
        where = {"cluster": slurm.settings().get("ClusterName", ""), "partition": site.partition_of(shape.device)}
        where |= site.model_dump(mode="json", include=keys)
        return cls(store.root / "step_timings", where, shape)

    def read(self, cell: Cell) -> StepTiming | None:
        """Result for the kind of `cell`; None if there is none or it is unreadable."""
        try:
            document = json.loads(self.path(cell).read_text(encoding="utf-8"))
            return StepTiming(**document["step_timing"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, cell: Cell, timing: StepTiming) -> None:
        """Write the result for the kind of `cell`."""
        write_json(self.path(cell), {**self._document(cell), "step_timing": asdict(timing), "time": time.time()})

    def path(self, cell: Cell) -> Path:
        """File of the result, named by 16 hex digits; equal for cells of equal speed."""
        canonical = json.dumps(self._document(cell), sort_keys=True, separators=(",", ":"))
        return self.folder / f"{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.json"

    def unmeasured(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell of each kind that has no result yet."""
        return list({self.path(cell): cell for cell in reversed(cells) if self.read(cell) is None}.values())[::-1]

    def _document(self, cell: Cell) -> dict[str, Any]:
        return {"schema": SCHEMA_VERSION, "where": dict(self.where), "shape": self.shape.processes, "kind": kind(cell)}
