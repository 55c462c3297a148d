"""Dumps of a server's database, made and put back with the database's own programs.

PostgreSQL: ``pg_dump`` in its custom format, ``pg_restore``. MariaDB: ``mariadb-dump
--single-transaction``, ``mariadb``. Presignature rows are left out: the table is there and empty.
A program that is missing, or older than the server, is refused before anything is written: an older
one may leave out what it does not know.

The password goes to the programs in a private file or in their environment, never in their
arguments, which every user of the machine can read.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.database import POSTGRESQL, Server
from keycairn.store.files import create_private, fsync_path, unavailable
from keycairn.store.opening import adapter, require_unused

_LEFT_OUT = schema.presignatures.name
#: Seconds for one dump or restore; a stalled server ends it.
_SECONDS = 4 * 3600

Version = tuple[int, ...]


@dataclass(frozen=True)
class _Tools:
    """Programs of one kind of database, and how many parts of a version must agree."""

    dump: str
    restore: str
    parts: int
    version: re.Pattern[str]


_POSTGRESQL = _Tools("pg_dump", "pg_restore", 1, re.compile(r"\) (\d+)\.(\d+)"))
_MARIADB = _Tools(
    "mariadb-dump", "mariadb", 2, re.compile(r"(?:Distrib|from|server) (\d+)\.(\d+)[0-9.]*-MariaDB")
)


def _tools(server: Server) -> _Tools:
    return _POSTGRESQL if server.kind == POSTGRESQL else _MARIADB


def require_tools(server: Server) -> None:
    """Check that a dump of ``server`` can be made here. Blocks.

    Raises:
        KeycairnError: E_POLICY (program missing or older than the server; both versions are
            named), E_UNAVAILABLE (server).
    """
    tools = _tools(server)
    _require(tools.dump, tools, server)


def dump(server: Server, target: Path) -> str:
    """Write a dump of ``server`` to the new file ``target``: consistent, flushed, 0600. Blocks.

    Returns:
        The program and its version, for the manifest of a bundle.

    Raises:
        KeycairnError: E_POLICY (program missing or older than the server), E_CONFLICT (``target``
            exists), E_UNAVAILABLE (server or disk). On failure there is no file.
    """
    tools = _tools(server)
    version = _require(tools.dump, tools, server)
    try:
        fd = create_private(target)
    except FileExistsError as exc:
        raise KeycairnError(
            Code.CONFLICT, "the dump's target exists", not_lost="It was not touched."
        ) from exc
    except OSError as exc:
        raise unavailable("the dump can't be written", exc) from exc
    try:
        with os.fdopen(fd, "wb") as out, _access(server) as (words, env):
            if server.kind == POSTGRESQL:
                words = ["--format=custom", "--no-owner", "--no-privileges", *words]
                words += [f"--exclude-table-data={_LEFT_OUT}", "--", server.name]
            else:
                words = [*words, "--single-transaction", "--skip-lock-tables", "--hex-blob"]
                words += [f"--ignore-table-data={server.name}.{_LEFT_OUT}", "--", server.name]
            _run([tools.dump, *words], env, server, stdout=out)
        fsync_path(target)
        fsync_path(target.parent)
    except OSError as exc:
        target.unlink(missing_ok=True)
        raise unavailable("the dump can't be written", exc) from exc
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return f"{tools.dump} {_words(version)}"


def restore(source: Path, server: Server) -> None:
    """Put a dump into the fresh, empty database ``server``. Blocks.

    Raises:
        KeycairnError: E_CONFLICT (the database has a store in it), E_POLICY (program missing or
            older than the server), E_STORE_INTEGRITY (not a whole dump), E_UNAVAILABLE. After a
            failure the database must be made anew.
    """
    tools = _tools(server)
    require_unused(server)
    _require(tools.restore, tools, server)
    try:
        with source.open("rb") as data, _access(server) as (words, env):
            if server.kind == POSTGRESQL:
                words = ["--exit-on-error", "--single-transaction", "--no-owner", *words]
                words += ["--no-privileges", f"--dbname={server.name}"]
            else:
                _require_whole(data.fileno())
                # In the sandbox a dump's text can neither read files nor start programs; "loose"
                # because the oldest clients that fit don't know the word.
                words = [*words, "--batch", "--loose-sandbox", f"--database={server.name}"]
            _run([tools.restore, *words], env, server, stdin=data)
    except OSError as exc:
        raise unavailable("the dump can't be read", exc) from exc


def _require_whole(fd: int) -> None:
    # mariadb takes a file that was cut off for a shorter one; a whole dump ends in a comment.
    size = os.fstat(fd).st_size
    if b"-- Dump completed" not in os.pread(fd, 200, max(0, size - 200)):
        raise _not_a_dump("it ends too early")


def _not_a_dump(why: str) -> KeycairnError:
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"the dump can't be put back: {why}",
        not_lost="The dump was not changed; what was put into the database is no store.",
        next="make the database anew and use another dump or bundle",
    )


# -- programs ----------------------------------------------------------------------------------


def _require(program: str, tools: _Tools, server: Server) -> Version:
    """Version of a program; E_POLICY if it is missing or older than the server."""
    wanted = _server_version(server)
    found = _program_version(program, tools.version)
    if found is None or found[: tools.parts] < wanted[: tools.parts]:
        here = "is not installed" if found is None else f"is of version {_words(found)}"
        raise KeycairnError(
            Code.POLICY,
            f"{program} {here}, and {server} is of version {_words(wanted)}: nothing was written",
            not_lost="Nothing was changed.",
            next=f"install {program} {_words(wanted[: tools.parts])} or newer on this machine",
            detail={"program": program, "found": found and _words(found), "server": _words(wanted)},
        )
    return found


def _program_version(program: str, pattern: re.Pattern[str]) -> Version | None:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (FileNotFoundError, PermissionError):
        return None
    found = pattern.search(done.stdout)
    return tuple(int(n) for n in found.groups()) if found else None


def _server_version(server: Server) -> Version:
    store = adapter(server)
    engine = store.engine(server, 1, writes=False)
    try:
        with engine.connect() as conn:
            show = "SHOW server_version" if server.kind == POSTGRESQL else "SELECT version()"
            found = re.match(r"(\d+)\.(\d+)", str(conn.execute(text(show)).scalar()))
    except Exception as exc:
        if isinstance(exc, KeycairnError):
            raise
        raise store.explain(getattr(exc, "orig", exc), server) from exc
    finally:
        engine.dispose()
    return tuple(int(n) for n in found.groups()) if found else (0,)


def _words(version: Sequence[int]) -> str:
    return ".".join(str(n) for n in version)


@contextlib.contextmanager
def _access(server: Server) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Arguments and environment with which a program reaches the server."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "MYSQL", "MARIADB"))}
    if server.kind == POSTGRESQL:
        yield _postgresql_words(server), env | _postgresql_env(server)
        return
    with tempfile.TemporaryDirectory(prefix="keycairn-") as scratch:
        options = Path(scratch) / "client.cnf"
        with os.fdopen(create_private(options), "w", encoding="utf-8") as out:
            out.write("[client]\n" + "".join(f"{k}={v}\n" for k, v in _mariadb_options(server)))
        yield [f"--defaults-file={options}"], env


def _postgresql_words(server: Server) -> list[str]:
    words = ["--no-password"]
    if server.hosts:
        words.append("--host=" + ",".join(host for host, _ in server.hosts))
        words.append("--port=" + ",".join(str(port) for _, port in server.hosts))
    if server.user:
        words.append(f"--username={server.user}")
    return words


def _postgresql_env(server: Server) -> dict[str, str]:
    env = {f"PG{k.upper()}": v for k, v in server.options.items() if k.startswith("ssl")}
    if "target_session_attrs" in server.options or len(server.hosts) > 1:
        env["PGTARGETSESSIONATTRS"] = server.options.get("target_session_attrs", "read-write")
    if server.password is not None:
        env["PGPASSWORD"] = server.password.reveal().decode("utf-8")
    return env


def _mariadb_options(server: Server) -> Iterator[tuple[str, str]]:
    for host, port in server.hosts:
        if host.startswith("/"):
            yield "socket", host
        else:
            yield from (("protocol", "tcp"), ("host", host), ("port", str(port)))
    if server.user:
        yield "user", _quoted(server.user)
    if server.password is not None:
        yield "password", _quoted(server.password.reveal().decode("utf-8"))
    names: Mapping[str, str] = {"sslrootcert": "ssl-ca", "sslcert": "ssl-cert", "sslkey": "ssl-key"}
    for key, name in names.items():
        if key in server.options:
            yield name, _quoted(server.options[key])
    if server.mode == "verify-full":
        yield "ssl-verify-server-cert", "1"
    elif server.mode in ("require", "verify-ca"):
        yield "ssl", "1"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _run(words: Sequence[str], env: dict[str, str], server: Server, **streams: object) -> None:
    call: Callable[..., subprocess.CompletedProcess[bytes]] = subprocess.run
    try:
        done = call(
            list(words), env=env, stderr=subprocess.PIPE, timeout=_SECONDS, check=False, **streams
        )
    except subprocess.TimeoutExpired as exc:
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"{words[0]} did not end within {_SECONDS // 3600} hours",
            not_lost="The database is unchanged.",
            next="look at the database's load",
        ) from exc
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    # Its last line names the cause; passwords are in neither arguments nor messages.
    why = said[-1][:300] if said else f"exit status {done.returncode}"
    if words[0] in (_POSTGRESQL.restore, _MARIADB.restore):
        raise _not_a_dump(why)
    raise KeycairnError(
        Code.UNAVAILABLE,
        f"{words[0]} failed at {server}: {why}",
        not_lost="The database is unchanged; there is no dump.",
        next="look at the database's log and the disk, then try again",
        detail={"exit": done.returncode},
    )
