"""Databases that fail over to a replica which lacks the last commits; servers of the tests' own.

The node whose database it is knows one address. Behind it stands a :class:`Forwarder`, as a load
balancer or a moved service address does in production: at the fail-over connections break, and the
same address leads to the replica.

* PostgreSQL: a second cluster made with ``pg_basebackup`` that streams from the first until the way
  between them is cut, and is then promoted.
* MariaDB: a second server on a physical copy (``mariadb-backup``) of the running first one.
* SQLite: a copy of the file, put back under the live process: renamed over it, or into its place.

All run as an unprivileged user on loopback ports. The servers that other tests use are not touched.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

from system.local import LocalVault

NOBODY = 65534
USER = "keycairn"
START_SECONDS = 60.0


def missing(what: str, helps: str) -> NoReturn:
    """Skip, saying so; where CI runs everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed: {helps}")
    pytest.skip(f"{what} is not installed: {helps}")


def program(name: str, *places: str) -> str:
    """Path of a database's program, which need not be in PATH."""
    for place in places:
        for found in sorted(Path("/").glob(f"{place.lstrip('/')}/{name}"), reverse=True):
            return str(found)
    found_in_path = shutil.which(name)
    return found_in_path or missing(name, "run tests/setup-ci.sh")


def _as_nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


# -- the address that stays the same -----------------------------------------------------------


class Forwarder:
    """A loopback port that leads to another one; which one is changed at will.

    Its loop runs in a thread of its own, so that tests may block.
    """

    def __init__(self, port: int, target: int | None) -> None:
        self.port = port
        self._target = target
        self._open: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._listening.wait(10):
            raise RuntimeError("the forwarder does not listen")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", self.port)
        )
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._break()
        if left := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(left, timeout=5))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target
        if target is None:
            writer.transport.abort()
            return
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        if target != self._target:  # it was switched meanwhile
            writer.transport.abort()
            other.transport.abort()
            return
        pair = {writer.transport, other.transport}
        self._open |= pair
        try:
            await asyncio.gather(_pump(reader, other), _pump(other_reader, writer))
        finally:
            self._open -= pair
            for transport in pair:
                transport.abort()

    def switch(self, target: int | None) -> None:
        """Break all connections; new ones go to ``target``, or are refused."""
        done = threading.Event()

        def now() -> None:
            self._target = target
            self._break()
            done.set()

        self._loop.call_soon_threadsafe(now)
        if not done.wait(10):
            raise RuntimeError("the forwarder hangs")

    def _break(self) -> None:
        for transport in self._open:
            transport.abort()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


# -- servers -----------------------------------------------------------------------------------


