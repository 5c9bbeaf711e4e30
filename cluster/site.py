"""Site files: how jobs are sent to one cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from benchmark.cell import Frozen, PositiveFloat, PositiveInt
from benchmark.errors import UserError, unknown_name
from benchmark.suite.yaml_file import YamlFile, plain

SITES_FOLDER = Path(__file__).parent / "sites"
Word = Annotated[str, Field(pattern=r"^[\w.,:&|\[\]()*+-]+$")]
"""A name, or an expression of names, in SLURM's syntax; without characters that are special in a shell."""


class Site(Frozen):
    """One SLURM cluster; docs/clusters.md describes the keys.

    `setup` and `python` are shell code of the user; no other value reaches a shell.
    """

    scheduler: Literal["slurm"]
    partition: Word | None = None
    cpu_partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    minutes: PositiveInt = 60
    signal_seconds: PositiveInt = 120
    gpus_per_node: NonNegativeInt = 0
    gres: Word | None = None
    cpus: PositiveInt = 1
    memory_gb: PositiveFloat = 4.0
    setup: tuple[str, ...] = ()
    python: str | None = None
    srun: tuple[str, ...] = ()
    jobs: PositiveInt = 32
    poll_seconds: PositiveFloat = 20.0
    max_jobs: Annotated[int, Field(ge=3)] | None = None
    max_array_size: PositiveInt | None = None
    job_minutes: PositiveInt = 30
    cells_per_job: PositiveInt = 200
    cells_per_gpu: PositiveInt = 1
    scratch: str | None = None
    gflops: PositiveFloat | None = None
    """Speed of the ranks that the site has by default: with a GPU if `gpus_per_node` is above 0, otherwise without."""

    @model_validator(mode="after")
    def _signal_comes_after_the_start(self) -> Site:
        if self.signal_seconds >= 60 * self.minutes:
            raise ValueError(f"signal_seconds ({self.signal_seconds}) must be less than minutes ({self.minutes}) x 60")
        return self

    def partition_of(self, device: Literal["cpu", "cuda"]) -> str | None:
        """Partition of jobs whose ranks have that device; None: SLURM's default."""
        if device == "cpu" and self.cpu_partition:
            return self.cpu_partition
        return self.partition


def available() -> list[str]:
    """Names of the sites that come with symbench."""
    return sorted(path.stem for path in SITES_FOLDER.glob("*.yaml"))


def rows() -> list[dict[str, object]]:
    """Rows of the table of sites in `symbench list`."""
    keys = ("partition", "minutes", "gpus_per_node", "cpus", "memory_gb", "jobs")
    return [{"name": name, **{key: getattr(load(name), key) for key in keys}} for name in available()]


def load(name_or_path: str) -> Site:
    """Read a site by name or by path of a .yaml file. Raises UserError with file, line and key of each mistake."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"{unknown_name('site', name_or_path, available())}; or give a path to a .yaml file")
    file = YamlFile(path, f"a site is a mapping; valid keys: {', '.join(Site.model_fields)}")
    tree = {key: tuple(value) if isinstance(value, list) else value for key, value in plain(file.tree).items()}
    for key in tree.keys() - Site.model_fields:
        file.error((key,), unknown_name("key", key, Site.model_fields))
    file.stop_on_errors()
    try:
        return Site.model_validate(tree)
    except ValidationError as error:
        file.invalid((), error)
        file.stop_on_errors()
        raise
