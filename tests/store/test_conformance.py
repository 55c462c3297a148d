"""What every store must do, over each adapter in ``worlds.KINDS``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.store import codec
from keycairn.vault.ports import (
    AnsweredBefore,
    BanRow,
    BundleRow,
    DocumentRow,
    ErsKeyRow,
    RequestRow,
    Store,
)
from store.worlds import KINDS, Home, add_keys, home, new_batch, new_key, spend


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with home(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def store(place: Home) -> AsyncIterator[Store]:
    made = await place.open(create=True)
    yield made
    await made.close()


async def refused(code: Code, awaitable: object) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.code is code
    return caught.value


# -- keys and batches


async def test_a_batch_is_pending_until_every_holder_is_ready(store: Store) -> None:
    keys = [new_key("key-a"), new_key("key-b", curve="ed25519")]
    batch = new_batch(keys)
    await store.put_batch(batch, keys)
    row = await store.key("key-a")
    assert row is not None
    assert (row.state, row.record, row.application) == ("pending", keys[0].record, "shop")
    assert await store.pending_batches() == [batch]
    got = await store.add_ready(batch.batch_id, {2: b"2" * 64})
    assert not got.active
    got = await store.add_ready(batch.batch_id, {3: b"3" * 64, 2: b"other"})
    assert got.active
    assert got.ready == {1: b"\1" * 64, 2: b"2" * 64, 3: b"3" * 64}
    assert await store.batch(batch.batch_id) == got
    assert await store.batch_by_request("shop", "r-1") == got
    assert await store.pending_batches() == []
    row = await store.key("key-b")
    assert row is not None
    assert row.state == "active"


async def test_shares_come_back_as_they_went_in(store: Store) -> None:
    keys = await add_keys(store, ["key-a", "key-b", "key-c"])
    for key in keys:
        got = await store.key_share(key.record.key_id)
        assert got.record == key.record
        assert got.index == 1
        assert got.share.reveal() == key.share.reveal()
        chain_codes = [None if c is None else c.reveal() for c in (got.chain_code, key.chain_code)]
        assert chain_codes[0] == chain_codes[1]
    many = await store.key_shares(["key-c", "key-a", "key-c"])
    assert [k.record.key_id for k in many] == ["key-c", "key-a", "key-c"]
    await refused(Code.NOT_FOUND, store.key_share("key-z"))
    await refused(Code.NOT_FOUND, store.key_shares(["key-a", "key-z"]))
    assert await store.key_shares([]) == []


async def test_keys_are_listed_in_order_and_in_pages(store: Store) -> None:
    await add_keys(store, [f"k{n:02}" for n in range(7)], request_id="r-1")
    await add_keys(store, ["a-other"], application="bank", request_id="r-1")
    assert [k.record.key_id for k in await store.keys()] == ["a-other"] + [
        f"k{n:02}" for n in range(7)
    ]
    first = await store.keys(application="shop", limit=3)
    rest = await store.keys(application="shop", after=first[-1].record.key_id)
    assert [k.record.key_id for k in first] == ["k00", "k01", "k02"]
    assert [k.record.key_id for k in rest] == ["k03", "k04", "k05", "k06"]
    assert await store.keys(application="nobody") == []
    assert await store.key("k99") is None
    assert await store.batch(b"none") is None
    assert await store.batch_by_request("bank", "r-2") is None


async def test_names_are_used_once(store: Store) -> None:
    [key] = await add_keys(store, ["key-a"])
    before = await store.state_digest()
    again = new_batch([key], request_id="r-2")
    await refused(Code.CONFLICT, store.put_batch(again, [key]))
    fresh = new_key("key-b")
    same_request = replace(new_batch([fresh]), batch_id=b"another")
    await refused(Code.CONFLICT, store.put_batch(same_request, [fresh]))
    assert await store.key("key-b") is None
    assert await store.batch(again.batch_id) is None
    assert await store.state_digest() == before
    await store.check_audit()


async def test_a_batch_that_does_not_fit_its_keys_is_refused(store: Store) -> None:
    key, other = new_key("key-a"), new_key("key-b")
    batch = new_batch([key])
    for wrong in (
        replace(batch, key_ids=("key-x",)),
        replace(batch, record_hashes=(other.record.hash,)),
        replace(batch, generation=2),
        replace(batch, ready={9: b"x"}),
    ):
        await refused(Code.MALFORMED, store.put_batch(wrong, [key]))
    foreign = new_key("key-a", vault="another")
    await refused(Code.MALFORMED, store.put_batch(new_batch([foreign]), [foreign]))
    wrong_share = replace(key, share=SecretScalar(key.share.reveal() + 1))
    await refused(Code.STORE_INTEGRITY, store.put_batch(batch, [wrong_share]))
    assert await store.keys() == []


async def test_ready_of_strangers_and_for_unknown_batches(store: Store) -> None:
    await add_keys(store, ["key-a"], active=False)
    [batch] = await store.pending_batches()
    await refused(Code.BAD_INDEX, store.add_ready(batch.batch_id, {9: b"x"}))
    await refused(Code.NOT_FOUND, store.add_ready(b"none", {2: b"x"}))
    assert await store.pending_batches() == [batch]


# -- incarnations and spends


async def test_t045_a_presignature_is_spent_once(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(1)]))
    await refused(
        Code.PRESIG_SPENT, store.spend_all([replace(spend(1), digest=b"other", base_r=b"x")])
    )
    assert await store.spends() == [spend(1)]
    assert await store.spends("key-a") == [spend(1)]
    assert await store.spends("key-b") == []


async def test_inv2_a_base_nonce_is_spent_once(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1, base_r=b"R")])
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(2, base_r=b"R")]))
    # A protocol that names no base nonce is counted by the id alone.
    await store.spend_all([spend(3, base_r=b"")])
    await store.spend_all([spend(4, base_r=b"")])
    assert [s.base_r for s in await store.spends()] == [b"R", b"", b""]


async def test_t046_64_parallel_spends_of_one_presignature(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    results = await asyncio.gather(
        *[store.spend_all([spend(1)]) for _ in range(64)], return_exceptions=True
    )
    errors = [r for r in results if r is not None]
    assert len(errors) == 63
    assert all(isinstance(e, KeycairnError) and e.code is Code.PRESIG_SPENT for e in errors)


async def test_t016_an_old_incarnation_may_not_spend(store: Store) -> None:
    await refused(Code.QUARANTINED, store.spend_all([spend(1)]))
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    await store.begin_incarnation(b"inc-2", 2)
    error = await refused(Code.QUARANTINED, store.spend_all([spend(2)]))
    assert error.next
    assert error.not_lost
    await refused(Code.QUARANTINED, store.spend_all([spend(1)]))
    await store.spend_all([spend(2, incarnation=b"inc-2")])
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(1, incarnation=b"inc-2")]))
    await refused(Code.CONFLICT, store.begin_incarnation(b"inc-1", 3))
    await store.spend_all([spend(3, incarnation=b"inc-2")])


async def test_r02_all_of_a_request_are_spent_or_none(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    before = await store.check_audit()
    await store.spend_all([spend(n) for n in range(1, 101)], ["m/0"])
    assert await store.check_audit() == before + 1
    assert len(await store.spends()) == 100
    mixed = [spend(101), spend(100), spend(102)]
    await refused(Code.PRESIG_SPENT, store.spend_all(mixed, ["m/1"]))
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(101), spend(101)]))
    same_r = [spend(101, base_r=b"R"), spend(102, base_r=b"R")]
    await refused(Code.PRESIG_SPENT, store.spend_all(same_r))
    other_key = [spend(101), replace(spend(102), key_id="key-b")]
    await refused(Code.MALFORMED, store.spend_all(other_key))
    assert len(await store.spends()) == 100
    assert await store.paths("key-a") == ["m/0"]
    await store.spend_all([])
    await store.spend_all([spend(101), spend(102)])


async def test_r02_nothing_is_spent_for_a_request_that_has_a_result(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)], unless=("shop", "r-1"))
    await store.put_request(RequestRow("shop", "r-1", b"h", {}), hurry=False)
    with pytest.raises(AnsweredBefore):
        await store.spend_all([spend(2)], unless=("shop", "r-1"))
    await store.spend_all([spend(2)], unless=("bank", "r-1"))
    assert len(await store.spends()) == 2


async def test_a_write_without_hurry_shares_a_transaction_or_is_made_soon(store: Store) -> None:
    row = RequestRow("shop", "r-1", b"h", {})
    await store.put_request(row, hurry=False)
    assert await store.request("shop", "r-1") == row
    waiting = asyncio.create_task(store.put_request(replace(row, request_id="r-2"), hurry=False))
    await asyncio.sleep(0)
    await store.put_request(replace(row, request_id="r-3"))
    assert await store.request("shop", "r-2") is not None
    await waiting
    last = asyncio.create_task(store.put_request(replace(row, request_id="r-4"), hurry=False))
    await asyncio.sleep(0)
    await store.close()
    await last


async def test_t046_batches_that_share_a_presignature_in_parallel(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    results = await asyncio.gather(
        *[store.spend_all([spend(1000 + n), spend(7)]) for n in range(64)], return_exceptions=True
    )
    assert sum(r is None for r in results) == 1
    assert {e.code for e in results if isinstance(e, KeycairnError)} == {Code.PRESIG_SPENT}
    assert len(await store.spends()) == 2


async def test_r01_stored_presignatures_die_with_their_incarnation(store: Store) -> None:
    await refused(Code.QUARANTINED, store.put_presignatures(b"inc-1", {b"p1": b"s1"}))
    await store.begin_incarnation(b"inc-1", 1)
    sealed = {b"p%d" % n: b"sealed-%d" % n for n in range(600)}
    await store.put_presignatures(b"inc-1", sealed)
    assert await store.presignatures([*sealed, b"unknown"]) == sealed
    await refused(Code.CONFLICT, store.put_presignatures(b"inc-1", {b"p1": b"again"}))
    await store.drop_presignatures([b"p0", b"unknown"])
    await store.drop_presignatures([])
    used = replace(spend(1), presignature_id=b"p1")
    await store.spend_all([used])
    assert await store.presignatures([b"p0", b"p1", b"p2"]) == {b"p2": b"sealed-2"}
    await store.begin_incarnation(b"inc-2", 2)
    assert await store.presignatures(list(sealed)) == {}
    await refused(Code.QUARANTINED, store.put_presignatures(b"inc-1", {b"p9": b"s"}))


async def test_the_path_ledger_remembers_each_path_once(store: Store) -> None:
    await add_keys(store, ["key-a", "key-b"])
    await store.begin_incarnation(b"inc-1", 1)
    before = await store.state_digest()
    await store.note_paths("key-a", ["m/7", "m/1"], 5)
    count = await store.check_audit()
    await store.note_paths("key-a", ["m/1"], 6)
    await store.note_paths("key-a", [], 6)
    assert await store.check_audit() == count
    await store.spend_all([spend(1), spend(2)], ["m/7", "m/0/5", "m/0/5"])
    assert await store.paths("key-a") == ["m/0/5", "m/1", "m/7"]  # its time is 1
    assert await store.paths("key-b") == []
    assert await store.state_digest() == before


# -- requests, bans, ERS keys, documents, bundles


async def test_results_of_requests(store: Store) -> None:
    row = RequestRow("shop", "r-9", b"h" * 32, {"signature": b"\1\2", "n": [1, None, True, "ä"]})
    await store.put_request(row)
    assert await store.request("shop", "r-9") == row
    assert await store.request("bank", "r-9") is None
    await refused(Code.CONFLICT, store.put_request(replace(row, request_hash=b"i" * 32)))
    await store.put_request(replace(row, application="bank"))
    await refused(
        Code.MALFORMED, store.put_request(replace(row, request_id="f", result={"x": 0.5}))
    )


async def test_bans_are_put_and_lifted(store: Store) -> None:
    ban = BanRow("b1", 2, "OT check failed", 5)
    await store.put_ban(ban)
    await store.put_ban(BanRow("b2", 3, "again", 6))
    await store.put_ban(replace(ban, lifted_us=9))
    assert await store.bans() == [replace(ban, lifted_us=9), BanRow("b2", 3, "again", 6)]


async def test_ers_keys(store: Store) -> None:
    row = ErsKeyRow("ab" * 32, b"spki", 3072, 1, None, None, "challenged", False, {"a": [b"h"]})
    await store.put_ers_key(row)
    assert await store.ers_key("ab" * 32) == row
    allowed = replace(row, state="allowed", attested_us=7, challenge=None, expires_us=9)
    await store.put_ers_key(allowed)
    assert await store.ers_keys() == [allowed]
    assert await store.ers_key("cd" * 32) is None


def document(n: int, *key_ids: str) -> DocumentRow:
    keys = {k: (1, bytes([n]) * 32) for k in key_ids}
    return DocumentRow(f"{n:064x}", f"ers/{n}", "ab" * 32, "label", True, keys, n, n)


async def test_documents_are_found_by_key(store: Store) -> None:
    await store.put_document(document(1, "key-a", "key-b"))
    await store.put_document(document(2, "key-b"))
    assert await store.documents() == [document(1, "key-a", "key-b"), document(2, "key-b")]
    assert await store.documents("key-a") == [document(1, "key-a", "key-b")]
    assert await store.documents("key-b") == await store.documents()
    await store.put_document(document(1, "key-c"))
    assert await store.documents("key-a") == []
    await store.delete_document(document(2).sha256)
    await store.delete_document(document(2).sha256)
    assert await store.documents() == [document(1, "key-c")]


async def test_bundles(store: Store) -> None:
    row = BundleRow("cd" * 32, "file:x", 10, 1, 2, "hashes", {"key-a": (1, b"h" * 32)}, {"a": "b"})
    await store.put_bundle(row)
    await store.put_bundle(replace(row, level="trial"))
    assert await store.bundles() == [replace(row, level="trial")]
    await store.delete_bundle("cd" * 32)
    await store.delete_bundle("ef" * 32)
    assert await store.bundles() == []


async def test_receipts_are_decoded_again_only_once_one_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every signature asks for them, and each of 100,000 keys takes half a second to decode."""
    one = BundleRow("cd" * 32, "file:x", 10, 1, 2, "hashes", {"key-a": (1, b"h" * 32)}, {})
    two = replace(one, sha256="ef" * 32, created_us=3)
    await store.put_bundle(one)
    decoded, real = [], codec.bundle_from_row

    def counted(row: codec.Row) -> BundleRow:
        decoded.append(row["sha256"])
        return real(row)

    monkeypatch.setattr(codec, "bundle_from_row", counted)
    for _ in range(3):
        found = await store.bundles()
        assert found == [one]
        assert isinstance(found, list)
        found.clear()  # the caller's own
    assert decoded == [one.sha256]
    await store.put_bundle(two)
    assert await store.bundles() == [one, two]
    await store.put_bundle(replace(one, level="trial"))
    assert [b.level for b in await store.bundles()] == ["trial", "hashes"]
    await store.delete_bundle(two.sha256)
    assert [b.sha256 for b in await store.bundles()] == [one.sha256]


