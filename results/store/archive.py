"""Archive of a suite: its finished records in one tar.xz, without roll-outs and checkpoints. `merge` reads it."""

import io
import lzma
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.files import replacing
from results.store.cell_recorder import CHECKPOINT, RECORD_FILES
from results.store.record import Broken
from results.store.store import Store

SUFFIX = ".tar.xz"
FILES = tuple(name for name in RECORD_FILES if name not in ("predictions.h5", CHECKPOINT))
_MEMBER = re.compile(rf"cells/[0-9a-f]{{16}}/({'|'.join(map(re.escape, FILES))})")


def write(store: Store, cells: Sequence[Cell], path: Path) -> tuple[int, list[Broken]]:
    """Write the finished records of `cells`; their number, and the folders that cannot be read.

    Equal records give equal files. UserError: no cell is finished.
    """
    records, broken = store.read(cells, history=False)
    finished = {key: record for key, record in sorted(records.items()) if record.status.is_result}
    if not finished:
        raise UserError(f"store {store.root}: no cell of the suite is finished; there is nothing to archive")
    with replacing(path) as temporary, tarfile.open(temporary, "w:xz") as archive:
        for key, record in finished.items():
            for name in FILES:
                if (source := record.folder / name).is_file():
                    content = source.read_bytes()
                    member = tarfile.TarInfo(f"cells/{key}/{name}")
                    member.size, member.mtime = len(content), int(record.status.heartbeat)
                    archive.addfile(member, io.BytesIO(content))
    return len(finished), broken


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    """Store of the records in an archive, as long as the block lasts. UserError: it is no archive of records."""
    with tempfile.TemporaryDirectory(prefix="symbench-") as folder:
        root = Path(folder, path.name)
        try:
            with tarfile.open(path, "r:xz") as archive:
                members = [one for one in archive.getmembers() if one.isfile() and _MEMBER.fullmatch(one.name)]
                archive.extractall(root, members, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
            raise UserError(f"{path}: not an archive of records: {error}") from error
        yield Store(root)
