"""Snapshot of the code in the store: jobs import it, so that files may be edited while jobs wait and run.

`STORE/code/<digest>/` has the packages of the checkout in `checkout`, and each other plug-in in `plugins/<name>`, with
the modules beside it that it imports. The code of installed packages is not copied.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmark import discovery
from benchmark.discovery import ROOT, imported_files, reachable
from benchmark.errors import MachineError, UserError
from benchmark.files import new_private_folder, write_errors
from benchmark.training import environment
from cluster.site import Site

FOLDER = "code"
"""Folder of the snapshots in a store."""
PACKAGES = ("benchmark", "cluster", "results", "symbench.py")
NOT_COPIED = ROOT / "results" / "published"
ENVIRONMENT = Path(environment.__file__).resolve()


def planned(store_root: Path) -> Path:
    """Folder of the snapshot of today's code, which need not exist."""
    return _folder(store_root, _contents())


def take(store_root: Path) -> Path:
    """Copy today's code unless the store has it, and return the folder.

    Raises UserError if the path cannot be part of PYTHONPATH, and MachineError if the store cannot be written, or if
    another user has made the folder, whose code would run as this one.
    """
    contents = _contents()
    folder = _folder(store_root, contents)
    with write_errors(folder):
        if folder.is_dir():
            if folder.stat().st_uid != os.geteuid():
                raise MachineError(f"{folder}: another user has made it; remove it")
            os.utime(folder)  # `prune` keeps what was used lately
            return folder
        temporary = new_private_folder(folder.parent, f".{folder.name}.")
        try:
            for place, content in contents.items():
                (temporary / place).parent.mkdir(parents=True, exist_ok=True)
                (temporary / place).write_bytes(content)
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process took it at the same time
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def plugin_in(code: Path | None, plugin: Path) -> Path:
    """Path of a plug-in in the snapshot `code`; unchanged if it lies there already, or without a snapshot."""
    if code is None or plugin.is_relative_to(code):
        return plugin
    return code / _place(plugin, plugin)


def plugins_in(code: Path | None) -> tuple[Path, ...]:
    """Paths in the snapshot `code` of the plug-ins of this process."""
    return tuple(plugin_in(code, plugin) for plugin in discovery.plugin_paths())


def with_code(site: Site, code: Path | None) -> Site:
    """Site whose jobs import the snapshot `code`, and nothing from the folder in which they were sent."""
    if code is None:
        return site
    first = shlex.quote(str(code / "checkout"))
    lines = ("export PYTHONSAFEPATH=1", f'export PYTHONPATH={first}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return site.model_copy(update={"setup": (*site.setup, require_own(code), *lines)})


def require_own(folder: Path) -> str:
    """Shell line that ends a job if `folder` is not its user's: in a shared store, somebody may have exchanged it."""
    path = shlex.quote(str(folder))
    return f"[ -O {path} ] || {{ echo symbench: {path} belongs to another user, so the job does not run it; exit 1; }}"


def require(code: Path | None) -> None:
    """Raise MachineError if this process has not imported the snapshot that its job names."""
    if code is not None and not ROOT.samefile(code / "checkout"):
        raise MachineError(
            f"the job imports the code in {ROOT}, not its snapshot {code}: `python` in the site file has to pass the "
            "variables PYTHONPATH and PYTHONSAFEPATH on; or send the jobs with --live-code"
        )


def _folder(store_root: Path, contents: Mapping[Path, bytes]) -> Path:
    digest = hashlib.sha256(f"user {os.geteuid()}\n".encode())  # each runs code that nobody else can change
    for place, content in sorted(contents.items()):
        digest.update(f"{place.as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    folder = store_root.resolve() / FOLDER / digest.hexdigest()[:16]
    if os.pathsep in str(folder):
        raise UserError(
            f"store {store_root}: a path with {os.pathsep} in it cannot be part of PYTHONPATH; --live-code needs none"
        )
    return folder


def _contents() -> dict[Path, bytes]:
    """Place in a snapshot -> content of each file, with the state of git, which a copy of the files does not have."""
    state = ENVIRONMENT.with_name(environment.STATE_FILE)
    contents = {_place(state, state): json.dumps(environment.git_state(ENVIRONMENT.parent)).encode()}
    for package in PACKAGES:
        for path in [ROOT / package, *(ROOT / package).rglob("*")]:
            if path.is_file() and path.suffix != ".pyc" and not path.is_relative_to(NOT_COPIED):
                contents[_place(path, path)] = path.read_bytes()
    for plugin in discovery.plugin_paths():
        for path in reachable(plugin, lambda file: [one for one in imported_files(file) if not _is_in_package(one)]):
            contents[_place(path, plugin)] = path.read_bytes()
    return contents


def _place(path: Path, plugin: Path) -> Path:
    """Place in a snapshot of a file of `plugin`; one in the checkout keeps its place, which is part of its digest."""
    if path.is_relative_to(ROOT):
        return "checkout" / path.relative_to(ROOT)
    return Path("plugins", plugin.stem, path.name)


def _is_in_package(path: Path) -> bool:
    return any(path.is_relative_to(ROOT / package) for package in PACKAGES)
