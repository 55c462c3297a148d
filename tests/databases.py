"""Scratch databases on real servers: a user with a password, a database of its own, dropped after.

``KEYCAIRN_TEST_POSTGRES`` and ``KEYCAIRN_TEST_MARIADB`` are URLs of users who may create both; by
default the servers' own administrators on this machine. Without a server these tests are skipped,
and say so; in CI they must run.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from keycairn.encoding import SecretBytes
from keycairn.store.database import Server, parse_database

POSTGRES = os.environ.get("KEYCAIRN_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
MARIADB = os.environ.get("KEYCAIRN_TEST_MARIADB", "mariadb://root@127.0.0.1:3306/mysql")
SERVERS = ("postgresql", "mariadb")


@dataclass(frozen=True)
class Scratch:
    """A database that is there for one test."""

    kind: str
    name: str
    host: str
    port: int
    password: str

    @property
    def url(self) -> str:
        """As in node.toml: without the password."""
        return f"{self.kind}://{self.name}@{self.host}:{self.port}/{self.name}"

    @property
    def server(self) -> Server:
        """What the store's adapters take."""
        found = parse_database(self.url, Path("/"), password=SecretBytes(self.password.encode()))
        assert isinstance(found, Server)
        return found

    def admin(self, *statements: str, fetch: bool = False) -> list[tuple[Any, ...]]:
        """Statements of the administrator in this database."""
        rows: list[tuple[Any, ...]] = []
        with admin(self.kind, self.name) as execute:
            for statement in statements:
                rows = execute(statement)
        return rows


@contextmanager
def admin(kind: str, database: str | None = None) -> Iterator[Any]:
    """A function that runs one statement as the administrator and gives its rows."""
    if kind == "postgresql":
        import psycopg

        words: dict[str, Any] = {"dbname": database} if database else {}
        connection: Any = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5, **words)
    else:
        import pymysql

        url = urlsplit(MARIADB)
        connection = pymysql.connect(
            host=url.hostname,
            port=url.port or 3306,
            user=url.username or "root",
            password=url.password or "",
            database=database or url.path.strip("/"),
            autocommit=True,
            connect_timeout=5,
        )

    def execute(statement: str) -> list[tuple[Any, ...]]:
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    try:
        yield execute
    finally:
        connection.close()


def require(kind: str) -> None:
    """Skip the test, saying why, if there is no such server; fail in CI."""
    try:
        with admin(kind):
            return
    except Exception as exc:
        why = f"no {kind} server to test with: {type(exc).__name__}: {str(exc).splitlines()[:1]}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def scratch(kind: str, name: str | None = None) -> Iterator[Scratch]:
    """Make a user and a database, by default with a random name; drop both at the end."""
    require(kind)
    url = urlsplit(POSTGRES if kind == "postgresql" else MARIADB)
    name, password = name or f"keycairn_{secrets.token_hex(6)}", secrets.token_hex(12)
    port = url.port or (5432 if kind == "postgresql" else 3306)
    made = Scratch(kind, name, url.hostname or "127.0.0.1", port, password)
    if kind == "postgresql":
        make = [
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
            f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0",
        ]
        drop = [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"DROP ROLE IF EXISTS {name}"]
    else:
        make = [
            f"CREATE DATABASE {name}",
            f"CREATE USER {name}@'%' IDENTIFIED BY '{password}'",
            f"GRANT ALL ON {name}.* TO {name}@'%'",
        ]
        drop = [f"DROP DATABASE IF EXISTS {name}", f"DROP USER IF EXISTS {name}@'%'"]
    with admin(kind) as execute:
        try:
            for statement in make:
                execute(statement)
            yield made
        finally:
            for statement in drop:
                execute(statement)


def renew(url: str) -> None:
    """The disaster: the database that :func:`scratch` made is gone; an empty one is there."""
    kind, name = url.partition(":")[0], urlsplit(url).path.strip("/")
    with admin(kind) as execute:
        if kind == "postgresql":
            execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0")
        else:
            execute(f"DROP DATABASE IF EXISTS {name}")
            execute(f"CREATE DATABASE {name}")


@contextmanager
def node_databases(kind: str, nodes: int) -> Iterator[dict[str, str]]:
    """Empty databases for the nodes of a vault, as arguments of ``LocalVault.create``.

    The passwords are in this process's environment meanwhile, for the processes that it starts.
    """
    if kind == "sqlite":
        yield {}
        return
    prefix = f"keycairn_{secrets.token_hex(5)}_"
    variable = f"KEYCAIRN_TEST_PASSWORD_{prefix}".upper()
    with ExitStack() as stack:
        for i in range(1, nodes + 1):
            made = stack.enter_context(scratch(kind, f"{prefix}{i}"))
            os.environ[f"{variable}{i}"] = made.password
            stack.callback(os.environ.pop, f"{variable}{i}", None)
        url = made.url.replace(f"{prefix}{nodes}", prefix + "{node}")
        yield {"database": url, "password_env": variable + "{node}"}
