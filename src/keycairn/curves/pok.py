"""Schnorr proof of knowledge of a discrete logarithm, made non-interactive with Fiat-Shamir.

The challenge binds session, prover, statement and a sub-label (R-13). Extraction is by rewinding,
as in FROST's key generation; docs/protocols/keygen.md says what that means.
"""

from __future__ import annotations

from dataclasses import dataclass

from keycairn.curves.group import Group, Point
from keycairn.encoding import Tag, to_scalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng


@dataclass(frozen=True)
class ProofOfKnowledge:
    """``K = k*G`` and ``z = k + e*x``."""

    commitment: Point
    response: int


def _challenge(
    t: Tag, group: Group, sid: bytes, prover: int, label: int, x: Point, k: Point
) -> int:
    return to_scalar(group.q, t, group.name, sid, prover, label, x.encode(), k.encode())


def prove_knowledge(
    t: Tag, secret: int, public: Point, *, sid: bytes, prover: int, label: int, rng: Rng
) -> ProofOfKnowledge:
    """Prove knowledge of ``secret`` with ``public = secret*G`` under tag ``t``."""
    group = public.group
    k = group.random_scalar(rng)
    commitment = group.base_mul(k)
    e = _challenge(t, group, sid, prover, label, public, commitment)
    return ProofOfKnowledge(commitment, (k + e * secret) % group.q)


def check_knowledge(
    t: Tag, proof: ProofOfKnowledge, public: Point, *, sid: bytes, prover: int, label: int
) -> None:
    """Raise E_BAD_PROOF unless ``z*G = K + e*X``."""
    group = public.group
    e = _challenge(t, group, sid, prover, label, public, proof.commitment)
    try:
        left = group.base_mul(proof.response)
        right = group.combine([(1, proof.commitment), (e, public)])
    except KeycairnError as exc:
        raise KeycairnError(Code.BAD_PROOF, "proof of knowledge is degenerate") from exc
    if left != right:
        raise KeycairnError(Code.BAD_PROOF, "proof of knowledge does not verify")
