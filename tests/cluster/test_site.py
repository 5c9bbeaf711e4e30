"""Site files and their error messages."""

from pathlib import Path

import pytest

from benchmark.errors import MachineError, UserError
from cluster import site
from cluster.site import Site
from cluster.slurm import simulate


def write(folder: Path, text: str) -> str:
    path = folder / "site.yaml"
    path.write_text(text)
    return str(path)


def test_the_included_sites_load() -> None:
    assert site.available()
    for name in site.available():
        assert site.load(name).scheduler == "slurm"


def test_defaults_and_setup_lines(tmp_path: Path) -> None:
    loaded = site.load(write(tmp_path, "{scheduler: slurm, setup: [module load python, export A=1]}"))
    assert loaded == Site(scheduler="slurm", setup=("module load python", "export A=1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{scheduler: slurm, partitoin: main}", "unknown key 'partitoin'; did you mean 'partition'"),
        ("{scheduler: slrum}", "scheduler: unknown scheduler 'slrum'; did you mean 'slurm'?"),
        ("{partition: main}", "scheduler: Field required"),
        ("{scheduler: slurm, minutes: soon}", "minutes: Input should be a valid integer"),
        ("{scheduler: slurm, partition: 'main; rm -rf ~'}", "partition: String should match pattern"),
        ("{scheduler: slurm, setup: echo}", "setup: "),
        ("- a list", "a site is a mapping"),
        ("{", "not valid YAML"),
    ],
)
def test_a_wrong_site_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        site.load(write(tmp_path, text))
    assert message in str(caught.value)
    assert "site.yaml" in str(caught.value)


def test_an_unknown_site() -> None:
    with pytest.raises(UserError, match="unknown site 'gpu-clutser'; did you mean 'gpu-cluster'"):
        site.load("gpu-clutser")


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"SLURM does not take the jobs: .*srun"):
        simulate._submit(Site(scheduler="slurm"), tmp_path, tmp_path / "shares.json", 1)
