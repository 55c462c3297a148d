"""All commands in one tree. Each module under ``commands`` is one group."""

from __future__ import annotations

from typing import Annotated

import typer

from keycairn import __version__
from keycairn.cli.commands import (
    backup,
    bench,
    coverage,
    doctor,
    encryptor,
    ers,
    init,
    key,
    kit,
    node,
    presignature,
    sign,
    vault,
)
from keycairn.cli.output import EXIT_CODES, output

app = typer.Typer(
    name="keycairn",
    help="A threshold-signing vault whose keys survive disaster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
)


def _version(wanted: bool) -> None:
    if wanted:
        output.result({"version": __version__}, __version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="one JSON object on stdout; works at any place")
    ] = False,
) -> None:
    pass


_GROUPS = (
    init,
    key,
    sign,
    presignature,
    ers,
    kit,
    backup,
    encryptor,
    node,
    vault,
    coverage,
    doctor,
    bench,
)
for _group in _GROUPS:
    _group.register(app)
