"""What the verifier accepts, reports and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ers.helpers import document_of, make_key, part_of, prover_for, refused, with_context
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code
from keycairn.ers import tree
from keycairn.ers.box import box_lengths
from keycairn.ers.document import Document
from keycairn.ers.leaf import Leaves
from keycairn.ers.params import TABLE
from keycairn.ers.prove import make_part
from keycairn.ers.statement import chain_code_hash
from keycairn.ers.verify import ExpectedKey, closed_leaves_of, verify_document, verify_part
from keycairn.ports.seeded import SeededRng

A, B = make_key("key-a"), make_key("key-b", "ed25519", chain_code=False)
P = make_key("key-p", "p256")
KEYS = [A, B]


@pytest.mark.parametrize("params", sorted(TABLE))
@pytest.mark.parametrize(
    "keys", [[A], [B], [P], [A, B], [B, P, A]], ids=["a", "b", "p", "ab", "bpa"]
)
def test_honest_parts_verify(params: str, keys, rsa_key) -> None:
    rsa = rsa_key().public
    part = part_of(keys, 2, rsa, params=params)
    verify_part(part, rsa=rsa, label="test label", vault="vault-1", node=2,
                expected=[k.expected for k in keys])  # fmt: skip


def test_report_says_status_and_what_was_not_checked(rsa_key) -> None:
    rsa = rsa_key().public
    document = document_of(KEYS, rsa, (1, 3))
    report = verify_document(document)
    body = report.to_json()
    assert body["valid"] is True
    assert body["sha256"] == document.sha256
    assert (body["label"], body["nodes"]) == ("test label", [1, 3])
    assert body["rsa_spki_sha256"] == rsa.spki_sha256
    assert [k["key_id"] for k in body["keys"]] == ["key-a", "key-b"]
    assert {k["status"] for k in body["keys"]} == {"PARTIAL 2/3"}
    assert all(k["parts"] == [1, 3] and k["recoverable"] for k in body["keys"])
    missing = "\n".join(body["not_checked"])
    for word in ("rsa_public_key", "label", "vault", "public_key of key-a", "record_hash of key-b",
                 "generation of key-a", "chain codes"):  # fmt: skip
        assert word in missing
    full = verify_document(
        document_of(KEYS, rsa), rsa=rsa, label="test label", vault="vault-1",
        expected=[k.expected for k in KEYS],
    )  # fmt: skip
    assert full.complete
    assert {k.status for k in full.keys} == {"COMPLETE"}
    assert [line for line in full.not_checked if not line.startswith("chain codes")] == []
    one = verify_document(document_of(KEYS, rsa, (2,)))
    assert not one.keys[0].recoverable


def test_t108_two_parts_of_one_node_count_once(rsa_key) -> None:
    rsa = rsa_key().public
    parts = (part_of([A], 1, rsa, seed=1), part_of([A], 1, rsa, seed=2))
    document = Document((*parts, parts[0]))
    assert len(document.parts) == 2
    assert verify_document(document, rsa=rsa).keys[0].status == "PARTIAL 1/3"


def test_t099_proof_for_another_point_is_refused(rsa_key) -> None:
    rsa = rsa_key().public
    honest = part_of([A], 1, rsa)
    other = make_key("key-a", n=3, t=2).statement
    swapped = replace(A.statement, public_key=other.public_key, threshold=2,
                      share_commitments=other.share_commitments)  # fmt: skip
    edited = with_context(honest, keys=(swapped,))
    assert refused(lambda: verify_part(edited, rsa=rsa)).detail["check"] == "challenge"
    # A prover that encrypts another share than the one committed to.
    liar = prover_for([A], 1, rsa, shift=1).run()
    assert refused(lambda: verify_part(liar, rsa=rsa)).detail == {
        "check": "challenge", "node": 1, "key": None,
    }  # fmt: skip
    # A consistent proof for an X' that is not in the sharing.
    commitments = (other.share_commitments[0], *A.statement.share_commitments[1:])
    fake = replace(A.statement, share_commitments=commitments)
    forger = prover_for([make_key("key-a", n=3, t=2)], 1, rsa, statements=[fake]).run()
    error = refused(lambda: verify_part(forger, rsa=rsa))
    assert (error.detail["check"], error.detail["key"]) == ("polynomial", "key-a")


def test_t101_callers_expectations_are_compared(rsa_key) -> None:
    rsa, other_rsa = rsa_key().public, rsa_key(2048, 1).public
    document = document_of(KEYS, rsa)
    good = A.expected
    for check, want in {
        "key id": replace(good, key_id="key-x"),
        "curve": replace(good, curve="ed25519"),
        "public key": replace(good, public_key=make_key("other").statement.public_key),
        "generation": replace(good, generation=2),
        "record hash": replace(good, record_hash=bytes(32)),
    }.items():
        error = refused(lambda w=want: verify_document(document, rsa=rsa, expected=[w]))
        assert error.detail["check"] == check
        assert error.detail["key"] == want.key_id
        assert error.exit_code == 5
    for check, call in {
        "rsa": lambda: verify_document(document, rsa=other_rsa),
        "label": lambda: verify_document(document, rsa=rsa, label="other"),
        "vault": lambda: verify_document(document, rsa=rsa, vault="other"),
        "node": lambda: verify_part(document.parts[0], rsa=rsa, node=2),
    }.items():
        assert refused(call).detail["check"] == check
    verify_document(document, rsa=rsa, expected=[ExpectedKey("key-a")])


def test_t101_an_edited_context_is_refused(rsa_key) -> None:
    rsa, other_rsa = rsa_key().public, rsa_key(2048, 1).public
    part = part_of(KEYS, 1, rsa)
    a, b = A.statement, B.statement
    for change in (
        {"node": 2}, {"vault": "vault-2"}, {"label": "nicer"}, {"salt": bytes(32)},
        {"rsa_spki": other_rsa.spki}, {"k_point": a.public_key}, {"params_name": "balanced"},
        {"keys": (b, a)}, {"keys": (a,)},
        {"keys": (replace(a, chain_code_hash=chain_code_hash(bytes(32))), b)},
        {"keys": (replace(a, chain_code_hash=None), b)},
        {"keys": (replace(a, generation=2), b)}, {"keys": (replace(a, record_hash=bytes(32)), b)},
        {"keys": (replace(a, key_id="key-z"), b)}, {"keys": (replace(a, scheme="schnorr"), b)},
        {"keys": (replace(a, protocol="other"), b)},
    ):  # fmt: skip
        edited = with_context(part, **change)
        error = refused(lambda p=edited: verify_document(Document((p,)), rsa=None))
        assert error.detail["node"] in (1, 2, None), change


def test_t102_spliced_ciphertexts_are_refused(rsa_key) -> None:
    rsa = rsa_key().public
    one, two = part_of([A], 1, rsa, seed=1), part_of([A], 1, rsa, seed=2)
    step = len(one.leaves) // 55
    mine, theirs = one.leaves, two.leaves
    for leaf in (0, 20, 54):
        at = leaf * step
        for low, high in ((0, 256), (256, step), (0, step)):  # c; z and salt; all of it
            spliced = mine[: at + low] + theirs[at + low : at + high] + mine[at + high :]
            assert spliced != mine
            refused(lambda s=spliced: verify_part(replace(one, leaves=s), rsa=rsa))
    refused(lambda: verify_part(replace(one, leaves=theirs), rsa=rsa))
    swapped = mine[:256] + mine[step : step + 0] + mine[256:]
    assert swapped == mine
    exchanged = mine[step : step + 256] + mine[256:step] + mine[:256] + mine[step + 256 :]
    refused(lambda: verify_part(replace(one, leaves=exchanged), rsa=rsa))


def test_t105_malformed_values_are_refused_by_name(rsa_key) -> None:
    rsa = rsa_key().public
    part = part_of([A], 1, rsa)
    group, leaves = A.statement.group, part.leaves
    step = len(leaves) // 55
    q = group.q.to_bytes(32, "big")
    uncompressed = b"\x04" + bytes(64)
    hybrid = b"\x06" + A.statement.public_key[1:]
    lengths = box_lengths(part.context)
    cases = {
        "scalar": replace(part, leaves=leaves[:256] + q + leaves[288:]),
        "ciphertext": replace(part, leaves=rsa.n.to_bytes(256, "big") + leaves[256:]),
        "length": replace(part, leaves=leaves[:-1]),
        "length ": replace(part, leaves=leaves + b"\0"),
        "length  ": replace(part, leaves=leaves[step:]),
        "length   ": replace(part, leaves=leaves + leaves[:step]),
        "length    ": replace(part, copath=part.copath[:-32]),
        "length     ": replace(part, siblings=part.siblings + bytes(32)),
        "length      ": replace(part, box=part.box[: -(len(part.box) - lengths.start) - 1]),
        "length       ": replace(part, box=b""),
        "length        ": replace(part, box=part.box + bytes(lengths.stop - len(part.box))),
        "challenge ": replace(part, box=part.box + b"\0"),
        "challenge": replace(part, leaves=leaves[step : 2 * step] + leaves[:step]
                             + leaves[2 * step :]),
        "point": with_context(part, k_point=hybrid),
        "point ": with_context(part, k_point=b"\x02" + b"\xff" * 32),
        "point  ": with_context(part, keys=(replace(A.statement, public_key=hybrid),)),
    }  # fmt: skip
    for check, bad in cases.items():
        error = refused(lambda p=bad: verify_part(p, rsa=rsa))
        assert error.detail["check"] == check.strip(), check
    wrong_length = with_context(part, keys=(replace(A.statement, public_key=uncompressed),))
    refused(lambda: Document.load(Document((wrong_length,)).to_cbor()))
    low_order = with_context(
        part_of([B], 1, rsa), keys=(replace(B.statement, public_key=bytes(32)),)
    )
    assert refused(lambda: verify_part(low_order, rsa=rsa)).detail["check"] == "point"


def test_t098_document_cannot_choose_its_parameters(rsa_key) -> None:
    rsa = rsa_key().public
    part = part_of([A], 1, rsa)
    for name in ("compact", "balanced", "tiny", "", "256"):
        edited = Document((with_context(part, params_name=name),)).to_cbor()
        refused(lambda d=edited: verify_document(Document.load(d), rsa=rsa))


def test_combining_refuses_to_mix_batches(rsa_key) -> None:
    rsa, other_rsa = rsa_key().public, rsa_key(2048, 1).public
    base = part_of(KEYS, 1, rsa)
    newer = [make_key("key-a", generation=2), B]
    for check, part in {
        "mixed label": part_of(KEYS, 2, rsa, label="other"),
        "mixed vault": part_of(KEYS, 2, rsa, vault="other"),
        "mixed rsa": part_of(KEYS, 2, other_rsa),
        "mixed params": part_of(KEYS, 2, rsa, params="balanced"),
        "mixed generation": part_of(newer, 2, rsa),
        "mixed keys": part_of([B, A], 2, rsa),
    }.items():
        error = refused(lambda p=part: Document((base, p)))
        assert error.detail["check"] == check
    refused(lambda: Document(()))
    two = Document((part_of(KEYS, 2, rsa),))
    assert Document.combine([two, Document((base,))]).nodes == (1, 2)


def test_t110_replayed_randomness_with_a_longer_ledger(rsa_key) -> None:
    """Same context, same K: neither the tree nor the box's nonce may be the same again."""
    rsa = rsa_key().public
    one = part_of(KEYS, 1, rsa, seed=5, paths={"key-a": ["m/1"]})
    other = part_of(KEYS, 1, rsa, seed=5, paths={"key-a": ["m/1", "m/2"]})
    assert one.to_cbor() == part_of(KEYS, 1, rsa, seed=5, paths={"key-a": ["m/1"]}).to_cbor()
    assert other.context.ctx == one.context.ctx
    assert other.box[:12] != one.box[:12]
    assert not set(_pieces(one.copath)) & set(_pieces(other.copath))
    ours, theirs = closed_leaves_of(one), closed_leaves_of(other)
    assert not {leaf.ciphertext for leaf in ours} & {leaf.ciphertext for leaf in theirs}
    assert not {leaf.salt for leaf in ours} & {leaf.salt for leaf in theirs}
    # What one proof opens is no seed of the other's tree, opened or closed.
    shared = [leaf.k for leaf in ours if leaf.k not in {other_leaf.k for other_leaf in theirs}]
    grown = tree.regrow(other.context.ctx, 136, dict(zip(
        tree.cover(136, [leaf.k for leaf in theirs]), _pieces(other.copath), strict=True,
    )))  # fmt: skip
    leaves = Leaves(other.context, rsa)
    for leaf in ours:
        if leaf.k in shared:
            opened = leaves.open_seed(leaf.k, grown[135 + leaf.k])
            assert leaves.ciphertext(leaf.k, *opened) != leaf.ciphertext


