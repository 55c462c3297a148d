"""PostgreSQL 15 or newer, through psycopg 3.

Each session asks for ``synchronous_commit = on`` itself (``remote_apply``, which waits longer, is
left alone); ``fsync`` and ``full_page_writes`` are the server's, and one without them is refused.
Several hosts in the URL are tried in turn for the one that can be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.exc import DBAPIError

from keycairn.errors import Code, KeycairnError
from keycairn.store.database import Server
from keycairn.store.server import (
    CONNECT_SECONDS,
    GRACE_SECONDS,
    LOCK,
    LOCK_SECONDS,
    STATEMENT_SECONDS,
    ServerStore,
    not_durable,
    too_old,
    unavailable,
)

_MINIMUM = 150_000

#: By SQLSTATE, or its first two characters: what to say, and what helps.
_HELP = {
    "08": (
        "the connection to the database broke",
        "nothing, if it comes back: the node reconnects",
    ),
    "57P": ("the database is stopping or starting", "start it; the node reconnects by itself"),
    "25006": (
        "the database is read-only: it is a standby, or is failing over",
        "name the primary in [database] url, or wait until the fail-over ends",
    ),
    "28": ("the database refuses this user", "check the user and the password of [database]"),
    "42501": (
        "the database's user lacks a right",
        "make the node's user the owner of its database and tables",
    ),
    "53100": ("the database's disk is full", "free space there; the node goes on by itself"),
    "53300": ("the database takes no more connections", "raise max_connections"),
    "53": ("the database lacks memory or disk", "look at the database's log"),
    "55P03": ("the database is locked by another program", "stop that program, then try again"),
    "57014": ("the database is too slow: a statement took too long", "look at the database's load"),
    "40": ("the database undid the transaction", "try again"),
}


def explain(error: BaseException | None, server: Server) -> KeycairnError:
    """A psycopg error in the operator's words."""
    state = getattr(error, "sqlstate", None) or ""
    if state == "3D000":
        return KeycairnError(
            Code.NOT_FOUND,
            f"the server has no database {server.name!r}",
            not_lost="Nothing was changed, and nothing was made in its place.",
            next="check [database] url, or restore the database",
        )
    if state[:2] == "22":
        return KeycairnError(
            Code.MALFORMED,
            "a value is too long, or holds a character that the database can't store",
            not_lost="Nothing of this operation was stored.",
            detail={"sqlstate": state},
        )
    if state[:2] in ("XX", "42") and state != "42501":
        return KeycairnError(
            Code.STORE_INTEGRITY,
            "the database is damaged, or its tables were changed",
            not_lost="The other holders still have their shares.",
            next="keycairn node restore BUNDLE --into DIR --identity FILE",
            detail={"sqlstate": state},
        )
    for start in (state, state[:3], state[:2]):
        if start in _HELP:
            return unavailable(*_HELP[start], sqlstate=state)
    text = str(error).lower()
    if "pg_hba.conf" in text:
        return unavailable(
            "the database takes no connection of this user from here, or none without TLS",
            "check sslmode in [database] url, and pg_hba.conf on the server",
        )
    if "password" in text or "authentication" in text:
        return unavailable(*_HELP["28"])
    if "certificate" in text or "ssl" in text:
        return unavailable(
            "the database's TLS certificate is not the expected one, or it has none",
            "check sslmode, sslrootcert and the server's certificate",
        )
    if "read-only" in text or "not in hot standby" in text:
        return unavailable(*_HELP["25006"])
    if f'database "{server.name}" does not exist' in text:
        return explain(_State("3D000"), server)
    return unavailable(
        f"{server} does not answer",
        "start the database or mend the way to it; the node reconnects by itself",
        driver=type(error).__name__,
    )


class _State(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@cache
def _connection() -> Any:
    """The driver's connection, with an end to its patience.

    The server itself ends statements that take too long; a server that stands still (stopped, its
    disk hanging) doesn't, and its kernel still acknowledges what is sent.
    """
    import psycopg

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **words: Any) -> Any:
            words.setdefault("timeout", STATEMENT_SECONDS + GRACE_SECONDS)
            try:
                return super().wait(gen, *args, **words)
            except psycopg.errors._WaitTimeout as exc:
                self.close()  # Else the rollback would wait for the same server again.
                raise psycopg.OperationalError("the server stands still") from exc

    return Connection


