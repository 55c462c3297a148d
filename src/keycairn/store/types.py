"""Column types that mean the same on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from sqlalchemy import LargeBinary, String
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

_MARIADB = ("mysql", "mariadb")

#: Options of a table: the engine of MariaDB that has transactions, whatever the server's default.
INNODB = {f"{dialect}_engine": "InnoDB" for dialect in _MARIADB}


def text(length: int) -> TypeEngine[str]:
    on_mariadb = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin")
    on_postgresql = String(length, collation="C")
    return (
        String(length).with_variant(on_postgresql, "postgresql").with_variant(on_mariadb, *_MARIADB)
    )


def name(length: int) -> TypeEngine[bytes]:
    """Bytes that stand in a key: MariaDB has no index over a BLOB."""
    return LargeBinary(length).with_variant(mysql.VARBINARY(length), *_MARIADB)


def blob() -> TypeEngine[bytes]:
    return LargeBinary().with_variant(mysql.LONGBLOB(), *_MARIADB)
