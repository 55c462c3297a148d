"""Coverage from a node's own rows, and the gate (T-081)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.protocols.record import KeyRecord
from keycairn.vault import policy
from keycairn.vault.coverage import KeyCoverage, gate, key_coverage
from keycairn.vault.policy import Answer
from keycairn.vault.ports import BundleRow, DocumentRow, KeyRow

RECORD = KeyRecord(
    key_id="k1",
    vault="v",
    scheme="schnorr",
    curve="ed25519",
    protocol="frost-rfc9591",
    purpose="sign",
    threshold=1,
    holders=(1, 2, 3),
    public_key=b"\x01" * 32,
    share_commitments=(b"\x02" * 32,) * 3,
    chain_code_hash=None,
    generation=2,
)
ROW = KeyRow(RECORD, "app", "active", b"b" * 32, 1)
HERE = {"k1": (2, RECORD.hash)}
DOCUMENT = DocumentRow("d" * 64, "ers/d.cbor", "s" * 64, "label", True, HERE, 10, 20)
BUNDLE = BundleRow("e" * 64, "/backups/b.bundle", 9, 10, 30, "hashes", HERE)
GATED = policy.parse_gate(["address", "sign"])


def cover(require: str = "ers or node_backup", **kw: Any) -> KeyCoverage:
    rows: dict[str, Any] = {"documents": [], "bundles": [], **kw}
    return key_coverage(ROW, policy.parse(require), **rows)


def test_shape_of_the_answer() -> None:
    out = cover("ers and node_backup", documents=[DOCUMENT], bundles=[BUNDLE]).to_json()
    assert out == {
        "key_id": "k1",
        "state": "active",
        "players": [1, 2, 3],
        "require": "ers and node_backup",
        "holds": "yes",
        "missing": [],
        "options": [],
        "next": [],
        "methods": {
            "ers": {
                "answer": "yes",
                "at": 20,
                "generation": 2,
                "where": "ers/d.cbor",
                "sha256": "d" * 64,
            },
            "node_backup": {
                "answer": "yes",
                "at": 30,
                "generation": 2,
                "where": "/backups/b.bundle",
                "sha256": "e" * 64,
            },
            "redundancy": {
                "answer": "yes",
                "at": None,
                "generation": 2,
                "where": None,
                "sha256": None,
                "value": 1,
            },
        },
    }


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        (DOCUMENT, Answer.YES),
        (replace(DOCUMENT, complete=False), Answer.NO),
        (replace(DOCUMENT, keys={"k2": (2, RECORD.hash)}), Answer.NO),
        (replace(DOCUMENT, keys={"k1": (1, RECORD.hash)}), Answer.NO),
        (replace(DOCUMENT, keys={"k1": (3, RECORD.hash)}), Answer.NO),
        (replace(DOCUMENT, keys={"k1": (2, b"x" * 32)}), Answer.NO),
        (replace(DOCUMENT, verified_us=0), Answer.CANT_TELL),
    ],
)
def test_a_document_is_evidence_only_for_this_key_as_it_is(
    document: DocumentRow, answer: Answer
) -> None:
    found = cover("ers", documents=[document])
    assert found.methods["ers"].answer is answer
    assert found.holds is answer


@pytest.mark.parametrize(
    ("bundle", "answer"),
    [
        (BUNDLE, Answer.YES),
        (replace(BUNDLE, level="trial"), Answer.YES),
        (replace(BUNDLE, level="manifest"), Answer.CANT_TELL),
        (replace(BUNDLE, level="quantum"), Answer.CANT_TELL),
        (replace(BUNDLE, keys={}), Answer.NO),
        (replace(BUNDLE, keys={"k1": (1, RECORD.hash)}), Answer.NO),
        (replace(BUNDLE, keys={"k1": (2, b"")}), Answer.NO),
        (replace(BUNDLE, verified_us=0), Answer.CANT_TELL),
    ],
)
def test_a_bundle_is_evidence_only_when_read_back(bundle: BundleRow, answer: Answer) -> None:
    found = cover("node_backup", bundles=[bundle])
    assert found.methods["node_backup"].answer is answer
    assert found.holds is answer


def test_doubt_is_not_a_no_and_not_a_yes() -> None:
    assert cover("ers", documents=None).holds is Answer.CANT_TELL
    assert cover("node_backup", bundles=None).holds is Answer.CANT_TELL
    seen = cover("ers", documents=[DOCUMENT], unreadable=["d" * 64])
    assert seen.holds is Answer.CANT_TELL
    # Another sound copy settles it.
    copy = replace(DOCUMENT, sha256="c" * 64)
    assert cover("ers", documents=[DOCUMENT, copy], unreadable=["d" * 64]).holds is Answer.YES


def test_the_best_evidence_is_shown() -> None:
    stale = replace(BUNDLE, keys={"k1": (1, RECORD.hash)}, verified_us=99)
    older = replace(BUNDLE, sha256="a" * 64, verified_us=25)
    found = cover(bundles=[stale, older, BUNDLE]).methods["node_backup"]
    assert (found.answer, found.sha256, found.at) == (Answer.YES, "e" * 64, 30)
    only_stale = cover(bundles=[stale]).methods["node_backup"]
    assert only_stale.generation == 1
    assert "stale" in only_stale.why


@pytest.mark.parametrize("action", ["sign", "address"])
def test_t081_use_before_backup_is_refused_and_named(action: str) -> None:
    with pytest.raises(KeycairnError) as caught:
        gate(action, cover(), GATED, node=2)
    error = caught.value
    assert error.code is Code.KEY_NOT_BACKED_UP
    assert error.exit_code == 3
    assert error.node == 2
    assert "ERS document" in error.message
    assert "bundle" in error.message
    assert [w.split(":")[0] for w in error.detail["missing"]] == ["ers", "node_backup"]
    assert error.detail["options"] == [["ers"], ["node_backup"]]
    assert "keycairn backup create" in error.next
    assert error.not_lost


def test_t081_doubt_is_refused_too() -> None:
    with pytest.raises(KeycairnError) as caught:
        gate("sign", cover(documents=None, bundles=None), GATED)
    assert caught.value.code is Code.KEY_NOT_BACKED_UP
    assert caught.value.detail["holds"] == "cant_tell"


def test_t081_a_refresh_closes_the_gate_again() -> None:
    gate("sign", cover(bundles=[BUNDLE]), GATED)
    refreshed = replace(ROW, record=replace(RECORD, generation=3))
    now = key_coverage(refreshed, policy.parse("node_backup"), documents=[], bundles=[BUNDLE])
    with pytest.raises(KeycairnError):
        gate("sign", now, GATED)


def test_t081_open_gates() -> None:
    gate("sign", cover(documents=[DOCUMENT]), GATED)
    gate("sign", cover("none"), GATED)
    gate("sign", cover("redundancy >= 1"), GATED)
    gate("sign", cover(), policy.parse_gate(["address"]))
