"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path

import click


def _plugins(ctx: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    from . import registry

    for path in paths:
        registry.add_plugin(path)


suite_argument = click.argument("suite")
store_option = click.option(
    "--store",
    "store_folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SYMBENCH_STORE",
    default="runs",
    show_default=True,
    help="Folder of data and results; also $SYMBENCH_STORE.",
)
only_option = click.option("--only", metavar="EXPR", default="", help="Only some cells: 'model=convnet,seed=0'.")
site_option = click.option(
    "--on", "site", metavar="SITE", default="local", show_default=True, help="This machine, or a cluster: name or YAML."
)
tuned_option = click.option(
    "--tuned", is_flag=True, help="With the settings that `symbench tune` found, as <suite>-tuned."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable field names.")
plugin_option = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=_plugins,
    expose_value=False,
    is_eager=True,
    metavar="FILE",
    help="A Python file with one more baseline.",
)
