"""The node's history in every store: what extends it, what conditions hold, rejoin, freezing."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from databases import SERVERS
from keycairn.encoding import canonical_cbor
from keycairn.errors import Code, KeycairnError
from keycairn.store import core, schema
from keycairn.store.opening import mark_restored
from keycairn.store.sql import SqlStore
from keycairn.vault.fence.history import Head, begin, extend, next_era
from keycairn.vault.ports import (
    BanRow,
    BehindRow,
    BundleRow,
    DocumentRow,
    ErsKeyRow,
    HistoryRow,
    RequestRow,
    Store,
)
from store.worlds import KINDS, Home, add_keys, home, new_batch, new_key, spend

QUARANTINED = KeycairnError(Code.QUARANTINED, "the node may not act", next="keycairn node rejoin")
BAN = BanRow("b1", 2, "OT check failed", 5)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with home(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=("sqlite", *SERVERS))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with home(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """For what the shared code does above any database."""
    made = await Home("sqlite", tmp_path / "node.db").open(create=True)
    yield made
    await made.close()


@pytest.fixture
async def store(place: Home) -> AsyncIterator[SqlStore]:
    made = await place.open(create=True)
    yield made
    await made.close()


async def refused(code: Code, awaitable: Awaitable[Any]) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    return caught.value


def ers_key(n: int, state: str) -> ErsKeyRow:
    challenge = {"public": "x"} if state == "challenged" else None
    return ErsKeyRow(f"{n:064x}", b"spki-%d" % n, 3072, 1, None, None, state, False, challenge)


def document(n: int) -> DocumentRow:
    keys = {"key-a": (1, bytes(32))}
    return DocumentRow(f"{n:064x}", "p", "ab" * 32, "l", True, keys, 1, 1)


def heads(vault: str, node: int, events: Sequence[HistoryRow]) -> list[Head]:
    """What the chain of these events must be, from the pure rules alone."""
    head, out = begin(vault, node), []
    for e in events:
        packed = canonical_cbor(dict(e.detail))
        rejoins = e.kind == "rejoin"
        head = next_era(head, e.era, packed) if rejoins else extend(head, e.kind, packed)
        out.append(head)
    return out


async def is_chain(place: Home, store: SqlStore, kinds: Sequence[str]) -> None:
    events = await store.history()
    assert [e.kind for e in events] == list(kinds)
    expected = heads(place.vault, place.node, events)
    assert [Head(e.era, e.length, e.hash) for e in events] == expected
    for head in expected:
        assert await store.history_at(head.length) == head
    assert await store.history_head() == (expected or [begin(place.vault, place.node)])[-1]


async def contents(store: SqlStore) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, as it stands in the database."""

    async def work(reader: Any) -> dict[str, list[tuple[Any, ...]]]:
        out = {}
        for table in schema.metadata.sorted_tables:
            query = select(table).order_by(*table.primary_key.columns)
            out[table.name] = [tuple(row) for row in await reader.conn.execute(query)]
        return out

    return await store._read(work)


