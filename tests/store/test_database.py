"""``[database] url``: what it may say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.store.database import Server, parse_database

HOME = Path("/srv/node1")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///data/node.db", "/srv/node1/data/node.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:///../x.db", "/srv/x.db"),
    ],
)
def test_files(url: str, path: str) -> None:
    assert parse_database(url, HOME) == Path(path)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (
            "postgresql://node@127.0.0.1/store",
            Server("postgresql", "node", (("127.0.0.1", 5432),), "store"),
        ),
        ("mariadb://n%40x@localhost:33/s", Server("mariadb", "n@x", (("localhost", 33),), "s")),
        ("postgresql:///store", Server("postgresql", "", (), "store")),
        (
            "postgresql://n@/store?host=/run/postgresql",
            Server("postgresql", "n", (("/run/postgresql", 5432),), "store"),
        ),
        (
            "postgresql://n@[::1]:5433/store?sslmode=disable",
            Server("postgresql", "n", (("::1", 5433),), "store", {"sslmode": "disable"}),
        ),
        (
            "mariadb://n@db.example/s?sslmode=verify-full&sslrootcert=ca.pem",
            Server(
                "mariadb",
                "n",
                (("db.example", 3306),),
                "s",
                {"sslmode": "verify-full", "sslrootcert": "/srv/node1/ca.pem"},
            ),
        ),
        (
            "postgresql://n@a.example:1,b.example/s?sslmode=require",
            Server(
                "postgresql",
                "n",
                (("a.example", 1), ("b.example", 5432)),
                "s",
                {"sslmode": "require"},
            ),
        ),
    ],
)
def test_servers(url: str, wanted: Server) -> None:
    found = parse_database(url, HOME)
    assert found == wanted
    assert isinstance(found, Server)
    assert found.files == tuple(Path(v) for k, v in wanted.options.items() if k == "sslrootcert")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", Code.MALFORMED),
        ("sqlite:///", Code.MALFORMED),
        ("mysql://n@127.0.0.1/s", Code.MALFORMED),
        ("postgresql://n@127.0.0.1", Code.MALFORMED),
        ("postgresql://n@127.0.0.1/", Code.MALFORMED),
        ("postgresql://n@127.0.0.1:0/s", Code.MALFORMED),
        ("postgresql://n@127.0.0.1:70000/s", Code.MALFORMED),
        ("postgresql://n@127.0.0.1/s?options=-c%20fsync=off", Code.MALFORMED),
        ("postgresql://n@127.0.0.1/s?sslmode=prefer", Code.MALFORMED),
        ("postgresql://n@127.0.0.1/s?sslmode=disable&sslmode=require", Code.MALFORMED),
        ("postgresql://n@db.example/s?sslmode=verify-full", Code.MALFORMED),
        ("postgresql://n@db.example,/s?sslmode=require", Code.MALFORMED),
        ("mariadb://n@a,b/s", Code.MALFORMED),
        ("mariadb://n@/s", Code.MALFORMED),
        ("postgresql://n:secret@127.0.0.1/s", Code.POLICY),
        ("postgresql://n@127.0.0.1/s#x", Code.MALFORMED),
        ("postgresql://n@db.example/s", Code.POLICY),
        ("postgresql://n@192.0.2.7/s?sslmode=disable", Code.POLICY),
        ("postgresql://n@127.0.0.1,db.example/s", Code.POLICY),
        ("mariadb://n@db.example/s", Code.POLICY),
    ],
)
def test_what_is_refused(url: str, code: Code) -> None:
    with pytest.raises(KeycairnError) as caught:
        parse_database(url, HOME)
    assert caught.value.code is code
    assert "secret" not in f"{caught.value}{caught.value.next}{caught.value.detail}"


def test_a_password_shows_nowhere() -> None:
    server = parse_database(
        "postgresql://n@127.0.0.1/s", HOME, password=SecretBytes(b"hunter2-hunter2")
    )
    assert "hunter2" not in f"{server} {server!r}"