# -- the whole store


async def test_every_change_is_audited_and_readings_are_not(store: Store) -> None:
    counts = [await store.check_audit()]

    async def grew() -> bool:
        counts.append(await store.check_audit())
        return counts[-1] > counts[-2]

    [key] = await add_keys(store, ["key-a"])
    assert await grew()
    await store.begin_incarnation(b"inc-1", 1)
    assert await grew()
    await store.spend_all([spend(1)])
    assert await grew()
    await store.put_ban(BanRow("b", 2, "r", 1))
    assert await grew()
    await store.put_document(document(1, "key-a"))
    assert await grew()
    await store.delete_document(document(1).sha256)
    assert await grew()
    await store.put_request(RequestRow("shop", "r", b"", {}))
    assert await grew()
    await store.audit("something", {"n": 1})
    assert await grew()
    await store.key_share(key.record.key_id)
    await store.keys()
    await store.state_digest()
    with pytest.raises(KeycairnError):
        await store.spend_all([spend(1)])
    await store.delete_document(document(1).sha256)
    assert not await grew()


async def test_state_digest_follows_the_state_and_nothing_else(store: Store) -> None:
    digests = [await store.state_digest()]

    async def changed() -> bool:
        digests.append(await store.state_digest())
        return digests[-1] != digests[-2]

    assert len(digests[0]) == 32
    await add_keys(store, ["key-a"], active=False)
    assert await changed()
    await store.add_ready((await store.pending_batches())[0].batch_id, {2: b"", 3: b""})
    assert await changed()
    await store.put_document(document(1, "key-a"))
    assert await changed()
    await store.put_ers_key(ErsKeyRow("ab" * 32, b"", 3072, 1, None, None, "allowed"))
    assert await changed()
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    await store.audit("x", {})
    await store.put_ban(BanRow("b", 2, "r", 1))
    await store.put_request(RequestRow("shop", "r", b"", {}))
    await store.put_document(replace(document(1, "key-a"), verified_us=99))
    assert not await changed()


