"""The database server that a node is restored to: how it is reached before its node's files are in
place, and whether it is free."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from keycairn.backup.disk import create_private, disk_errors
from keycairn.backup.layout import Placed
from keycairn.backup.nodefile import NodeFile
from keycairn.backup.verify import DATABASE_FILES
from keycairn.encryptors import read_secret
from keycairn.errors import KeycairnError
from keycairn.store.database import Server
from keycairn.store.restoring import require_free

_UNTOUCHED = "Nothing was written."


def server_with_password(config: NodeFile, environ: Mapping[str, str] | None) -> Server | None:
    """The server that a configuration names, with its password; None for a SQLite file.

    Raises:
        KeycairnError: E_NOT_FOUND (no password where it is expected), E_POLICY (others can read
            it), E_MALFORMED, E_UNAVAILABLE.
    """
    server, source = config.server(), config.password()
    if server is None or source is None:
        return server
    try:
        return replace(server, password=read_secret(source, environ=environ))
    except KeycairnError as exc:
        raise KeycairnError(
            exc.code,
            f"the password of the database {server}, which no bundle holds: {exc.message}",
            not_lost=_UNTOUCHED,
            next=f"put it there ({source.source}), or map database.password_file, password_env or "
            "password_credential with --map",
        ) from exc


def from_staging(server: Server, into: Path, staging: Path) -> Server:
    """The same server, with the files that will be below ``into`` read from ``staging``."""
    moved = {
        word: str(staging / Path(text).relative_to(into))
        for word, text in server.options.items()
        if Path(text).is_absolute() and Path(text).is_relative_to(into)
    }
    return replace(server, options={**server.options, **moved})


def restore_name(sha256: str, into: Path) -> bytes:
    """What the same restore is recognised by (:mod:`keycairn.store.restoring`)."""
    return sha256.encode() + b" " + os.fsencode(into)


def check_server(
    server: Server,
    *,
    into: Path,
    sha256: str,
    placed: Iterable[Placed],
    files: Mapping[str, bytes],
    scratch: Path,
) -> None:
    """Ask the server whether it is fit and the database free. Blocks; writes to ``scratch`` only.

    Args:
        server: with its password.
        into: the node's new directory.
        sha256: of the bundle.
        placed: where the bundle's files go.
        files: content of those that the database's URL names, by word.
        scratch: directory for them meanwhile.

    Raises:
        KeycairnError: as :func:`~keycairn.store.restoring.require_free`.
    """
    with disk_errors(f"{scratch} can't be written"):
        for item in placed:
            word = item.part.name.removeprefix(DATABASE_FILES)
            if item.part.name.startswith(DATABASE_FILES) and word in files:
                path = scratch / item.to
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with create_private(path) as out:
                    out.write(files[word])
    require_free(from_staging(server, into, scratch), restore_name(sha256, into))