def _pieces(raw: bytes) -> list[bytes]:
    return [raw[i : i + 32] for i in range(0, len(raw), 32)]


def test_t110_replayed_randomness(rsa_key) -> None:
    rsa = rsa_key().public
    one, same = part_of(KEYS, 1, rsa, seed=5), part_of(KEYS, 1, rsa, seed=5)
    assert one.to_cbor() == same.to_cbor()  # same context: the same proof, byte for byte
    other = part_of(KEYS, 1, rsa, seed=5, label="other label")
    assert other.context.salt == one.context.salt  # the randomness really was replayed
    assert other.context.k_point == one.context.k_point

    def seeds(part):
        return {part.copath[i : i + 32] for i in range(0, len(part.copath), 32)}

    assert not seeds(one) & seeds(other)
    ours, theirs = closed_leaves_of(one), closed_leaves_of(other)
    assert not {leaf.ciphertext for leaf in ours} & {leaf.ciphertext for leaf in theirs}
    assert not {leaf.salt for leaf in ours} & {leaf.salt for leaf in theirs}
    # Nothing that one proof opens is a closed seed of the other.
    closed = {leaf.k for leaf in ours}
    grown = tree.regrow(other.context.ctx, 136, dict(zip(
        tree.cover(136, [leaf.k for leaf in theirs]),
        [other.copath[i : i + 32] for i in range(0, len(other.copath), 32)], strict=True,
    )))  # fmt: skip
    mine = prover_for(KEYS, 1, rsa)
    assert mine.root not in grown
    assert closed != {leaf.k for leaf in theirs}