async def test_400_concurrent_updates_all_arrive(store: Store) -> None:
    before = await store.check_audit()
    await store.put_ban(BanRow("b", 2, "0", 0))

    async def update(n: int) -> None:
        if n % 2:
            await store.put_ban(BanRow("b", 2, str(n), n))
        else:
            await store.put_request(RequestRow("shop", f"r-{n}", b"", {"n": n}))

    await asyncio.gather(*[update(n) for n in range(400)])
    assert await store.check_audit() == before + 401
    found = [await store.request("shop", f"r-{n}") for n in range(0, 400, 2)]
    assert [r.result["n"] for r in found if r] == list(range(0, 400, 2))


async def test_writes_that_share_a_transaction_fail_alone(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    before = await store.check_audit()
    row = RequestRow("shop", "same", b"", {})
    results = await asyncio.gather(
        store.put_ban(BanRow("b1", 2, "r", 1)),
        store.put_request(row),
        store.put_request(row),
        store.audit("floats have no encoding", {"x": 0.5}),
        store.spend_all([spend(1)]),
        store.spend_all([spend(1)]),
        store.spend_all([spend(2, incarnation=b"old")]),
        store.add_ready(b"none", {}),
        store.put_batch(new_batch([]), []),
        store.put_batch(new_batch([]), []),
        store.put_ban(BanRow("b2", 3, "r", 2)),
        store.put_ban(BanRow(1.5, 3, "r", 2)),  # type: ignore[arg-type]
        store.put_ban(BanRow("b3", 3, "r", 3)),
        return_exceptions=True,
    )
    codes = [r.code if isinstance(r, KeycairnError) else r for r in results]
    bug = codes.pop(-2)
    assert isinstance(bug, TypeError)
    assert codes == [
        None,
        None,
        Code.CONFLICT,
        Code.MALFORMED,
        None,
        Code.PRESIG_SPENT,
        Code.QUARANTINED,
        Code.NOT_FOUND,
        None,
        Code.CONFLICT,
        None,
        None,
    ]
    assert [b.ban_id for b in await store.bans()] == ["b1", "b2", "b3"]
    assert await store.check_audit() == before + 6


async def test_a_closed_store_says_so(store: Store) -> None:
    waiting = [asyncio.create_task(store.audit("x", {"n": n})) for n in range(10)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*waiting)
    await store.close()
    await refused(Code.UNAVAILABLE, store.audit("x", {}))
    await refused(Code.UNAVAILABLE, store.keys())


async def test_a_cancelled_caller_leaves_no_half_write(store: Store) -> None:
    await store.begin_incarnation(b"inc-1", 1)
    for n in range(1, 21):
        task = asyncio.create_task(store.spend_all([spend(n)]))
        for _ in range(n):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.audit("after", {})
    spent = {s.at_us for s in await store.spends()}
    await store.check_audit()
    for n in range(1, 21):
        if n in spent:
            await refused(Code.PRESIG_SPENT, store.spend_all([spend(n)]))
        else:
            await store.spend_all([spend(n)])


# -- restarts, copies, several stores on one database


async def test_what_was_written_is_there_after_a_restart(place: Home) -> None:
    store = await place.open(create=True)
    keys = await add_keys(store, ["key-a", "key-b"])
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)], ["m/1"])
    digest, records = await store.state_digest(), await store.check_audit()
    await store.close()
    if not place.durable:
        pytest.skip("a store in memory ends with its process")
    store = await place.open()
    assert await store.state_digest() == digest
    assert await store.check_audit() == records
    assert await store.damaged() == []
    assert (await store.key_share("key-b")).share.reveal() == keys[1].share.reveal()
    assert await store.paths("key-a") == ["m/1"]
    await refused(Code.PRESIG_SPENT, store.spend_all([spend(1)]))
    await store.close()
    store = await place.open(create=True)
    assert await store.state_digest() == digest
    await store.close()


