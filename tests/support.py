"""Calls the command line as a person does, with the store as a relative path."""

import os
import subprocess
import sys
from pathlib import Path

from results.store import Store

SYMBENCH = Path(sys.executable).with_name("symbench")


def symbench(*arguments: object, store: Store | None) -> subprocess.CompletedProcess[str]:
    where = [] if store is None else ["--store", os.path.relpath(store.root)]
    command = [str(SYMBENCH), *map(str, arguments), *where]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def start(*arguments: object, store: Store) -> subprocess.Popen[bytes]:
    """In a process group of its own, as a shell starts it."""
    command = [str(SYMBENCH), *map(str, arguments), "--store", os.path.relpath(store.root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
