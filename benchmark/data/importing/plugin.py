"""Plug-in of an import, NAME.py, and a first suite on it, NAME.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmark.cell import GroupName
from benchmark.data.importing.planning import Plan
from benchmark.errors import UserError

UNET = "unet: {hidden: 8, depth: 3}"
MODELS: Mapping[GroupName, tuple[str, ...]] = {
    "C4": ("convnet: {hidden: 16}", UNET, "e2cnn: {hidden: 4}", "relaxed_steerable_rotation: {hidden: 4}"),
    "translation": (
        "convnet: {hidden: 16}",
        UNET,
        "coordconv: {hidden: 16}",
        "relaxed_group_translation: {hidden: 16}",
    ),
    "scale": ("convnet: {hidden: 16}", UNET, "group_scale: {hidden: 8}", "relaxed_group_scale: {hidden: 8}"),
}
"""Networks of the first suite, beside persistence, small enough for two cores: without the symmetry and with it."""


def suite_text(plan: Plan) -> str:
    """YAML of a suite of five models, in which windows as long as the protocol's fit into the frames."""
    name, frames = plan.request.name, plan.frames
    validation, test = frames * 3 // 4 - frames * 3 // 5, frames - frames * 3 // 4
    inputs = 4 if validation >= 8 else 1
    protocol = (
        f"input_frames: {inputs}, train_steps: {min(4, validation - inputs)}, test_steps: {min(8, test - inputs)}"
    )
    models = "".join(f"  - {model}\n" for model in ("persistence", *MODELS[plan.request.group]))
    return (
        f"# A first suite on {name}; docs/protocol.md has what its lines mean.\n"
        f"name: {name}\nplugins: [{name}.py]\n"
        f"protocol: {{name: disjoint, {protocol}, target: change}}\n"
        f"datasets: [{name}]\nmodels:\n{models}seeds: [0, 1]\n"
        "train: {epochs: 4, batch_size: 16, learning_rate: 3e-3, learning_rate_decay: 0.5, weight_decay: 0.0}\n"
    )


def plugin_text(plan: Plan, divergence: Mapping[str, float]) -> str:
    """Python of the plug-in."""
    request, run = plan.request, plan.first
    count = plan.count
    class_name = "".join(part.capitalize() for part in request.name.split("_"))
    levels = f"({', '.join(map(repr, request.levels))},)"
    meaning = (
        "nothing: the data are as they were imported"
        if len(request.levels) == 1
        else "what distinguishes one PATH from the next"
    )
    return f'''"""{request.name}: fields of others, which `symbench data import` converted into the store.

What is written here may be changed: the symmetry that is asked about, and what a level or the test runs mean.
"""

from symbench import ImportedDataset, Preset


class {class_name}(ImportedDataset):
    """{count} runs of {plan.frames} frames on {plan.size[0]} x {plan.size[1]} points, from {run.form}."""

    group = {request.group!r}  # or C4, translation, scale
    periodic = {plan.periodic}
    levels = {levels}
    level_meaning = {meaning!r}
{size_lines(plan)}    test_runs = "designed"  # or "sampled", if other runs from the same distribution would do as well
    source = {request.source!r}
    licence = {request.licence!r}
    command = {request.command!r}
    divergence = {dict(divergence)!r}
'''


def size_lines(plan: Plan) -> str:
    """Lines of the plug-in that must agree with the data."""
    more = f", components={plan.components!r}" if plan.first.scalars else ""
    height, width = plan.size
    return (
        f'    presets = {{"imported": Preset(height={height}, width={width}, frames={plan.frames}{more})}}\n'
        f"    training_runs = range({plan.training})\n"
        f"    unseen_runs = range({plan.training}, {plan.count})\n"
    )


def is_ours(plan: Plan, file: Path) -> bool:
    """Whether the file is the plug-in of this very import, perhaps edited. UserError: it is another one."""
    if not file.exists():
        return False
    text = file.read_text(encoding="utf-8", errors="replace")
    if f"    command = {plan.request.command!r}\n" not in text:
        raise UserError(f"{file} exists and is of another import; delete it, or choose another --as")
    if size_lines(plan) not in text:
        raise UserError(
            f"{file} declares another size or other runs than the data have now; delete it to write it anew"
        )
    return True
