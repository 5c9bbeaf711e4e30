"""The command `symbench data import PATH --as NAME`, from its options to the files that it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.cell import Level
from benchmark.contract.scaffold import require_free_name
from benchmark.data.importing import plugin
from benchmark.data.importing.axes import Axes, listed
from benchmark.data.importing.converting import Progress, convert, parameters
from benchmark.data.importing.planning import Plan, Request, plan
from benchmark.errors import UserError
from benchmark.files import write_text


def plan_of(name: str, paths: Sequence[str], command: str, options: Mapping[str, Any]) -> Plan:
    """Plan of the import with the options of the command line. UserError: the name, an option or a file is wrong."""
    if not Path(f"{name}.py").exists():
        require_free_name(name, "dataset")
    for option in ("source", "licence"):
        if not (options[option] or "").strip():
            raise UserError(f"--{option} must name the {option} of the data, for their card; `unknown` is one, too")
    fields = tuple(options["field"].split(",")) if options["field"] else ()
    axes = Axes.parse(options["axes"]) if options["axes"] is not None else None
    given = {key: options[key] for key in ("source", "licence", "group", "coarsen", "spacing", "time_step", "periodic")}
    given |= {key: options[key] for key in ("train_on", "train_runs", "unseen_runs")}
    levels = {
        level: Path(path).expanduser()
        for level, path in zip(_levels(options["levels"], len(paths)), paths, strict=True)
    }
    return plan(
        Request(name, levels, command=command, fields=fields, axes=axes, frames=_frames(options["frames"]), **given)
    )


def run(plan: Plan, plugin_file: Path, suite_file: Path, data_folder: Path, progress: Progress) -> Iterator[str]:
    """Convert the data and write the plug-in and the suite; yields what was done, as lines.

    UserError: the plug-in exists and is of another import, or a file cannot be converted. MachineError as in `convert`.
    """
    ours = plugin.is_ours(plan, plugin_file)
    others = sorted(plan.first.others)
    paths = []
    for level in plan.runs:
        paths.append(convert(plan, level, data_folder, progress))
        shape = (len(plan.runs[level]), plan.frames, 2, *plan.size)
        yield f"wrote {paths[-1]}: {' x '.join(map(str, shape))} (run, time, component, x, y)"
    unseen = len(plan.runs[level]) - plan.training
    yield f"trained on: {plan.training} runs, as {plan.first.name}; unseen: {unseen}, as {plan.last.name}"
    if others:
        yield f"not imported: {listed(others)}"
    divergence = parameters(paths[0])["divergence"]
    yield "mean |divergence| over the mean gradient: " + ", ".join(
        f"{value} {key}" for key, value in divergence.items()
    )
    if not ours:
        write_text(plugin_file, plugin.plugin_text(plan, divergence))
        yield f"wrote {plugin_file}"
    if not suite_file.exists():
        write_text(suite_file, plugin.suite_text(plan))
        yield f"wrote {suite_file}"


def _levels(text: str, count: int) -> list[Level]:
    """Numbers of the levels, 0, 1, ... by default. UserError: not as many as `count`, or not rising."""
    try:
        levels = (
            [float(part) if set(part) & set(".e") else int(part) for part in text.split(",")]
            if text
            else [*range(count)]
        )
    except ValueError:
        levels = []
    if len(levels) != count or levels != sorted(set(levels)):
        raise UserError(f"--levels {text}: must be {count} rising numbers, one for each PATH, as 0,0.5,1")
    return list(levels)


def _frames(text: str) -> slice:
    """UserError: not of the form FIRST:END:STEP."""
    match = re.fullmatch(r"(\d*):(\d*)(?::([1-9]\d*))?", text or ":")
    if match is None:
        raise UserError(f"--frames {text}: must be FIRST:END or FIRST:END:STEP, as 0:200:2, which ends before 200")
    return slice(*(int(part) if part else None for part in match.groups()))
