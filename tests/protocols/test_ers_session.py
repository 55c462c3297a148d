"""The ERS session in lockstep: curves, every node's own ledger, and parts that may not pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.errors import Certainty, Code
from keycairn.ers.context import Context
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document, Part
from keycairn.ers.prove import Prover
from keycairn.ers.recover import recover
from keycairn.ers.statement import chain_code_hash
from keycairn.ers.verify import verify_document, verify_part
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import ers_session
from keycairn.protocols.ers_session import ErsParams, make_document, statement_of
from keycairn.protocols.record import KeyShare
from protocols.lockstep import Envelope, Hook, Outcome, deal, parties, run

KIT = Path(__file__).parents[1] / "ers" / "kit-2"
KEY = SoftwareKey.from_pem((KIT / "test-only-rsa-key.pem").read_bytes())
SCHEMES = {"secp256k1": "ecdsa", "p256": "ecdsa", "ed25519": "schnorr"}
PATHS = {1: {"key-p256": ["m/1"]}, 2: {"key-p256": ["m/1", "m/9/9"]}, 3: {}}


def keys(*curves: str) -> dict[int, list[KeyShare]]:
    """Shares of players 1 to 3 of one key on each curve, with chain codes that fit the records."""
    out: dict[int, list[KeyShare]] = {1: [], 2: [], 3: []}
    for curve in curves:
        dealt = deal(curve, scheme=SCHEMES[curve], key_id=f"key-{curve}")
        for i, share in dealt.items():
            assert share.chain_code is not None
            record = dataclasses.replace(
                share.record, chain_code_hash=chain_code_hash(share.chain_code.reveal())
            )
            out[i].append(dataclasses.replace(share, record=record))
    return out


def session(shares: dict[int, list[KeyShare]], hook: Hook | None = None) -> dict[int, Outcome]:
    records = [share.record for share in shares[1]]
    params = ErsParams(
        "request",
        tuple(r.key_id for r in records),
        tuple(r.hash for r in records),
        KEY.public.spki_sha256,
        "fast",
        "label",
    )
    members = parties((1, 2, 3), "ers")
    return run(
        {
            i: make_document(p, "vault", params, KEY.public, shares[i], PATHS[i])
            for i, p in members.items()
        },
        hook,
    )


@pytest.mark.parametrize("curves", [("p256",), ("ed25519", "p256"), tuple(SCHEMES)], ids=str)
def test_all_holders_end_with_one_document_that_recovers(curves: tuple[str, ...]) -> None:
    outcomes = session(keys(*curves))
    (document,) = {o.result.document for o in outcomes.values()}
    assert document.context.version == 2
    assert verify_document(document, rsa=KEY.public).complete
    for back in recover(Document.load(document.to_cbor()), KEY):
        group = back.statement.group
        assert group.base_mul(back.private_key.reveal()).encode() == back.public_key
        assert back.paths == (("m/1", "m/9/9") if back.curve == "p256" else ())


class OldProver(Prover):
    """Writes version 1: the box without ledger, and without a nonce in it."""

    def __init__(self, context: Context, secrets: Any, codes: list[bytes]) -> None:
        super().__init__(context, KEY.public, secrets, codes, bytes(32))
        k = next(xs[-1] for b, xs in zip(context.bundles, secrets, strict=True) if b.has_k)
        material = context.k_group.encode_scalar(k)
        info = b"KCT1" + (7).to_bytes(2, "big") + b"ers/box" + (1).to_bytes(2, "big")
        key = HKDF(SHA256(), 32, salt=context.ctx, info=info).derive(material)
        self.box = AESGCM(key).encrypt(bytes(12), b"".join(codes), context.ctx)


def old_part(shares: list[KeyShare], node: int) -> Part:
    """A node's perfectly good part of version 1."""
    rng = SeededRng("old")
    statements = tuple(statement_of(share.record) for share in shares)
    group = statements[0].group
    k = group.random_scalar(rng)
    context = Context(
        "fast", KEY.public.spki, "label", "vault", node, rng.bytes(32), group.base_mul(k).encode(),
        statements, version=1,
    )  # fmt: skip
    secrets = [[*(share.share.reveal() for share in shares), k]]
    codes = [share.chain_code.reveal() for share in shares if share.chain_code is not None]
    return OldProver(context, secrets, codes).run()


def test_t101_a_part_of_version_1_is_refused_in_a_session_though_it_verifies() -> None:
    shares = keys("secp256k1")
    part = old_part(shares[3], 3)
    verify_part(part, rsa=KEY.public, label="label", vault="vault", node=3)
    other = old_part(shares[1], 1)
    (back,) = recover(Document((other, part)), KEY)
    assert back.paths is None
    assert back.chain_code is not None

    def hook(e: Envelope) -> Any:
        return ers_session.PartMessage(part.to_cbor()) if e.sender == 3 else e.message

    outcomes = session(shares, hook)
    for i in (1, 2):
        abort = outcomes[i].abort
        assert (abort.code, abort.culprits) == (Code.ERS_INVALID, (3,))
        assert abort.certainty is Certainty.CERTAIN
        assert not abort.ban
        assert "version" in abort.message


def test_the_round_has_room_for_the_longest_ledger() -> None:
    """A node that knows ten thousand long paths must not be cut off by the others."""
    longest = ["/".join(["m", *["2147483647"] * 7, str(2147483647 - i)]) for i in range(10_000)]
    before = dict(PATHS)
    try:
        PATHS[2] = {"key-p256": longest}
        outcomes = session(keys("p256"))
    finally:
        PATHS.update(before)
    sent = outcomes[2].sent[0].broadcast
    assert 900_000 < len(sent.part) < ers_session.largest_round(1)
    assert len({o.result.document for o in outcomes.values()}) == 1
