"""The command `symbench data import PATH --as NAME`, from its options to the files that it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.cell import Level
from benchmark.contract.scaffold import require_free_name
from benchmark.data.imported import better_order
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
    given |= {"fields": fields, "scalars": tuple(options["scalar"]), "axes": axes, "frames": _frames(options["frames"])}
    return plan(Request(name, levels, command=command, **given))


def run(plan: Plan, plugin_file: Path, suite_file: Path, data_folder: Path, progress: Progress) -> list[str]:
    """Convert the data, and write the plug-in and the suite; returns what was done, as lines.

    UserError: the plug-in exists and is of another import, or a file cannot be converted. MachineError as in `convert`.
    """
    ours = plugin.is_ours(plan, plugin_file)
    lines, measured = [], {}
    for level in plan.runs:
        path = convert(plan, level, data_folder, progress)
        shape = " x ".join(map(str, (plan.count, plan.frames, plan.channels, *plan.size)))
        lines.append(f"wrote {path}: {shape} (run, time, component, x, y)")
        measured[level] = parameters(path)["divergence"]
    unseen = plan.count - plan.training
    lines.append(f"trained on: {plan.training} runs, the first from {plan.first.name}")
    lines.append(f"unseen: {unseen} runs, the last from {plan.last.name}")
    if plan.first.others:
        lines.append(f"not imported: {listed(plan.first.others)}")
    shown = next((level for level, divergence in measured.items() if better_order(divergence)), next(iter(measured)))
    divergence = measured[shown]
    if divergence:
        lines.append("mean |divergence| over the mean gradient" + (f", level {shown}:" if len(measured) > 1 else ":"))
    lines += [f"  {share:<8g} {order}" for order, share in divergence.items()]
    if not ours:
        write_text(plugin_file, plugin.plugin_text(plan, divergence))
        lines.append(f"wrote {plugin_file}")
    if not suite_file.exists():
        write_text(suite_file, plugin.suite_text(plan))
        lines.append(f"wrote {suite_file}")
    return lines


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