async def test_a_missing_store_is_not_made_by_accident(place: Home) -> None:
    if not place.durable:
        pytest.skip("a store in memory is always new")
    for _ in range(2):
        error = await refused(Code.NOT_FOUND, place.open())
        assert error.next


async def test_another_nodes_secret_opens_nothing(place: Home) -> None:
    if not place.durable:
        pytest.skip("a store in memory is always new")
    store = await place.open(create=True)
    await add_keys(store, ["key-a"])
    await store.close()
    for wrong in (
        replace(place, node=2),
        replace(place, vault="another"),
        replace(place, data_key=SecretBytes(bytes(32))),
    ):
        await refused(Code.STORE_INTEGRITY, wrong.open())
    await (await place.open()).close()


async def test_t054_a_copy_is_a_sqlite_store_without_presignatures(
    place: Home, tmp_path: Path
) -> None:
    store = await place.open(create=True)
    await add_keys(store, [f"key-{n}" for n in range(20)])
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)], ["m/1"])
    await store.put_document(document(1, "key-1"))
    await store.put_presignatures(b"inc-1", {b"p1": b"SEALED-PRESIGNATURE"})
    digest, records = await store.state_digest(), await store.check_audit()
    target = tmp_path / "copy" / "node.db"
    target.parent.mkdir()
    await store.snapshot(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in target.parent.iterdir()] == ["node.db"]
    assert b"SEALED-PRESIGNATURE" not in target.read_bytes()
    await add_keys(store, ["later"], request_id="r-2")
    await refused(Code.CONFLICT, store.snapshot(target))
    await refused(Code.UNAVAILABLE, store.snapshot(tmp_path / "nowhere" / "copy.db"))
    await store.close()
    copy = await Home("sqlite", target).open()
    assert await copy.damaged() == []
    assert await copy.state_digest() == digest
    assert await copy.check_audit() == records
    assert await copy.presignatures([b"p1"]) == {}
    assert (await copy.key_share("key-7")).record.key_id == "key-7"
    assert await copy.key("later") is None
    assert await copy.documents("key-1") == [document(1, "key-1")]
    await copy.close()


