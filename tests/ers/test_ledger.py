"""The path ledger: its bytes, what recovery makes of honest and lying nodes, its limits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ers.helpers import make_key, part_of, prover_for, refused
from keycairn.curves.derivation import parse_path
from keycairn.encoding import canonical_cbor
from keycairn.errors import Code
from keycairn.ers import ledger as ledgers
from keycairn.ers.box import box_lengths
from keycairn.ers.document import Document
from keycairn.ers.ledger import KeyPaths, decode_ledger, encode_ledger, merge, smallest_ledger
from keycairn.ers.recover import recover
from keycairn.ers.verify import verify_document

A, B, P = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")
DOCS = Path(__file__).parents[2] / "docs" / "ers-format.md"
PATH = st.lists(st.integers(0, 2**31 - 1), max_size=8).map(
    lambda indices: "/".join(["m", *map(str, indices)])
)


def test_the_bytes_are_the_documented_ones() -> None:
    data = encode_ledger(["a", "b", "c"], {"a": ["m/10", "m/2", "m/2"], "c": iter(["m"])})
    assert data == bytes.fromhex("8382646d2f3130636d2f328081616d")
    assert decode_ledger(data, 3) == (KeyPaths(("m/10", "m/2")), KeyPaths(), KeyPaths(("m",)))
    example = encode_ledger(["a", "b"], {"a": ["m/2", "m/10"]})
    assert example == bytes.fromhex("82 82 64 6d2f3130 63 6d2f32 80")
    assert "`82 82 64 6d2f3130 63 6d2f32 80`" in DOCS.read_text()
    assert encode_ledger(["a"], {}) == bytes.fromhex("8180")
    assert encode_ledger(["a"], {"other key": ["m/1"]}) == bytes.fromhex("8180")


@settings(max_examples=60)
@given(st.lists(st.lists(PATH, max_size=12), min_size=1, max_size=6))
def test_what_is_written_is_read(paths: list[list[str]]) -> None:
    ids = [str(i) for i in range(len(paths))]
    data = encode_ledger(ids, dict(zip(ids, paths, strict=True)))
    assert smallest_ledger(len(ids)) <= len(data)
    for entry, given_paths in zip(decode_ledger(data, len(ids)), paths, strict=True):
        assert set(entry.paths) == set(given_paths)
        assert entry.left_out == 0


@pytest.mark.parametrize(
    "bad", ["", "m/", "m/01", "m/1'", "n/1", "m/2147483648", "m" + "/1" * 9, 7]
)
def test_a_path_that_is_none_is_refused_by_the_prover(bad: str, rsa_key) -> None:
    refused(
        lambda: part_of([A], 1, rsa_key().public, paths={"key-a": ["m/1", bad]}), Code.MALFORMED
    )


@pytest.mark.parametrize(
    "item",
    [
        [], [[]], [[], [], []], [[], None], [[], {}], [[], "m"], {}, None, b"", "m", [[], [b"m"]],
        [[], ["m/1", "m/1"]], [[], ["m/2", "m/1"]], [[], ["m/2", "m/10"]], [[], ["m/01"]],
        [[], ["m/1'"]], [[], ["x"]], [[], [0]], [[], [-1]], [[], [1 << 54]], [[], [True]],
        [[], [5, "m"]], [[], ["m", 5, 5]], [[], ["m", 5, "m/1"]], [[], [["m"]]],
    ],
    ids=str,
)  # fmt: skip
def test_t105_other_ledgers_are_refused(item: object) -> None:
    refused(lambda: decode_ledger(canonical_cbor(item), 2))


def test_t105_other_bytes_are_refused() -> None:
    good = encode_ledger(["a"], {"a": ["m/1"]})
    for bad in (b"", good[:-1], good + b"\0", b"\x9f\x80\xff", b"\x98\x01\x80", b"\x81\x98\x00"):
        refused(lambda b=bad: decode_ledger(b, 1))
    many = canonical_cbor([sorted(f"m/{i}" for i in range(10_001))])
    refused(lambda: decode_ledger(many, 1))


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_t113_random_bytes_never_crash_the_decoder(data: bytes) -> None:
    try:
        decode_ledger(data, 2)
    except Exception as exc:
        assert "E_ERS_INVALID" in str(exc)  # noqa: PT017


def test_too_many_paths_are_counted_and_the_lowest_stay() -> None:
    everything = [f"m/{i}" for i in range(12_345)]
    random.Random(1).shuffle(everything)
    (entry,) = decode_ledger(encode_ledger(["a"], {"a": everything}), 1)
    assert set(entry.paths) == {f"m/{i}" for i in range(10_000)}
    assert entry.left_out == 2_345


def test_the_longest_paths_of_one_key_all_fit() -> None:
    longest = ["/".join(["m", *["2147483647"] * 7, str(2147483647 - i)]) for i in range(10_000)]
    data = encode_ledger(["a"], {"a": longest})
    assert len(data) <= ledgers.MAX_LEDGER
    assert decode_ledger(data, 1)[0].left_out == 0


def test_a_batch_with_too_many_paths_shares_the_room() -> None:
    ids = [f"k{i}" for i in range(40)]
    paths = {i: [f"m/84/0/0/{j}" for j in range(9_000)] for i in ids}
    paths["k7"] = ["m/1"]
    data = encode_ledger(ids, paths)
    assert ledgers.MAX_LEDGER // 2 < len(data) <= ledgers.MAX_LEDGER
    read = decode_ledger(data, len(ids))
    assert read[7] == KeyPaths(("m/1",))
    assert {len(e.paths) + e.left_out for i, e in enumerate(read) if i != 7} == {9_000}


def test_nodes_know_different_paths_and_recovery_knows_them_all(rsa_key) -> None:
    key, keys = rsa_key(), [A, B, P]
    parts = [
        part_of(keys, 1, key.public, paths={"key-a": ["m/0/10", "m/0/2"]}),
        part_of(keys, 2, key.public, paths={"key-a": ["m/0/2"], "key-p": ["m"]}),
        part_of(keys, 3, key.public, paths={"key-p": [f"m/{i}" for i in range(10_001)]}),
    ]
    document = Document.load(Document(tuple(parts)).to_json())
    verify_document(document, rsa=key.public)
    a, b, p = recover(document, key)
    assert a.paths == ("m/0/2", "m/0/10")  # by their indices
    assert b.paths == ()
    assert p.paths == ("m", *(f"m/{i}" for i in range(10_000)))
    assert (a.paths_left_out, b.paths_left_out, p.paths_left_out) == (0, 0, 1)
    a, b, p = recover(Document(tuple(parts[:2])), key)
    assert (a.paths, p.paths) == (("m/0/2", "m/0/10"), ("m",))


@pytest.mark.parametrize("nonsense", [b"", b"\x80", b"\x81\x81\x61x", bytes(64), b"\x82\x80\x80"])
def test_a_lying_nodes_ledger_costs_neither_keys_nor_codes_nor_the_others_paths(
    nonsense: bytes, rsa_key
) -> None:
    """The ledger is not part of the proof: a node can write what it likes into its own box."""
    key = rsa_key()
    liar = prover_for([A], 1, key.public, ledger=nonsense).run()
    honest = part_of([A], 2, key.public, paths={"key-a": ["m/5"]})
    if len(liar.box) not in box_lengths(liar.context):
        error = refused(lambda: verify_document(Document((liar,))))
        assert error.detail["check"] == "length"
        return
    warnings: list[str] = []
    (back,) = recover(Document((liar, honest)), key, warn=warnings.append)
    assert back.private_key.reveal() == A.secret
    assert back.chain_code is not None
    assert back.paths == ("m/5",)
    assert warnings == ["the box of a part of node 1 has no sound path ledger"]
    other = prover_for([A], 3, key.public, ledger=nonsense, seed=1).run()
    (back,) = recover(Document((liar, other)), key)
    assert back.private_key.reveal() == A.secret
    assert back.chain_code is not None
    assert back.paths is None


def test_merging_keeps_what_anybody_knew() -> None:
    one = (KeyPaths(("m/1",), 4), KeyPaths())
    two = (KeyPaths(("m/1", "m/2"), 9), KeyPaths(("m",)))
    assert merge([one, two], 2) == [KeyPaths(("m/1", "m/2"), 9), KeyPaths(("m",))]
    assert merge([], 1) == [KeyPaths()]
    assert [parse_path(p) for p in ledgers.by_index(["m/10", "m/9/1", "m"])] == [(), (9, 1), (10,)]
