"""Arrow files of RealPDEBench: a row is a run, whose `u` and `v` are bytes of float32, (shape_t, shape_h, shape_w).

Layout: realpdebench/utils/convert_hdf5_to_hf.py of AI4Science-WestlakeU/RealPDEBench. pyarrow comes with MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.importing.axes import listed
from benchmark.errors import MachineError, UserError

try:
    import pyarrow
except ImportError:
    pyarrow = None

SUFFIX = ".arrow"


@dataclass(frozen=True)
class Row:
    """Row of a table that lies on disk; nothing is read before it is asked for."""

    batch: Any
    number: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.batch.schema.names)

    def value(self, column: str) -> Any:
        """Value of a small column, or None if there is none."""
        return self.batch.column(column)[self.number].as_py() if column in self.columns else None

    def arrays(self, names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Arrays (time, row, column) of these columns. ValueError: the bytes are not as many as the shape says."""
        shape = tuple(int(self.value(f"shape_{axis}")) for axis in "thw")
        return [self.numbers(name, "<f4").reshape(shape) for name in names]

    def numbers(self, column: str, dtype: str) -> NDArray[Any]:
        """Numbers in the bytes of a column; empty if there is none."""
        if column not in self.columns:
            return np.empty(0, dtype)
        buffer = self.batch.column(column)[self.number].as_buffer()
        return np.empty(0, dtype) if buffer is None else np.frombuffer(buffer, dtype)


def rows(path: Path) -> list[Row]:
    """Rows of a file as `datasets` saves it, a stream of record batches.

    MachineError: pyarrow is not installed. UserError: the file has no complete runs of a velocity.
    """
    if pyarrow is None:
        raise MachineError(f"{path}: reading Arrow files needs pyarrow, which comes with MLflow: pip install pyarrow")
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
        columns = {column.name: column.type for column in stream.schema}
        are_bytes = all(columns.get(key) in (pyarrow.binary(), pyarrow.large_binary()) for key in "uv")
        if not are_bytes or not {"shape_t", "shape_h", "shape_w"} <= set(columns) or "time_id" in columns:
            raise UserError(
                f"{path}: has the columns {listed(columns)}; right are u and v as bytes, shape_t, shape_h and shape_w"
                " of complete runs, without time_id, as RealPDEBench has them for its flows"
            )
        return [Row(batch, number) for batch in stream for number in range(batch.num_rows)]