async def test_400_concurrent_updates_through_two_stores(place: Home) -> None:
    """As two processes would: nothing is lost between them."""
    first = await place.open(create=True)
    if not place.shared:
        if place.durable:
            error = await refused(Code.CONFLICT, place.open())
            assert "another process" in error.message
        await first.close()
        return
    second = await place.open()
    before = await first.check_audit()
    await asyncio.gather(*[(first, second)[n % 2].audit("update", {"n": n}) for n in range(400)])
    assert await second.check_audit() == before + 400
    assert await first.check_audit() == before + 400
    await first.begin_incarnation(b"inc-1", 1)
    results = await asyncio.gather(
        *[(first, second)[n % 2].spend_all([spend(1)]) for n in range(64)], return_exceptions=True
    )
    assert sum(r is None for r in results) == 1
    # Whoever lost may also have seen a counter that it did not leave there.
    codes = {e.code for e in results if isinstance(e, KeycairnError)}
    assert codes <= {Code.PRESIG_SPENT, Code.STORE_ROLLBACK}
    assert len(await first.spends()) == 1
    await first.close()
    await second.close()


async def test_r02_a_second_process_quarantines_the_first(place: Home) -> None:
    if not place.shared:
        pytest.skip("a second process is refused")
    first = await place.open(create=True)
    await first.begin_incarnation(b"inc-1", 1)
    await first.spend_all([spend(1)])
    second = await place.open()
    await second.begin_incarnation(b"inc-2", 2)
    for n in (2, 3):
        await refused(Code.QUARANTINED, first.spend_all([spend(n)]))
    await second.spend_all([spend(2, incarnation=b"inc-2")])
    await first.audit("still allowed: the chain goes on from what this process knows", {})
    await first.close()
    await second.close()


