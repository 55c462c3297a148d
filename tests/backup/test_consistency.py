"""Three answers about the bundles of all nodes: consistent, inconsistent, can't tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keycairn.backup.consistency import Found, judge
from keycairn.backup.manifest import HeldKey, Manifest, Point

PLAYERS = {i: bytes([i]) * 32 for i in (1, 2, 3)}


def held(generation: int = 1, record: bytes = b"r", state: str = "active") -> HeldKey:
    return HeldKey(generation, record * 32, state, (1, 2, 3), 1)


def bundle(node: int, keys: dict[str, HeldKey], at: int = 1, **more: Any) -> Found:
    manifest = Manifest(
        keycairn="0.1.0",
        vault="acme",
        node=node,
        node_public_key=PLAYERS[node],
        created_us=at,
        keys=keys,
        pending=(),
        policy="none",
        parts=(),
        payload_size=0,
        payload_sha256=bytes(32),
        recipients=(),
        players=PLAYERS,
        threshold=1,
    )
    return Found(f"/t/node{node}-{at}", replace(manifest, **more))


def three(*keys: dict[str, HeldKey], at: int = 1, **more: Any) -> list[Found]:
    return [bundle(i, k, at, **more) for i, k in enumerate(keys, 1)]


def kinds(report: Any) -> set[tuple[str, int | None]]:
    return {(f["finding"], f["node"]) for f in report.findings}


def test_equal_inventories_are_consistent() -> None:
    report = judge(three(*[{"a": held(), "b": held(2)}] * 3), PLAYERS)
    assert (report.answer, report.keys, report.findings) == ("consistent", 2, [])
    assert report.not_checked == []


def test_a_key_that_one_node_lacks_is_named_with_the_node() -> None:
    report = judge(three({"a": held(), "b": held()}, {"a": held()}, {"a": held(), "b": held()}), {})
    assert report.answer == "inconsistent"
    [finding] = report.findings
    assert (finding["finding"], finding["node"], finding["keys"]) == ("missing key", 2, ["b"])
    assert finding["recoverable"] is True
    assert "b" in finding["text"]


def test_a_key_that_only_one_bundle_has_does_not_come_back() -> None:
    report = judge(three({"a": held()}, {}, {}), PLAYERS)
    assert kinds(report) == {("missing key", 2), ("missing key", 3)}
    assert not any(f["recoverable"] for f in report.findings)


def test_other_generations_and_records_are_told_apart() -> None:
    report = judge(
        three(
            {"a": held(2), "b": held()},
            {"a": held(1), "b": held()},
            {"a": held(2), "b": held(1, b"x")},
        ),
        PLAYERS,
    )
    assert report.answer == "inconsistent"
    assert ("older generation", 2) in kinds(report)
    assert {f["finding"] for f in report.findings} == {"older generation", "another record"}


def test_a_pending_key_is_no_difference_until_somebody_uses_it() -> None:
    waits = {"a": held(), "new": held(state="pending")}
    assert judge(three(waits, {"a": held()}, waits), PLAYERS).answer == "consistent"
    # Active at one and pending at another: the certificate spreads at contact.
    used = {"a": held(), "new": held()}
    assert judge(three(waits, used, used), PLAYERS).answer == "consistent"
    assert judge(three({"a": held()}, used, used), PLAYERS).answer == "inconsistent"


def test_without_a_bundle_of_every_node_nobody_can_tell() -> None:
    found = three(*[{"a": held()}] * 3)[:2]
    report = judge(found, PLAYERS)
    assert report.answer == "cant_tell"
    assert kinds(report) == {("no bundle", 3)}
    # The bundles themselves say that there is a third.
    assert judge(found, {}).answer == "cant_tell"
    assert judge([], {}).answer == "cant_tell"


def test_doubt_does_not_hide_a_difference() -> None:
    report = judge(three({"a": held()}, {}, {})[:2], PLAYERS)
    assert report.answer == "inconsistent"
    assert ("no bundle", 3) in kinds(report)


def test_a_bundle_by_an_unknown_signer_does_not_count() -> None:
    found = three(*[{"a": held()}] * 3)
    forged = bundle(3, {"a": held()}, at=9, node_public_key=b"f" * 32)
    assert judge([*found, forged], PLAYERS).answer == "consistent"
    report = judge([*found[:2], forged], PLAYERS)
    assert report.answer == "cant_tell"
    assert ("signer", 3) in kinds(report)
    # Without keys from elsewhere the bundles vouch for each other, and that is said.
    assert judge([*found[:2], forged], {}).answer == "cant_tell"
    assert judge(found, {}).not_checked


def test_the_newest_of_each_node_counts_and_a_point_that_fits_is_named() -> None:
    point = Point(7, bytes(16))
    old = three(*[{"a": held()}] * 3, at=5, point=point)
    late = bundle(1, {"a": held(), "b": held()}, at=9)
    assert judge(old, PLAYERS).point == 7
    report = judge([late, *old], PLAYERS)
    assert (report.answer, report.point) == ("inconsistent", None)
    assert report.bundles[1].location == "/t/node1-9"
    assert "backup point 7" in report.findings[-1]["text"]
    # Equal numbers of two sessions are two points.
    other = bundle(2, {"a": held()}, at=5, point=Point(7, b"x" * 16))
    mixed = judge([old[0], other, old[2]], PLAYERS)
    assert (mixed.answer, mixed.point) == ("consistent", None)


def test_bundles_of_two_vaults_are_not_compared() -> None:
    found = three(*[{"a": held()}] * 3)
    other = replace(found[2], manifest=replace(found[2].manifest, vault="other"))
    assert judge([*found[:2], other], PLAYERS).answer == "cant_tell"


def test_format_1_needs_the_vaults_file() -> None:
    first = HeldKey(1, b"r" * 32, "active")
    found = three(*[{"a": first}] * 3, format=1, players={})
    assert judge(found, PLAYERS).answer == "consistent"
    assert judge(found, {}).answer == "cant_tell"
