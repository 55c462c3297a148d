"""Proofs of knowledge bind tag, session, prover, label and statement (T-011, T-026)."""

from __future__ import annotations

from typing import Any

import pytest

from keycairn.curves import ED25519, SECP256K1
from keycairn.curves.group import Group
from keycairn.curves.pok import ProofOfKnowledge, check_knowledge, prove_knowledge
from keycairn.encoding.transcript import Tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

BOTH = pytest.mark.parametrize("g", [SECP256K1, ED25519], ids=lambda g: g.name)
TAG = Tag("test/pok", 1)
SECRET = 123456789
PLACE: dict[str, Any] = {"sid": b"s" * 32, "prover": 2, "label": 0}


def proof(g: Group, secret: int = SECRET, tag: Tag = TAG, **place: Any) -> ProofOfKnowledge:
    where = {**PLACE, **place}
    return prove_knowledge(tag, secret, g.base_mul(SECRET), **where, rng=SeededRng(1))


def refused(g: Group, made: ProofOfKnowledge, public: int = SECRET) -> Code:
    with pytest.raises(KeycairnError) as caught:
        check_knowledge(TAG, made, g.base_mul(public), **PLACE)
    return caught.value.code


@BOTH
def test_an_honest_proof_verifies(g: Group) -> None:
    check_knowledge(TAG, proof(g), g.base_mul(SECRET), **PLACE)


@BOTH
@pytest.mark.parametrize(
    "elsewhere",
    [
        {"sid": b"t" * 32},
        {"sid": b"s" * 31},
        {"prover": 1},
        {"prover": 3},
        {"label": 1},
        {"tag": Tag("test/pok", 2)},
        {"tag": Tag("test/other", 1)},
    ],
    ids=lambda e: str(e),
)
def test_t026_a_proof_from_elsewhere_is_refused(g: Group, elsewhere: dict[str, Any]) -> None:
    assert refused(g, proof(g, **elsewhere)) is Code.BAD_PROOF


@BOTH
def test_t026_a_proof_for_another_statement_is_refused(g: Group) -> None:
    assert refused(g, proof(g), public=SECRET + 1) is Code.BAD_PROOF
    assert refused(g, proof(g, secret=SECRET + 1)) is Code.BAD_PROOF


@BOTH
def test_t011_malformed_proof_objects_end_in_e_bad_proof(g: Group) -> None:
    good = proof(g)
    other = g.base_mul(77)
    for bad in (
        ProofOfKnowledge(other, good.response),
        ProofOfKnowledge(good.commitment, good.response + 1),
        ProofOfKnowledge(good.commitment, 0),
        ProofOfKnowledge(good.commitment, g.q),
        ProofOfKnowledge(good.commitment, -good.response),
        ProofOfKnowledge(g.neg(good.commitment), good.response),
        ProofOfKnowledge(g.base_mul(SECRET), SECRET),
    ):
        assert refused(g, bad) is Code.BAD_PROOF


@BOTH
def test_t011_the_degenerate_sum_is_refused_and_not_a_crash(g: Group) -> None:
    """K = -e·X would need z = 0; e depends on K, so it is tried with a chosen response only."""
    assert refused(g, ProofOfKnowledge(g.neg(g.base_mul(SECRET)), g.q)) is Code.BAD_PROOF


@BOTH
def test_nonces_of_proofs_are_fresh(g: Group) -> None:
    rng = SeededRng(5)
    x = g.base_mul(SECRET)
    made = [prove_knowledge(TAG, SECRET, x, **PLACE, rng=rng) for _ in range(50)]
    assert len({p.commitment for p in made}) == 50
