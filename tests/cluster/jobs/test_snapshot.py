"""Copies of the code in a store: what a job imports from one, whatever happens to the files afterwards."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import discovery
from benchmark.cell import ModelChoice
from benchmark.discovery import ROOT
from benchmark.errors import MachineError, UserError
from benchmark.models import convnet
from benchmark.models.model_digest import model_digest
from benchmark.training import environment
from cluster.jobs import snapshot
from cluster.jobs.job import job_folder
from cluster.site import Site
from results.store.store import Store

DESCRIBE = """
import json, sys
from pathlib import Path
from benchmark.cell import ModelChoice
from benchmark.discovery import ROOT
from benchmark.models import model_registry
from benchmark import discovery
from benchmark.models.model_digest import model_digest
from benchmark.training import environment
from cluster.jobs import snapshot
from cluster.jobs.job import job_folder
snapshot.require(Path(sys.argv[1]))
discovery.add_plugin(Path(sys.argv[2]))
digests = [model_digest(ModelChoice(name=name, version=1, config={})) for name in ("e2cnn", "mine")]
print(json.dumps([str(ROOT), digests, environment.git_state(Path(environment.__file__).parent)]))
"""
CHOICES = [ModelChoice(name=name, version=1, config={}) for name in ("e2cnn", "mine")]
SITE = Site(scheduler="slurm")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plug-in that imports a module beside it."""
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    path = tmp_path / "mine.py"
    path.write_text("import helper\n" + Path(convnet.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    path.with_name("helper.py").write_text("", encoding="utf-8")
    path.with_name("unused.py").write_text("", encoding="utf-8")
    discovery.add_plugin(path)
    return path


def test_a_job_imports_the_copy_with_the_provenance_of_the_checkout(store: Store, plugin: Path, tmp_path: Path) -> None:
    """The folder in which the job was sent has other code, and the plug-in is edited meanwhile."""
    code = snapshot.take(store.root)
    assert code == snapshot.planned(store.root) == snapshot.take(store.root)
    assert {path.name for path in (code / "plugins" / "mine").iterdir()} == {"mine.py", "helper.py"}
    digests = [model_digest(choice) for choice in CHOICES]
    plugin.write_text("raise ValueError", encoding="utf-8")
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "__init__.py").write_text("raise ValueError", encoding="utf-8")
    script = "\n".join([*snapshot.with_code(SITE, code).setup, '"$@"'])
    command = [sys.executable, "-m", "describe", str(code), str(snapshot.plugin_in(code, plugin))]
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "describe.py").write_text(DESCRIBE, encoding="utf-8")
    answer = subprocess.run(
        ["bash", "-c", script, "bash", *command],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    state = environment.git_state(Path(environment.__file__).parent)
    assert json.loads(answer.stdout) == [str(code / "checkout"), digests, state]
    assert snapshot.take(store.root) != code


def test_a_process_with_other_code_than_its_job_names(store: Store) -> None:
    snapshot.require(None)
    with pytest.raises(MachineError, match=f"imports the code in {ROOT}, not its snapshot .*--live-code"):
        snapshot.require(snapshot.take(store.root))


def test_a_path_that_pythonpath_would_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a path with : in it"):
        snapshot.take(tmp_path / "a:b")


def test_two_processes_that_copy_at_the_same_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finds the folder of the first."""
    rename = Path.rename

    def later(temporary: Path, folder: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assert snapshot.take(store.root) == folder
        return rename(temporary, folder)

    monkeypatch.setattr(Path, "rename", later)
    code = snapshot.take(store.root)
    assert list((store.root / snapshot.FOLDER).iterdir()) == [code]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_what_another_user_has_put_in_place_is_not_run(store: Store) -> None:
    """In a store that a group may write: neither a folder of a job nor a snapshot."""
    before = os.umask(0o002)
    try:
        job, code = job_folder(store.root), snapshot.take(store.root)
    finally:
        os.umask(before)
    for folder in (job, code):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "nobody else changes what is in it"
        assert folder.parent.stat().st_mode & stat.S_ISVTX, "nobody else renames it"
        command = ["bash", "-c", f"{snapshot.require_own(folder)}; echo it runs"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "it runs\n"
        os.chown(folder, 65534, -1)
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert refused.stdout == f"symbench: {folder} belongs to another user, so the job does not run it\n"
    with pytest.raises(MachineError, match="another user has made it"):
        snapshot.take(store.root)