async def put_back(store: SqlStore, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Make the database what it was, beneath the store."""

    async def work(conn: Any) -> None:
        for table in reversed(schema.metadata.sorted_tables):
            await conn.execute(delete(table))
        for table in schema.metadata.sorted_tables:
            names = [c.name for c in table.columns]
            if rows[table.name]:
                values = [dict(zip(names, row, strict=True)) for row in rows[table.name]]
                await conn.execute(insert(table), values)

    await store._in_transaction(work)


# -- what extends it


async def test_r03_each_change_is_exactly_one_event_in_its_transaction(
    place: Home, store: SqlStore
) -> None:
    genesis = begin(place.vault, place.node)
    assert await store.history_head() == await store.history_at(0) == genesis
    assert await store.history_at(1) is None
    assert await store.history() == []
    done: list[str] = []

    async def extends(kind: str, change: Awaitable[Any]) -> Any:
        records = await store.check_audit()
        result = await change
        done.append(kind)
        await is_chain(place, store, done)
        assert await store.check_audit() == records + 1
        return result

    head = await extends("start", store.begin_incarnation(b"inc-1", 7))
    assert head == await store.history_head()
    [event] = await store.history()
    assert (event.detail, event.at_us) == ({"incarnation": b"inc-1"}, 7)

    keys = [new_key("key-a"), new_key("key-b")]
    batch = new_batch(keys)
    await extends("ready", store.put_batch(batch, keys))
    head = await store.history_head()
    await store.add_ready(batch.batch_id, {2: b"2" * 64})
    assert await store.history_head() == head, "another's READY is no promise of this node"
    await extends("keys", store.add_ready(batch.batch_id, {3: b"3" * 64}))
    await store.add_ready(batch.batch_id, {3: b"again"})
    assert {e.detail["batch"] for e in await store.history(after=1)} == {batch.batch_id}
    whole = new_batch([new_key("key-c")], request_id="r-2", ready=(1, 2, 3))
    await extends("keys", store.put_batch(whole, [new_key("key-c")]))

    await extends("ban", store.put_ban(BAN))
    await store.put_ban(replace(BAN, reason="said again"))
    await extends("unban", store.put_ban(replace(BAN, lifted_us=9)))
    await extends("ban", store.put_ban(replace(BAN, peer=3)))

    await store.put_ers_key(ers_key(1, "challenged"))
    await extends("ers_key", store.put_ers_key(ers_key(1, "allowed")))
    await store.put_ers_key(replace(ers_key(1, "allowed"), attested_us=8))
    await extends("ers_key", store.put_ers_key(ers_key(1, "removed")))
    await store.put_ers_key(ers_key(1, "challenged"))
    states = [e.detail["state"] for e in await store.history() if e.kind == "ers_key"]
    assert states == ["allowed", "removed"]

    noted = await extends("configured", store.note_history("configured", {"allowed": ["x"]}))
    assert noted == await store.history_head()
    bans = [BanRow("b2", 3, "of a witness", 5)]
    detail = {"causes": ["restored"]}
    await extends("rejoin", store.rejoin(b"inc-2", 2, 9, bans=bans, revoked=[], detail=detail))
    await extends("start", store.begin_incarnation(b"inc-3", 10))
    assert [e.era for e in await store.history()] == [1] * (len(done) - 2) + [2, 2]
    assert [e.length for e in await store.history(after=3, limit=2)] == [4, 5]


async def test_nothing_else_is_in_the_history(place: Home, store: SqlStore) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"], active=False)
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await store.spend_all([spend(1)], ["m/1"])
    await store.drop_presignatures([b"p"])
    await store.note_paths("key-a", ["m/2"], 1)
    await store.put_request(RequestRow("shop", "r", b"", {}))
    await store.put_document(document(1))
    await store.delete_document(document(1).sha256)
    await store.put_bundle(BundleRow("ef" * 32, "file:x", 1, 1, 1, "hashes", {}))
    await store.delete_bundle("ef" * 32)
    await store.audit("something", {})
    await store.put_witness(2, b"w", Head(1, 1, bytes(32)))
    await store.put_behind([BehindRow(b"b", ("k",), 2, 1)])
    await is_chain(place, store, ["start", "ready"])


async def test_a_change_that_fails_leaves_no_event(place: Home, store: SqlStore) -> None:
    """Alone, and among others that share its transaction: order and links stay."""
    await store.begin_incarnation(b"inc-1", 1)
    [key] = await add_keys(store, ["key-a"])
    taken = new_batch([key], request_id="r-2", ready=(1, 2, 3))
    await refused(Code.CONFLICT, store.put_batch(taken, [key]))
    await refused(Code.CONFLICT, store.begin_incarnation(b"inc-1", 2))
    await refused(Code.MALFORMED, store.note_history("odd", {"x": 0.5}))
    for kind in ("start", "rejoin", "ready", "keys", "ban", "unban", "ers_key", "", "k" * 65):
        await refused(Code.MALFORMED, store.note_history(kind, {}))
    await is_chain(place, store, ["start", "ready", "keys"])
    fresh = new_key("key-b")
    results = await asyncio.gather(
        store.note_history("one", {}),
        store.put_batch(taken, [key]),
        store.put_ban(BAN),
        store.begin_incarnation(b"inc-1", 3),
        store.rejoin(b"inc-2", 1, 3, bans=[BAN], revoked=[], detail={}),
        store.note_history("odd", {"x": 0.5}),
        store.put_batch(new_batch([fresh], request_id="r-3", ready=(1, 2, 3)), [fresh]),
        store.put_ers_key(ers_key(1, "allowed")),
        store.spend_all([spend(1)]),
        store.note_history("two", {}),
        return_exceptions=True,
    )
    codes = [r.code for r in results if isinstance(r, KeycairnError)]
    assert codes == [Code.CONFLICT] * 3 + [Code.MALFORMED]
    # A batch is sealed before it is queued, so its place among the others is not fixed.
    rest = [e.kind for e in (await store.history())[3:]]
    assert [k for k in rest if k != "keys"] == ["one", "ban", "ers_key", "two"]
    assert rest.count("keys") == 1
    await is_chain(place, store, ["start", "ready", "keys", *rest])
    assert isinstance(results[0], Head)
    assert await store.history_at(results[0].length) == results[0]
    await store.spend_all([spend(2)])


async def test_400_concurrent_changes_make_one_chain(place: Home, store: SqlStore) -> None:
    """Also through two stores on one database, as two processes would have it."""
    second = await place.open() if place.shared else store
    stores = (store, second)
    places = await asyncio.gather(
        *[stores[n % 2].note_history("change", {"n": n}) for n in range(400)]
    )
    assert sorted(h.length for h in places) == list(range(1, 401))
    await is_chain(place, store, ["change"] * 400)
    noted = {e.length: e.detail["n"] for e in await store.history()}
    assert [noted[h.length] for h in places] == list(range(400))
    await second.close()


async def test_the_history_is_there_after_a_restart_and_in_copies(
    place: Home, tmp_path: Path
) -> None:
    store = await place.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await store.put_ban(BAN)
    await store.put_witness(2, b"word", Head(1, 1, bytes(32)))
    head, digest = await store.history_head(), await store.state_digest()
    await store.snapshot(tmp_path / "copy.db")
    await store.close()
    opened = [Home("sqlite", tmp_path / "copy.db")]
    if place.durable:
        opened.append(place)
    for where in opened:
        again = await where.open()
        assert await again.history_head() == head
        await is_chain(place, again, ["start", "ban"])
        assert await again.witness(2) == b"word"
        assert await again.state_digest() == digest
        await again.close()


async def test_history_witnesses_and_what_is_behind_are_no_logical_state(sqlite: SqlStore) -> None:
    digest = await sqlite.state_digest()
    await sqlite.begin_incarnation(b"inc-1", 1)
    await sqlite.note_history("x", {})
    await sqlite.put_witness(2, b"w", Head(1, 1, bytes(32)))
    await sqlite.put_behind([BehindRow(b"b", ("k",), 2, 1)])
    assert await sqlite.state_digest() == digest


# -- witnesses of peers, batches that are missing


async def test_the_newest_word_of_each_peer_is_kept(store: SqlStore) -> None:
    assert await store.witness(2) is None
    await store.put_witness(2, b"first", Head(1, 5, b"h" * 32))
    await store.put_witness(3, b"of another", Head(1, 1, b"i" * 32))
    await store.put_witness(2, b"second" * 10_000, Head(2, 7, b"j" * 32))
    assert await store.witness(2) == b"second" * 10_000
    assert await store.witness(3) == b"of another"


async def test_what_is_behind_is_listed_until_the_batch_comes(store: SqlStore) -> None:
    key = new_key("key-a")
    batch = new_batch([key])
    mine = BehindRow(batch.batch_id, ("key-a",), 2, 5)
    rows = [mine, BehindRow(b"\xff" * 32, ("key-x", "key-y"), 3, 6)]
    await store.put_behind([])
    await store.put_behind(rows)
    assert await store.behind() == sorted(rows, key=lambda r: r.batch_id)
    await store.put_behind([replace(mine, peer=3)])
    assert replace(mine, peer=3) in await store.behind()
    await store.put_batch(batch, [key])
    assert await store.behind() == rows[1:]


# -- conditions


async def test_r03_a_database_that_was_put_back_takes_no_change(
    place: Home, store: SqlStore
) -> None:
    """INV-14: it lacks what this process wrote. Told once, on the event loop, until a rejoin."""
    told: list[int] = []
    store.on_rollback(lambda: told.append(threading.get_ident()))
    await store.begin_incarnation(b"inc-1", 1)
    older = await contents(store)
    await store.put_ban(BAN)
    assert told == []
    await put_back(store, older)
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.note_history("x", {}),
        lambda: store.put_ban(replace(BAN, ban_id="b2")),
        lambda: store.spend_all([spend(1)]),
        lambda: store.put_witness(2, b"w", Head(1, 1, bytes(32))),
        lambda: store.put_ers_key(ers_key(1, "allowed")),
    ]
    for change in changes:
        error = await refused(Code.STORE_ROLLBACK, change())
        assert error.next
    assert told == [threading.get_ident()]
    assert await contents(store) == older
    await store.rejoin(b"inc-2", 2, 2, bans=[BAN], revoked=[], detail={})
    await store.spend_all([spend(1, incarnation=b"inc-2")])
    assert [b.ban_id for b in await store.bans()] == ["b1"]
    assert len(told) == 1
    # And once more in the next incarnation.
    older = await contents(store)
    await store.note_history("x", {})
    await put_back(store, older)
    await refused(Code.STORE_ROLLBACK, store.note_history("y", {}))
    assert len(told) == 2


async def test_r02_a_newer_incarnation_in_the_database_is_told_once(database: Home) -> None:
    first, second = await database.open(create=True), await database.open()
    told: list[str] = []
    first.on_rollback(lambda: told.append("first"))
    second.on_rollback(lambda: told.append("second"))
    await first.begin_incarnation(b"inc-1", 1)
    await first.audit("x", {})
    await second.audit("a store that began nothing is not superseded", {})
    await second.begin_incarnation(b"inc-2", 2)
    await second.audit("x", {})
    assert told == []
    for _ in range(3):
        await first.audit("x", {})
    await refused(Code.QUARANTINED, first.spend_all([spend(1)]))
    assert told == ["first"]
    await first.begin_incarnation(b"inc-3", 3)
    await first.audit("x", {})
    await second.note_history("x", {})
    assert told == ["first", "second"]
    await first.close()
    await second.close()


async def test_starts_among_other_writes_are_no_newer_incarnation(sqlite: SqlStore) -> None:
    told: list[int] = []
    sqlite.on_rollback(lambda: told.append(1))
    writes = []
    for n in range(20):
        writes += [sqlite.begin_incarnation(b"inc-%d" % n, n)]
        writes += [sqlite.audit("x", {"n": n}) for n in range(5)]
    await asyncio.gather(*writes)
    assert told == []


async def test_a_start_whose_commit_has_no_answer_is_no_newer_incarnation(
    sqlite: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    sqlite.on_rollback(lambda: told.append(1))
    await sqlite.begin_incarnation(b"inc-1", 1)
    real = sqlite._in_transaction

    async def lost(work: Any) -> Any:
        await real(work)
        raise core.UnknownCommit(OSError("the answer is lost"))

    monkeypatch.setattr(sqlite, "_in_transaction", lost)
    await refused(Code.UNAVAILABLE, sqlite.rejoin(b"inc-2", 2, 2, bans=[], revoked=[], detail={}))
    monkeypatch.undo()
    await sqlite.audit("x", {})
    assert told == []
    await sqlite.rejoin(b"inc-3", 3, 3, bans=[], revoked=[], detail={})
    await sqlite.spend_all([spend(1, incarnation=b"inc-3")])
    await refused(Code.QUARANTINED, sqlite.spend_all([spend(2, incarnation=b"inc-2")]))
    assert told == []


# -- rejoin


async def test_rejoin_begins_a_later_era_and_drops_what_died(place: Home, store: SqlStore) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"])
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await store.spend_all([spend(1)], ["m/1"])
    lifted, kept = replace(BAN, lifted_us=6), BanRow("b2", 3, "here before", 6)
    await store.put_ban(lifted)
    await store.put_ban(kept)
    await store.put_witness(2, b"word of 2", Head(1, 1, bytes(32)))
    for n, state in enumerate(("allowed", "challenged", "removed", "allowed", "removed"), 1):
        await store.put_ers_key(ers_key(n, state))
    before = await store.history_head()
    taken = BanRow("b3", 3, "of a witness", 7)
    strange = "ee" * 32
    head = await store.rejoin(
        b"inc-2",
        4,
        9,
        bans=[taken, replace(BAN, reason="the operator here lifted it"), kept],
        revoked=[ers_key(4, "").spki_sha256, ers_key(5, "").spki_sha256, strange, strange],
        detail={"causes": ["restored"]},
    )
    assert (head.era, head.length) == (4, before.length + 1)
    [event] = await store.history(after=before.length)
    assert event.detail == {
        "incarnation": b"inc-2",
        "bans": ["b3"],
        "revoked": sorted([ers_key(4, "").spki_sha256, ers_key(5, "").spki_sha256, strange]),
        "dropped": [ers_key(n, "").spki_sha256 for n in (1, 2, 4)],
        "detail": {"causes": ["restored"]},
    }
    assert await store.bans() == [lifted, kept, taken]
    # Additions at run time have to be made again, revocations hold, known here or not.
    keys = {k.spki_sha256: k for k in await store.ers_keys()}
    assert keys == {
        **{ers_key(n, "").spki_sha256: ers_key(n, "removed") for n in (3, 4, 5)},
        strange: ErsKeyRow(strange, b"", 0, 9, None, None, "removed"),
    }
    assert await store.presignatures([b"p"]) == {}
    await refused(Code.QUARANTINED, store.spend_all([spend(2)]))
    await refused(Code.QUARANTINED, store.put_presignatures(b"inc-1", {b"q": b"s"}))
    await store.spend_all([spend(2, incarnation=b"inc-2")])
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(1, incarnation=b"inc-2")]))
    # What others said of themselves, keys and their paths are no business of it.
    assert await store.witness(2) == b"word of 2"
    assert await store.paths("key-a") == ["m/1"]
    assert (await store.key_share("key-a")).index == 1
    for era in (3, 4):
        again = store.rejoin(b"inc-3", era, 9, bans=[taken], revoked=[], detail={})
        await refused(Code.CONFLICT, again)
    assert await store.history_head() == head
    await store.check_audit()


async def test_a_rejoin_that_fails_changed_nothing(store: SqlStore) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await store.put_ers_key(ers_key(1, "allowed"))
    before = await contents(store)
    for incarnation, era, detail in (
        (b"inc-1", 2, {}),
        (b"inc-2", 1, {}),
        (b"inc-2", 2, {"x": 0.5}),
    ):
        with pytest.raises(KeycairnError):
            await store.rejoin(incarnation, era, 2, bans=[BAN], revoked=["a"], detail=detail)
        assert await contents(store) == before
    await store.spend_all([spend(1)])


# -- frozen

#: What only reads, or ends the store.
_READS = {
    "audit_log", "batch", "batch_by_request", "behind", "bans", "bundles", "check_audit", "close",
    "damaged", "documents", "ers_key", "ers_keys", "freeze", "history", "history_at",
    "history_head", "key", "key_share", "key_shares", "keys", "on_rollback", "paths",
    "pending_batches", "presignatures", "request", "restored", "snapshot", "spends",
    "state_digest", "witness",
}  # fmt: skip


def writes(store: Store, batch_id: bytes) -> dict[str, Callable[[], Awaitable[Any]]]:
    key = new_key("key-z")
    batch = new_batch([key], request_id="r-z")
    row = RequestRow("shop", "r", b"", {})
    bundle = BundleRow("ef" * 32, "file:x", 1, 1, 1, "hashes", {})
    return {
        "begin_incarnation": lambda: store.begin_incarnation(b"inc-2", 2),
        "rejoin": lambda: store.rejoin(b"inc-2", 2, 2, bans=[], revoked=[], detail={}),
        "spend_all": lambda: store.spend_all([spend(7)], ["m/7"]),
        "put_presignatures": lambda: store.put_presignatures(b"inc-1", {b"q": b"s"}),
        "drop_presignatures": lambda: store.drop_presignatures([b"p"]),
        "note_paths": lambda: store.note_paths("key-a", ["m/9"], 1),
        "note_history": lambda: store.note_history("x", {}),
        "put_witness": lambda: store.put_witness(2, b"w", Head(1, 1, bytes(32))),
        "put_behind": lambda: store.put_behind([BehindRow(b"b", (), 2, 1)]),
        "put_batch": lambda: store.put_batch(batch, [key]),
        "add_ready": lambda: store.add_ready(batch_id, {2: b"", 3: b""}),
        "put_request": lambda: store.put_request(row, hurry=False),
        "put_ban": lambda: store.put_ban(BAN),
        "put_ers_key": lambda: store.put_ers_key(ers_key(1, "allowed")),
        "put_document": lambda: store.put_document(document(2)),
        "delete_document": lambda: store.delete_document(document(1).sha256),
        "put_bundle": lambda: store.put_bundle(bundle),
        "delete_bundle": lambda: store.delete_bundle("cd" * 32),
        "audit": lambda: store.audit("x", {}),
    }


async def test_r04_a_frozen_store_writes_nothing(store: SqlStore) -> None:
    """Each method of the port that writes, one by one and all at once; then all of them work."""
    await store.begin_incarnation(b"inc-1", 1)
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await add_keys(store, ["key-a"], active=False)
    [batch] = await store.pending_batches()
    await store.put_document(document(1))
    await store.put_bundle(BundleRow("cd" * 32, "file:x", 1, 1, 1, "hashes", {}))
    calls = writes(store, batch.batch_id)
    port = {n for n, m in vars(Store).items() if inspect.isfunction(m) and not n.startswith("_")}
    assert set(calls) == port - _READS, "a new method of the port: does it write?"
    before, head = await contents(store), await store.history_head()
    store.freeze(QUARANTINED)
    for name, call in calls.items():
        error = await refused(Code.QUARANTINED, call())
        assert error.next == QUARANTINED.next, name
    results = await asyncio.gather(*[c() for c in calls.values()], return_exceptions=True)
    assert all(r is QUARANTINED for r in results)
    assert await contents(store) == before
    assert await store.history_head() == head
    assert (await store.key_share("key-a")).index == 1
    await store.check_audit()
    store.freeze(None)
    last = ("begin_incarnation", "rejoin")
    for name in [n for n in calls if n not in last]:
        await calls[name]()
    await calls["rejoin"]()
    assert await contents(store) != before


async def test_r04_what_is_queued_when_the_store_freezes_is_not_written(sqlite: SqlStore) -> None:
    await sqlite.begin_incarnation(b"inc-1", 1)
    before = await contents(sqlite)
    patient = asyncio.create_task(sqlite.put_request(RequestRow("shop", "r", b"", {}), hurry=False))
    queued = [asyncio.create_task(sqlite.put_ban(replace(BAN, ban_id=f"b{n}"))) for n in range(99)]
    await asyncio.sleep(0)
    sqlite.freeze(QUARANTINED)
    results = await asyncio.gather(*queued, patient, return_exceptions=True)
    assert all(r is QUARANTINED for r in results)
    assert await contents(sqlite) == before
    sqlite.freeze(None)
    await sqlite.put_ban(BAN)


async def test_a_group_that_runs_when_the_store_freezes_ends_whole(sqlite: SqlStore) -> None:
    """Others behind it are refused; nobody gets another answer than what is in the database."""
    await sqlite.begin_incarnation(b"inc-1", 1)
    tasks = [asyncio.create_task(sqlite.note_history("x", {"n": n})) for n in range(300)]
    for _ in range(6):
        await asyncio.sleep(0)
    await asyncio.sleep(0.003)
    sqlite.freeze(QUARANTINED)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    done = [r for r in results if isinstance(r, Head)]
    assert len(done) + sum(r is QUARANTINED for r in results) == 300
    noted = [e.detail["n"] for e in (await sqlite.history())[1:]]
    assert noted == [n for n, r in enumerate(results) if isinstance(r, Head)]


# -- the restore mark


async def test_r04_a_restore_leaves_a_mark_until_the_rejoin(database: Home, tmp_path: Path) -> None:
    with pytest.raises(KeycairnError) as caught:
        mark_restored(database.place, "too early")
    assert caught.value.code is Code.NOT_FOUND
    store = await database.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    assert await store.restored() is None
    records, head = await store.check_audit(), await store.history_head()
    await store.close()
    for why in ("from a bundle", "from the bundle of Mönday"):
        mark_restored(database.place, why)
    store = await database.open()
    assert await store.restored() == "from the bundle of Mönday"
    assert (await store.check_audit(), await store.history_head()) == (records, head)
    await store.begin_incarnation(b"inc-2", 2)
    assert await store.restored() is not None, "a start is no rejoin"
    await store.snapshot(tmp_path / "copy.db")
    await store.rejoin(b"inc-3", 2, 3, bans=[], revoked=[], detail={})
    assert await store.restored() is None
    await store.close()
    copy = await Home("sqlite", tmp_path / "copy.db").open()
    assert await copy.restored() is not None
    await copy.close()


# -- the chain is checked


async def tampered(store: SqlStore, *statements: Any) -> None:
    async def work(conn: Any) -> None:
        for statement in statements:
            await conn.execute(statement)

    await store._in_transaction(work)


@pytest.mark.parametrize("how", ["edited", "hash", "middle", "end", "added", "index"])
async def test_r20_a_broken_history_is_not_opened(database: Home, how: str) -> None:
    store = await database.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    for n in range(5):
        await store.note_history("change", {"n": n})
    table, index = schema.history, schema.row_index
    forged = extend(await store.history_head(), "change", b"\xa0")
    mine = index.c.table_name == "history"
    statements = {
        "edited": [update(table).where(table.c.length == 3).values(detail=b"\xa0")],
        "hash": [update(table).where(table.c.length == 3).values(hash=bytes(32))],
        "middle": [delete(table).where(table.c.length == 3)],
        "end": [
            delete(table).where(table.c.length == 6),
            delete(index).where(mine, index.c.row_key == "6"),
        ],
        "added": [
            insert(table).values(
                length=7, era=1, hash=forged.hash, kind="change", detail=b"\xa0", at_us=1, version=1
            )
        ],
        "index": [update(index).where(mine, index.c.row_key == "3").values(mac=bytes(32))],
    }[how]
    await tampered(store, *statements)
    await store.close()
    if how == "index":  # the rows are sound: their index is made anew
        store = await database.open()
        await is_chain(database, store, ["start"] + ["change"] * 5)
        await store.close()
        return
    error = await refused(Code.STORE_INTEGRITY, database.open())
    assert error.not_lost
    assert error.next
    positions = {"edited": 3, "hash": 3, "middle": 3, "end": 6, "added": 7}
    assert error.detail["position"] == positions[how]


async def test_a_link_that_does_not_follow_is_found_whoever_wrote_it(tmp_path: Path) -> None:
    """The row's own seals are good, as a fault of the program would leave them."""
    place = Home("sqlite", tmp_path / "node.db")
    store = await place.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    row = {"length": 2, "era": 1, "hash": bytes(32), "kind": "x", "detail": b"\xa0", "at_us": 1}

    async def work(tx: Any) -> None:
        await tx.insert(schema.history, [row])
        tx.audit("wrong")

    await store._write(work)
    await store.close()
    error = await refused(Code.STORE_INTEGRITY, place.open())
    assert error.detail == {"position": 2}


async def test_older_links_of_a_long_history_are_checked_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "AT_ONCE", 10)
    monkeypatch.setattr(core, "_FOLLOW_REST", 0.001)
    monkeypatch.setattr("keycairn.store.patrol._REST", 0.001)
    place = Home("sqlite", tmp_path / "node.db")
    store = await place.open(create=True)
    wrong = {"length": 2, "era": 1, "hash": bytes(32), "kind": "x", "detail": b"\xa0", "at_us": 1}
    await store.begin_incarnation(b"inc-1", 1)

    async def work(tx: Any) -> None:
        await tx.insert(schema.history, [wrong])
        tx.audit("wrong")

    await store._write(work)
    for n in range(30):
        await store.note_history("x", {"n": n})
    await store.close()
    store = await place.open()
    for _ in range(500):
        if store._broken is not None:
            break
        await asyncio.sleep(0.01)
    error = await refused(Code.STORE_INTEGRITY, store.audit("x", {}))
    assert "history is broken at event 2" in error.message
    await store.close()
