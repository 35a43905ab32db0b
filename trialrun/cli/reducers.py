"""The command that lists the reducers of installed packages: ``trialrun reducers``."""

from __future__ import annotations

import dataclasses

import click

from trialrun._plugins import GROUP, reducer_plugins
from trialrun.cli._options import json_option
from trialrun.cli._output import print_json, print_table


@click.command()
@json_option
def reducers(as_json: bool) -> None:
    """List the metric reducers that installed packages bring.

    \b
    Example:
      trialrun reducers

    A trial uses one by its name: context.wrap_reducer("roc_auc", name="auc"). Nothing is imported
    to list them; a reducer without a summary has none, or its source is not where it is named.
    """
    plugins = reducer_plugins()
    if as_json:
        print_json(
            [dataclasses.asdict(plugin) | {"summary": plugin.summary()} for plugin in plugins]
        )
        return
    print_table(
        ("Name", "Package", "Version", "Object", "Summary"),
        [
            (plugin.name, plugin.package, plugin.version, plugin.reference, plugin.summary())
            for plugin in plugins
        ],
    )
    names = [plugin.name for plugin in plugins]
    for name in sorted({name for name in names if names.count(name) > 1}):
        owners = " and ".join(plugin.owner for plugin in plugins if plugin.name == name)
        click.echo(
            f"{name!r} cannot be used: it is brought by {owners}. Uninstall all but one.", err=True
        )
    if not plugins:
        click.echo(
            f"No installed package registers a reducer in its entry points of the group {GROUP}.",
            err=True,
        )