async def test_names_are_told_apart_by_case_accents_and_blanks(store: Store) -> None:
    names = ["Key", "key", "kéy", "key ", "KEY", "k\u00e9y2", "ke\u0301y2"]
    for name in names:
        await store.put_request(RequestRow("shop", name, b"", {"name": name}))
    for name in names:
        row = await store.request("shop", name)
        assert row is not None
        assert row.result == {"name": name}
    await refused(Code.CONFLICT, store.put_request(RequestRow("shop", "key ", b"", {})))
    keys = ["a", "B", "b", "A", "_", "-", "a1", "a-1", "a.1"]
    await add_keys(store, keys)
    assert [k.record.key_id for k in await store.keys()] == sorted(keys)
    assert [k.record.key_id for k in await store.keys(after="B")] == sorted(keys)[
        sorted(keys).index("B") + 1 :
    ]


async def test_large_values_come_back(store: Store) -> None:
    keys = {f"key-{n:06}": (1, bytes(32)) for n in range(3000)}
    big = replace(document(3), keys=keys, label="ü" * 1000)
    await store.put_document(big)
    assert await store.documents("key-002999") == [big]
    await store.put_request(RequestRow("shop", "big", b"", {"pad": b"\0\xff'\\" * 100_000}))
    row = await store.request("shop", "big")
    assert row is not None
    assert row.result["pad"] == b"\0\xff'\\" * 100_000
