"""MariaDB 10.11 or newer, through PyMySQL.

``innodb_flush_log_at_trx_commit`` belongs to the server alone: one that does not flush each commit
is refused. Text that does not fit is refused in strict mode, which each session asks for.
"""

from __future__ import annotations

import ssl
from typing import Any

from sqlalchemy import Engine, create_engine, event

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

_MINIMUM = (10, 11)

_AWAY = ("the database does not answer", "start it, or mend the way to it; the node reconnects")
_REFUSED = (
    "the database refuses this user",
    "check the user and the password of [database], and sslmode if the server asks for TLS",
)
_READ_ONLY = (
    "the database is read-only: it is a replica, or is failing over",
    "name the primary in [database] url, or wait until the fail-over ends",
)
_FULL = ("the database's disk is full", "free space there; the node goes on by itself")
_RIGHTS = (
    "the database's user lacks a right",
    "grant the node's user ALL PRIVILEGES on its database",
)

#: By error number: what to say, and what helps.
_HELP = {
    **dict.fromkeys((2002, 2003, 2005, 2006, 2013, 2055, 1053, 1927), _AWAY),
    **dict.fromkeys((1044, 1045, 1698, 1130), _REFUSED),
    **dict.fromkeys((1290, 1792, 1836, 4100), _READ_ONLY),
    **dict.fromkeys((3, 28, 1021, 1114), _FULL),
    **dict.fromkeys((1142, 1143, 1227, 1370), _RIGHTS),
    1040: ("the database takes no more connections", "raise max_connections"),
    1203: ("the database takes no more connections", "raise max_user_connections"),
    1153: ("a value is larger than the server takes", "raise max_allowed_packet"),
    1205: ("the database is locked by another program", "stop that program, then try again"),
    1213: ("the database undid the transaction", "try again"),
    1969: ("the database is too slow: a statement took too long", "look at the database's load"),
    3024: ("the database is too slow: a statement took too long", "look at the database's load"),
}
_BAD_VALUE = {1264, 1366, 1406, 3988}
_DAMAGED = {1016, 1030, 1034, 1054, 1146, 1194, 1712, 1932}
_DOWN = {2002, 2003, 2005, 2006, 2013, 2055, 1053, 1927, 1044, 1045, 1698, 1130, 1040}


def explain(error: BaseException | None, server: Server) -> KeycairnError:
    """A PyMySQL error in the operator's words."""
    number = _number(error)
    if number == 1049:
        return KeycairnError(
            Code.NOT_FOUND,
            f"the server has no database {server.name!r}",
            not_lost="Nothing was changed, and nothing was made in its place.",
            next="check [database] url, or restore the database",
        )
    if number in _BAD_VALUE:
        return KeycairnError(
            Code.MALFORMED,
            "a value is too long, or holds a character that the database can't store",
            not_lost="Nothing of this operation was stored.",
            detail={"mariadb": number},
        )
    if number in _DAMAGED:
        return KeycairnError(
            Code.STORE_INTEGRITY,
            "the database is damaged, or its tables were changed",
            not_lost="The other holders still have their shares.",
            next="keycairn node restore BUNDLE --into DIR --identity FILE",
            detail={"mariadb": number},
        )
    if "certificate" in str(error).lower() or "ssl" in str(error).lower():
        return unavailable(
            "the database's TLS certificate is not the expected one, or it has none",
            "check sslmode, sslrootcert and the server's certificate",
        )
    what, helps = _HELP.get(number, _AWAY)
    return unavailable(what, helps, mariadb=number or type(error).__name__)


def _number(error: BaseException | None) -> int:
    args = getattr(error, "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


def _tls(server: Server) -> ssl.SSLContext | None:
    if server.mode in ("", "disable"):
        return None
    context = ssl.create_default_context(cafile=server.options.get("sslrootcert"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = server.mode == "verify-full"
    if server.mode == "require" and "sslrootcert" not in server.options:
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in server.options:
        context.load_cert_chain(server.options["sslcert"], server.options.get("sslkey"))
    return context


def _connect(server: Server) -> Any:
    try:
        import pymysql
    except ImportError as exc:
        raise KeycairnError(
            Code.POLICY,
            "the driver for MariaDB is not installed",
            not_lost="Nothing was changed.",
            next="pip install 'keycairn[mariadb]'",
        ) from exc

    words: dict[str, Any] = {
        "database": server.name,
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": STATEMENT_SECONDS + GRACE_SECONDS,
        "write_timeout": STATEMENT_SECONDS + GRACE_SECONDS,
        "local_infile": False,
    }
    for host, port in server.hosts:
        words |= {"unix_socket": host} if host.startswith("/") else {"host": host, "port": port}
    if server.user:
        words["user"] = server.user
    if server.password is not None:
        words["password"] = server.password.reveal()
    try:
        tls = _tls(server)
    except (OSError, ssl.SSLError) as exc:
        raise unavailable(
            "a file of the database's TLS options can't be read",
            "check sslrootcert, sslcert and sslkey of [database] url",
        ) from exc
    # Without a word it takes TLS if the server has it, as PostgreSQL's driver does.
    disabled = server.mode == "disable"
    connection = pymysql.connect(ssl=tls, ssl_disabled=disabled, **words)
    try:
        with connection.cursor() as cursor:
            _prepare(cursor, server)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(cursor: Any, server: Server) -> None:
    cursor.execute("SELECT version(), @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite")
    version, flush, doublewrite = cursor.fetchone()
    numbers = tuple(int(n) for n in version.split("-")[0].split(".")[:2])
    if "mariadb" not in version.lower() or numbers < _MINIMUM:
        raise too_old(server, f"version {version}", "MariaDB 10.11 or newer")
    # 3 flushes as often as 1, and once more.
    if flush not in (1, 3):
        raise not_durable(
            server,
            "innodb_flush_log_at_trx_commit",
            str(flush),
            "1",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in the server's option file",
        )
    if not doublewrite:
        raise not_durable(
            server, "innodb_doublewrite", "0", "1", "set innodb_doublewrite = 1, restart the server"
        )
    cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
    cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (LOCK_SECONDS,))
    cursor.execute("SET SESSION lock_wait_timeout = %s", (LOCK_SECONDS,))
    cursor.execute("SET SESSION max_statement_time = %s", (STATEMENT_SECONDS,))


class MariadbStore(ServerStore):
    """A node's store in a MariaDB database."""

    strange_objects = (
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = database() "
        "UNION ALL SELECT table_name FROM information_schema.views WHERE table_schema = database() "
        "UNION ALL SELECT table_name FROM information_schema.tables "
        "WHERE table_schema = database() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB'"
    )

    @classmethod
    def engine(cls, server: Server, size: int, *, writes: bool) -> Engine:
        engine = create_engine(
            "mariadb+pymysql://",
            creator=lambda: _connect(server),
            pool_size=size,
            max_overflow=0,
            isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
        )
        event.listen(engine, "begin", _lock if writes else _snapshot)
        return engine

    @staticmethod
    def explain(error: BaseException | None, server: Server) -> KeycairnError:
        return explain(error, server)

    @staticmethod
    def away(error: BaseException | None) -> bool:
        return _number(error) in _DOWN


def _lock(connection: Any) -> None:
    if not connection.get_execution_options().get("keycairn_bare"):
        connection.execute(LOCK)


def _snapshot(connection: Any) -> None:
    connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