def _connect(server: Server) -> Any:
    try:
        connection_class = _connection()
    except ImportError as exc:
        raise KeycairnError(
            Code.POLICY,
            "the driver for PostgreSQL is not installed",
            not_lost="Nothing was changed.",
            next="pip install 'keycairn[postgres]'",
        ) from exc

    words: dict[str, Any] = {
        "dbname": server.name,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "keycairn",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * STATEMENT_SECONDS,
        "gssencmode": "disable",
        **{k: v for k, v in server.options.items() if k != "sslmode"},
        "sslmode": server.mode or "prefer",
    }
    if server.hosts:
        words["host"] = ",".join(host for host, _ in server.hosts)
        words["port"] = ",".join(str(port) for _, port in server.hosts)
    if len(server.hosts) > 1:
        words.setdefault("target_session_attrs", "read-write")
    if server.user:
        words["user"] = server.user
    if server.password is not None:
        words["password"] = server.password.reveal().decode("utf-8")
    connection = connection_class.connect(autocommit=True, **words)
    try:
        _prepare(connection, server)
    except BaseException:
        connection.close()
        raise
    connection.autocommit = False
    return connection


def _prepare(connection: Any, server: Server) -> None:
    def setting(name: str) -> str:
        return str(connection.execute(f"SHOW {name}").fetchone()[0])

    if connection.info.server_version < _MINIMUM:
        raise too_old(server, f"PostgreSQL {setting('server_version')}", "PostgreSQL 15 or newer")
    if setting("synchronous_commit") != "remote_apply":
        connection.execute("SET synchronous_commit = on")
    for name in ("fsync", "full_page_writes"):
        if setting(name) != "on":
            raise not_durable(
                server, name, setting(name), "on", f"set {name} = on in postgresql.conf, reload"
            )
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")


class PostgresqlStore(ServerStore):
    """A node's store in a PostgreSQL database."""

    strange_objects = (
        "SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE NOT tgisinternal AND c.relnamespace = current_schema()::regnamespace "
        "UNION ALL SELECT rulename FROM pg_rules WHERE schemaname = current_schema() "
        "UNION ALL SELECT policyname FROM pg_policies WHERE schemaname = current_schema() "
        "UNION ALL SELECT viewname FROM pg_views WHERE schemaname = current_schema()"
    )

    @classmethod
    def engine(cls, server: Server, size: int, *, writes: bool) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: _connect(server),
            pool_size=size,
            max_overflow=0,
            isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
            # A writer doesn't ask: a server that was made read-only must stay so.
            execution_options={} if writes else {"postgresql_readonly": True},
        )
        if writes:
            event.listen(engine, "begin", _lock)
        return engine

    @staticmethod
    def explain(error: BaseException | None, server: Server) -> KeycairnError:
        return explain(error, server)

    @staticmethod
    def insert_many(conn: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        import psycopg

        # Statements, even many at once, take several times as long.
        names = [column.name for column in table.columns]
        into = ", ".join(conn.dialect.identifier_preparer.quote(name) for name in names)
        copy = f"COPY {conn.dialect.identifier_preparer.format_table(table)} ({into}) FROM STDIN"
        driver = conn.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(copy) as out:  # type: ignore[union-attr]
                for row in rows:
                    out.write_row([row[name] for name in names])
        except psycopg.Error as exc:
            raise DBAPIError(copy, None, exc) from exc

    @staticmethod
    def away(error: BaseException | None) -> bool:
        state = getattr(error, "sqlstate", None) or ""
        return type(error).__name__ == "OperationalError" and state[:2] in ("", "08", "57", "28")


def _lock(connection: Any) -> None:
    if not connection.get_execution_options().get("keycairn_bare"):
        connection.execute(LOCK)