class DatabaseServer(ABC):
    """A server process of the test's own, on a loopback port, that trusts everybody there."""

    kind: str

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self._process: subprocess.Popen[bytes] | None = None

    # -- what a kind supplies ------------------------------------------------------------------

    @abstractmethod
    def make(self) -> None:
        """Make an empty data directory."""

    @abstractmethod
    def copy(self, port: int, source_port: int) -> DatabaseServer:
        """A running second server from a physical copy, on ``port``; if it goes on following, then
        through ``source_port``, which leads here."""

    @abstractmethod
    def _words(self) -> list[str]:
        """The command that runs it in the foreground."""

    @abstractmethod
    def connect(self, database: str) -> Any:
        """A connection of the administrator, in autocommit mode."""

    # -- for all -------------------------------------------------------------------------------

    def run(self, *words: str) -> None:
        """A program of the database, as the unprivileged user."""
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=self.directory.parent, **_as_nobody()
        )
        if done.returncode:
            pytest.fail(f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}")

    def start(self) -> None:
        log = self.directory.with_suffix(".log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                self._words(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.directory.parent,
                **_as_nobody(),
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(Exception):
                self.connect(self._first).close()
                return
            time.sleep(0.05)
        pytest.fail(f"{self.kind} did not start:\n{log.read_text()[-3000:]}")

    _first: str

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop the server; the data stay. SIGKILL is the power failure."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def query(
        self, database: str, statement: str, values: tuple[Any, ...] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        with closing(self.connect(database)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []

    def twin(self, port: int) -> Self:
        """A second server, stopped, from a copy of the files of this one, which is stopped."""
        other = type(self)(self.directory.with_name(f"{self.directory.name}-{port}"), port)
        self.run("cp", "-a", str(self.directory), str(other.directory))
        return other


class Postgres(DatabaseServer):
    kind = "postgresql"
    _first = "postgres"

    def _program(self, name: str) -> str:
        return program(name, "/usr/lib/postgresql/*/bin")

    def make(self) -> None:
        self.run(
            self._program("initdb"),
            *("--pgdata", str(self.directory), "--auth", "trust", "--username", "postgres"),
            *("--no-sync", "--encoding", "UTF8", "--locale", "C"),
        )

    def _words(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "wal_level": "replica",
        }
        words = [self._program("postgres"), "-D", str(self.directory)]
        return words + [w for key, value in settings.items() for w in ("-c", f"{key}={value}")]

    def connect(self, database: str) -> Any:
        import psycopg

        words: Mapping[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": "postgres"}
        return psycopg.connect(dbname=database, autocommit=True, connect_timeout=5, **words)

    def add_database(self, name: str) -> None:
        with suppress(Exception):
            self.query("postgres", f"CREATE ROLE {USER} LOGIN")
        self.query("postgres", f"CREATE DATABASE {name} OWNER {USER} TEMPLATE template0")

    def copy(self, port: int, source_port: int) -> Postgres:
        other = Postgres(self.directory.with_name(f"standby-{port}"), port)
        self.run(
            self._program("pg_basebackup"),
            *("--host", "127.0.0.1", "--port", str(source_port), "--username", "postgres"),
            *("--pgdata", str(other.directory), "--write-recovery-conf", "--no-sync"),
            *("--checkpoint", "fast", "--wal-method", "stream"),
        )
        other.start()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.query("postgres", "SELECT 1 FROM pg_stat_replication WHERE state='streaming'"):
                return other
            time.sleep(0.05)
        pytest.fail("the standby does not stream")

    def base_backup(self) -> Path:
        """A physical copy of the running server that nobody starts."""
        copy = self.directory.with_name("base-backup")
        self.run(
            self._program("pg_basebackup"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--username", "postgres"),
            *("--pgdata", str(copy), "--no-sync", "--checkpoint", "fast"),
        )
        return copy

    def put_back(self, copy: Path) -> None:
        """Stop, take that copy's files, start."""
        self.stop()
        shutil.rmtree(self.directory)
        copy.rename(self.directory)
        self.start()

    def promote(self) -> None:
        ((done,),) = self.query("postgres", "SELECT pg_promote(true, 30)")
        assert done


class Mariadb(DatabaseServer):
    kind = "mariadb"
    _first = "mysql"

    def make(self) -> None:
        self.run(
            program("mariadb-install-db"),
            *("--no-defaults", f"--datadir={self.directory}", "--skip-test-db"),
            "--auth-root-authentication-method=normal",
        )

    def _words(self) -> list[str]:
        return [
            program("mariadbd", "/usr/sbin"),
            *("--no-defaults", f"--datadir={self.directory}", "--bind-address=127.0.0.1"),
            *(f"--port={self.port}", f"--socket={self.directory}/socket", "--skip-name-resolve"),
            *(f"--pid-file={self.directory}/pid", "--skip-log-bin"),
            *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"),
            "--innodb-flush-log-at-trx-commit=1",
        ]

    def stop(self, how: int = signal.SIGTERM) -> None:
        super().stop(signal.SIGTERM if how == signal.SIGINT else how)

    def connect(self, database: str) -> Any:
        import pymysql

        words: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": "root"}
        return pymysql.connect(database=database, autocommit=True, connect_timeout=5, **words)

    def add_database(self, name: str) -> None:
        self.query("mysql", f"CREATE DATABASE {name}")
        self.query("mysql", f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY ''")
        self.query("mysql", f"GRANT ALL ON {name}.* TO {USER}@'%'")

    def copy(self, port: int, source_port: int) -> Mariadb:
        other = Mariadb(self.directory.with_name(f"copy-{port}"), port)
        backup = program("mariadb-backup")
        self.run(
            *(backup, "--no-defaults", "--backup", f"--target-dir={other.directory}"),
            *("--host=127.0.0.1", f"--port={source_port}", "--user=root", "--protocol=tcp"),
        )
        self.run(backup, "--no-defaults", "--prepare", f"--target-dir={other.directory}")
        other.start()
        return other

    def promote(self) -> None:
        """It is a server of its own already."""


KINDS: dict[str, type[Postgres] | type[Mariadb]] = {"postgresql": Postgres, "mariadb": Mariadb}


@contextmanager
def own_server(kind: str, ports: Callable[..., int]) -> Iterator[Postgres | Mariadb]:
    """A running server of the test's own in a directory that the unprivileged user can reach.
    Stopped, with the copies that it made, and removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="keycairn-db-"))
    home.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    server = KINDS[kind](home / "first", ports())
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


# -- a node's database with its replica --------------------------------------------------------


class Replicated(ABC):
    """The database of one node, and the replica to which it will fail over."""

    @property
    @abstractmethod
    def url(self) -> str:
        """For node.toml."""

    @abstractmethod
    def fall_behind(self) -> None:
        """From now on the replica gets no commit any more."""

    @abstractmethod
    def fail_over(self) -> None:
        """The node's address leads to the replica."""

    @abstractmethod
    def fail_back(self) -> None:
        """The node's address leads to the very first database again, as it was left."""

    @abstractmethod
    def query(self, statement: str, *, lost: bool = False) -> list[tuple[Any, ...]]:
        """Rows of the database that the node uses now; with ``lost`` of the one before it."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs."""

    @property
    def length(self) -> int:
        """How many records its audit chain has: one at least for whatever is written."""
        return int(self.query("SELECT count(*) FROM audit")[0][0])


@dataclass
class Failing:
    """A vault whose first node's database has a replica."""

    vault: LocalVault
    #: Of node 1.
    database: Replicated
    server: Postgres | Mariadb | None

    def query(self, node: int, statement: str, *, lost: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a node's database, or (node 1, ``lost``) of the one that was behind it before."""
        if node == 1:
            return self.database.query(statement, lost=lost)
        if self.server is not None:
            return self.server.query(f"keycairn_{node}", statement)
        path = self.vault.node_directory(node) / "data" / "node.db"
        with closing(sqlite3.connect(path, timeout=30)) as db:
            return db.execute(statement).fetchall()


@contextmanager
def failing_vault(
    make_vault: Any, ports: Callable[..., int], kind: str, *, nodes: int = 3, **options: Any
) -> Iterator[Failing]:
    """A vault that has not been started.

    Args:
        make_vault: the fixture of real processes.
        ports: gives free ports.
        kind: "postgresql", "mariadb", "sqlite renamed" or "sqlite in place".
        nodes: how many.
        options: as for ``make_vault``.
    """
    if kind.startswith("sqlite"):
        vault: LocalVault = make_vault(nodes=nodes, **options)
        path = vault.node_directory(1) / "data" / "node.db"
        yield Failing(vault, ReplicatedFile(path, kind.partition(" ")[2]), None)
        vault.stop()
        return
    with own_server(kind, ports) as server:
        for i in range(1, nodes + 1):
            server.add_database(f"keycairn_{i}")
        url = f"{kind}://{USER}@127.0.0.1:{server.port}/keycairn_{{node}}"
        vault = make_vault(nodes=nodes, database=url, **options)
        database = ReplicatedServer(server, "keycairn_1", ports)
        with vault.editing(1) as config:
            config["database"]["url"] = database.url
        try:
            yield Failing(vault, database, server)
        finally:
            vault.stop()
            database.close()


class ReplicatedServer(Replicated):
    """A database on a server."""

    def __init__(self, server: Postgres | Mariadb, name: str, ports: Callable[..., int]) -> None:
        self.name = name
        self._first = self._now = server
        self._ports = ports
        self._between = Forwarder(ports(), server.port)
        self._address = Forwarder(ports(), server.port)
        self._replica: Postgres | Mariadb | None = None
        self._spare: Postgres | Mariadb | None = None
        self._made: list[DatabaseServer] = []
        if server.kind == "postgresql":
            self._make_replica()

    def _make_replica(self) -> None:
        self._replica = self._first.copy(self._ports(), self._between.port)
        self._made.append(self._replica)

    @property
    def url(self) -> str:
        return f"{self._first.kind}://{USER}@127.0.0.1:{self._address.port}/{self.name}"

    def fall_behind(self) -> None:
        if self._replica is None:
            self._make_replica()
        self._between.switch(None)

    def keep_another(self) -> None:
        """Keep a second replica in the state of the first, for a second fail-over."""
        assert self._replica is not None
        self._replica.stop()
        self._spare = self._replica.twin(self._ports())
        self._made.append(self._spare)
        self._replica.start()

    def fail_over(self) -> None:
        assert self._replica is not None
        self._replica.promote()
        self._lead_to(self._replica)
        self._replica = None
        if self._spare is not None:
            self._spare.start()
            self._replica, self._spare = self._spare, None

    def fail_back(self) -> None:
        self._lead_to(self._first)

    def _lead_to(self, server: Postgres | Mariadb) -> None:
        self._address.switch(None)
        self._lost, self._now = self._now, server
        self._address.switch(server.port)

    def query(self, statement: str, *, lost: bool = False) -> list[tuple[Any, ...]]:
        return (self._lost if lost else self._now).query(self.name, statement)

    def close(self) -> None:
        self._address.close()
        self._between.close()
        for server in self._made:
            server.stop(signal.SIGKILL)


class ReplicatedFile(Replicated):
    """A SQLite file that somebody puts back while its node runs.

    Args:
        way: "renamed" (as a restore tool does: a new file in place of the old one) or "in place"
            (as ``cp`` does: other bytes in the same file).
    """

    def __init__(self, path: Path, way: str) -> None:
        self.path, self.way = path, way
        self._copies: list[Path] = []
        self._copy: Path | None = None
        self._first: Path | None = None

    @property
    def url(self) -> str:
        return "sqlite:///data/node.db"

    def fall_behind(self) -> None:
        self._copy = self._new("replica")
        self._save(self._copy)

    def keep_another(self) -> None:
        """The copy stays good for a second time."""

    def _new(self, name: str) -> Path:
        path = self.path.parent.with_name(f"{name}-{len(self._copies)}.db")
        self._copies.append(path)
        return path

    def _save(self, target: Path) -> None:
        with (
            closing(sqlite3.connect(self.path, timeout=30)) as db,
            closing(sqlite3.connect(target)) as copy,
        ):
            db.backup(copy)

    def fail_over(self) -> None:
        assert self._copy is not None
        self._put(self._copy)
        if self._first is None:
            self._first = self._lost

    def fail_back(self) -> None:
        assert self._first is not None
        self._put(self._first)

    def _put(self, file: Path) -> None:
        # No transaction is in the middle of it: whoever copies over a file that is being written
        # gets a damaged one, which is another story.
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            self._lost = self._new("lost")
            # Another process: closing the file in this one would end the lock.
            subprocess.run(["cp", str(self.path), str(self._lost)], check=True)
            if self.way == "renamed":
                beside = self.path.with_name("node.db.new")
                subprocess.run(["cp", str(file), str(beside)], check=True)
                beside.chmod(0o600)
                beside.rename(self.path)
            else:
                subprocess.run(["cp", str(file), str(self.path)], check=True)

    def query(self, statement: str, *, lost: bool = False) -> list[tuple[Any, ...]]:
        path = self._lost if lost else self.path
        with closing(sqlite3.connect(path, timeout=30)) as db:
            return db.execute(statement).fetchall()

    def close(self) -> None:
        pass
