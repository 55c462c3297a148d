"""TLS to PostgreSQL and MariaDB: the right authority, name and certificate, or no connection."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from databases import SERVERS
from keycairn.errors import Code, KeycairnError
from keycairn.store.database import parse_database
from keycairn.store.opening import read_keyring
from keycairn.store.server import ServerStore
from own_servers import Authority, OwnServer, own_server
from store.worlds import Home, add_keys


@dataclass
class Place:
    """A server that takes only TLS, and files in ``home`` as node.toml would name them."""

    server: OwnServer
    home: Path

    def store(self, words: str, *, host: str = "localhost", user: str = "store") -> Home:
        url = self.server.url(words, host=host, user=user)
        return Home(self.server.kind, parse_database(url, self.home))


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("tls")
    good, bad = Authority(home / "good"), Authority(home / "bad")
    for authority in (good, bad):
        authority.issue("client")
    shutil.copy(good.ca, home / "ca.pem")
    with own_server(request.param, good) as server:
        yield Place(server, home)


def encrypted(store: ServerStore) -> bool:
    question = (
        "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        if store._server.kind == "postgresql"
        else "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
    )
    found = []
    for engine in (store._writer, store._reader):
        with engine.connect() as conn:
            row = conn.exec_driver_sql(question).one()
            found.append(bool(row[-1]))
    return all(found)


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("sslmode=require", "127.0.0.1"),
        ("sslmode=require&sslrootcert=ca.pem", "127.0.0.1"),
        ("sslmode=verify-ca&sslrootcert=ca.pem", "127.0.0.1"),
        ("sslmode=verify-full&sslrootcert=ca.pem", "localhost"),
    ],
)
async def test_a_store_over_tls(place: Place, words: str, host: str) -> None:
    store = await place.store(words, host=host).open(create=True)
    assert isinstance(store, ServerStore)
    assert encrypted(store)
    await add_keys(store, [f"key-{words}-{host}"], request_id=words)
    assert len(await store.keys()) > 0
    await store.close()


@pytest.mark.parametrize(
    ("words", "host", "user"),
    [
        ("sslmode=verify-full&sslrootcert=bad/ca.pem", "localhost", "store"),
        ("sslmode=verify-ca&sslrootcert=bad/ca.pem", "localhost", "store"),
        ("sslmode=require&sslrootcert=bad/ca.pem", "localhost", "store"),
        # The right authority, but for another name.
        ("sslmode=verify-full&sslrootcert=ca.pem", "127.0.0.1", "store"),
        ("sslmode=verify-full&sslrootcert=gone.pem", "localhost", "store"),
        # The server takes no connection without TLS, and this user only with a certificate.
        ("sslmode=disable", "127.0.0.1", "store"),
        ("sslmode=verify-full&sslrootcert=ca.pem", "localhost", "pinned"),
        (
            "sslmode=verify-full&sslrootcert=ca.pem&sslcert=bad/client.pem&sslkey=bad/client.key",
            "localhost",
            "pinned",
        ),
    ],
)
async def test_a_server_or_client_of_another_authority_is_refused(
    place: Place, words: str, host: str, user: str
) -> None:
    good = await place.store("sslmode=require").open(create=True)
    digest, records = await good.state_digest(), await good.check_audit()
    where = place.store(words, host=host, user=user)
    for attempt in (where.open, lambda: where.open(create=True)):
        with pytest.raises(KeycairnError) as caught:
            await attempt()
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.not_lost
        assert any(w in caught.value.next for w in ("ssl", "certificate", "user")), (
            caught.value.next
        )
    with pytest.raises(KeycairnError) as caught:
        read_keyring(where.place)
    assert caught.value.code is Code.UNAVAILABLE
    assert (await good.state_digest(), await good.check_audit()) == (digest, records)
    await good.close()


async def test_a_client_shows_its_certificate(place: Place) -> None:
    await (await place.store("sslmode=require").open(create=True)).close()
    words = "sslmode=verify-full&sslrootcert=ca.pem&sslcert=good/client.pem&sslkey=good/client.key"
    # Only as far as to the store's tables: another user owns them.
    read_keyring(place.store(words, user="pinned").place)


@pytest.mark.parametrize("kind", SERVERS)
async def test_tls_is_not_given_up_for_a_server_without_it(kind: str, tmp_path: Path) -> None:
    """As somebody in the middle would have it: no downgrade for any mode that asks for TLS."""
    Authority(tmp_path)
    with own_server(kind) as server:
        place = Place(server, tmp_path)
        store = await place.store("", host="127.0.0.1").open(create=True)
        assert isinstance(store, ServerStore)
        assert not encrypted(store)
        await store.close()
        for mode in ("require", "verify-ca", "verify-full"):
            with pytest.raises(KeycairnError) as caught:
                await place.store(f"sslmode={mode}&sslrootcert=ca.pem").open()
            assert caught.value.code is Code.UNAVAILABLE
            assert "TLS" in caught.value.message
            assert "sslmode" in caught.value.next