def test_prover_checks_its_own_secrets_first(rsa_key) -> None:
    rsa = rsa_key().public
    rng = SeededRng(1)

    def prove(**changes):
        options = {
            "rsa": rsa, "vault": "v", "node": 1, "label": "l", "keys": [A.statement],
            "shares": [A.shares[1]], "chain_codes": [A.chain_code], "params": "fast", "rng": rng,
        }  # fmt: skip
        return lambda: make_part(**{**options, **changes})

    verify_part(prove()(), rsa=rsa)
    refused(prove(shares=[A.shares[2]]), Code.BAD_SHARE)
    refused(prove(shares=[SecretScalar(0)]), Code.BAD_SCALAR)
    refused(prove(shares=[SecretScalar(A.shares[1].reveal() + A.statement.group.q)]),
            Code.BAD_SCALAR)  # fmt: skip
    refused(prove(shares=[]), Code.BAD_LENGTH)
    refused(prove(chain_codes=[None]), Code.BAD_COMMIT)
    refused(prove(chain_codes=[SecretBytes(bytes(32))]), Code.BAD_COMMIT)
    refused(prove(chain_codes=[SecretBytes(bytes(31))]), Code.BAD_LENGTH)
    refused(prove(node=4))
    refused(prove(params="tiny"))
    refused(prove(label="line\nbreak"))
    refused(prove(label="\u202eevil"))
    refused(prove(label="x" * 257))
    refused(prove(vault="has space"))
    refused(prove(keys=[], shares=[], chain_codes=[]))
    twice = {"keys": [A.statement] * 2, "shares": [A.shares[1]] * 2}
    refused(prove(**twice, chain_codes=[A.chain_code] * 2))
    assert "secret" in repr(A.shares[1])
