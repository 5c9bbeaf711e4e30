"""A site: how one cluster is used, as a person writes it in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from benchmark.cell import Frozen, PositiveFloat, PositiveInt
from benchmark.errors import UserError, unknown_name
from benchmark.suite.yaml_file import YamlFile, plain

SITES_FOLDER = Path(__file__).parent / "sites"
Word = Annotated[str, Field(pattern=r"^[\w.,:&|\[\]()*+-]+$")]
"""What SLURM takes as a name or an expression of names; nothing that a shell would take for more."""


class Site(Frozen):
    """One SLURM cluster. `setup` and `python` are shell, run in each job as they stand; nothing else reaches one."""

    scheduler: Literal["slurm"]
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    minutes: PositiveInt = 60
    """Time limit of a job. One that is not done by then saves, and is put back into the queue."""
    signal_seconds: PositiveInt = 120
    """So long before the limit a job is told to save; longer than a step and an evaluation take."""
    gpus_per_node: NonNegativeInt = 0
    """0 on a cluster without GPUs."""
    gres: Word | None = None
    """How GPUs are asked for where `--gpus-per-node` is not understood: `gpu`, `gpu:a100`."""
    cpus: PositiveInt = 1
    """For each rank, that is for each GPU."""
    memory_gb: PositiveFloat = 4.0
    """For each rank."""
    setup: tuple[str, ...] = ()
    """Lines of shell before Python starts."""
    python: str | None = None
    """The command that starts Python in a job, a container's for instance; by default the one that runs here."""
    srun: tuple[str, ...] = ()
    """More arguments of srun."""
    jobs: PositiveInt = 32
    """At most so many jobs of an array at once."""
    max_array_size: PositiveInt | None = None
    """SLURM's limit; by default the controller is asked."""
    job_minutes: PositiveInt = 30
    """Small cells are packed into jobs of about so long."""
    cells_per_job: PositiveInt = 200
    """At most so many cells in a job."""
    cells_per_gpu: PositiveInt = 1
    """So many one-rank cells share a GPU, side by side."""
    scratch: str | None = None
    """A folder on each node's own disk, to which data are copied first; may hold variables, as `$TMPDIR`."""
    gflops: PositiveFloat | None = None
    """Sustained speed of one rank, for estimates; by default 5000 on a GPU, 50 on a CPU."""

    @model_validator(mode="after")
    def _there_is_time_before_the_signal(self) -> Site:
        if self.signal_seconds >= 60 * self.minutes:
            raise ValueError(f"signal_seconds ({self.signal_seconds}) must be less than minutes ({self.minutes}) x 60")
        return self


def available() -> list[str]:
    """Names of the sites that come with symbench."""
    return sorted(path.stem for path in SITES_FOLDER.glob("*.yaml"))


def rows() -> list[dict[str, object]]:
    """What there is to choose from, for a table."""
    keys = ("partition", "minutes", "gpus_per_node", "cpus", "memory_gb", "jobs")
    return [{"name": name, **{key: getattr(load(name), key) for key in keys}} for name in available()]


def load(name_or_path: str) -> Site:
    """Read a site, named or as a path to a .yaml file. UserError: unknown name, not YAML, a wrong key or value."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = SITES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise UserError(f"{unknown_name('site', name_or_path, available())}; or give a path to a .yaml file")
    file = YamlFile(path, f"a site is a mapping; valid keys: {', '.join(Site.model_fields)}")
    tree = plain(file.tree)
    for key in tree:
        if key not in Site.model_fields:
            file.error((key,), unknown_name("key", key, Site.model_fields))
    file.stop_on_errors()
    try:
        return Site.model_validate(
            {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
        )
    except ValidationError as error:
        for problem in error.errors():
            got = f" (got {problem['input']!r})" if problem["loc"] else ""
            file.error(problem["loc"], problem["msg"].removeprefix("Value error, ") + got)
        file.stop_on_errors()
        raise
