"""A database's own programs, run as its administrator: what an operator has without keycairn."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from databases import MARIADB, POSTGRES, SERVERS, admin
from system.local import LocalVault


def database_name(vault: LocalVault, node: int) -> str:
    """The database that node.toml names."""
    return str(vault.toml(node)["database"]["url"]).rpartition("/")[2]


def query(vault: LocalVault, node: int, statement: str) -> list[tuple[Any, ...]]:
    """Rows of a node's database on one of the machine's servers, or in its file."""
    kind = vault.toml(node)["database"]["url"].partition(":")[0]
    if kind in SERVERS:
        with admin(kind, database_name(vault, node)) as execute:
            found: list[tuple[Any, ...]] = execute(statement)
        return found
    with closing(sqlite3.connect(vault.node_directory(node) / "data" / "node.db")) as db:
        return db.execute(statement).fetchall()


def dump(kind: str, name: str, file: Path, *words: str) -> None:
    """pg_dump or mariadb-dump of a database, which may be in use."""
    if kind == "postgresql":
        _run("pg_dump", *_postgres(name), *words, "--file", str(file))
    else:
        made = _run("mariadb-dump", *_mariadb(), "--single-transaction", *words, name)
        file.write_bytes(made)


def load(kind: str, name: str, file: Path, *, user: tuple[str, str] | None = None) -> None:
    """Load such a dump in place of what is there.

    Args:
        kind: of the server.
        name: the database.
        file: in pg_dump's custom format, or of mariadb-dump.
        user: name and password of the one whose tables they become; None: as they were.
    """
    if kind == "postgresql":
        words = ("--no-owner", "--no-acl") if user else ()
        at = _postgres(name, *(user or ()))
        _run("pg_restore", *at, "--clean", "--if-exists", "--exit-on-error", *words, str(file))
    else:
        _run("mariadb", *_mariadb(*(user or ())), name, stdin=file)


def copy_file(source: Path, target: Path) -> None:
    """``cp`` of a SQLite file that is not being written at the moment."""
    with closing(sqlite3.connect(source, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        # Another process: closing the file in this one would end the lock.
        subprocess.run(["cp", str(source), str(target)], check=True)


def replace_file(source: Path, target: Path) -> None:
    """``cp`` over the file of a node that does not run."""
    shutil.copy(source, target)


def _postgres(name: str, user: str = "", password: str = "") -> tuple[str, ...]:
    url = urlsplit(POSTGRES)
    who = f"{user or url.username or 'postgres'}"
    secret = password if user else url.password
    login = f"{who}:{secret}" if secret else who
    return ("--dbname", f"postgresql://{login}@{url.hostname}:{url.port or 5432}/{name}")


def _mariadb(user: str = "", password: str = "") -> tuple[str, ...]:
    url = urlsplit(MARIADB)
    secret = password if user else (url.password or "")
    return (
        *(
            "--no-defaults",
            "--protocol=tcp",
            f"--host={url.hostname}",
            f"--port={url.port or 3306}",
        ),
        *(f"--user={user or url.username or 'root'}", f"--password={secret}"),
    )


def _run(*words: str, stdin: Path | None = None) -> bytes:
    with (stdin or Path(os.devnull)).open("rb") as source:
        done = subprocess.run(words, stdin=source, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
