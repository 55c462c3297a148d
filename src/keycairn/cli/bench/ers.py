"""Emergency recovery: one node's part of a document, proved and verified."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.cli.bench.cast import deal
from keycairn.ers.document import Document
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import verify_part
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols.ers_session import statement_of
from keycairn.protocols.record import SUITES

_CLOCK, _RNG = SystemClock(), SystemRng()


def rsa_spki(bits: int) -> bytes:
    """A fresh RSA public key; nobody keeps the private half."""
    public = crypto_rsa.generate_private_key(65537, bits).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ers(curve: str, count: int, params: str, spki: bytes) -> dict[str, Any]:
    """One node's part for ``count`` keys of a curve."""
    scheme = next((s for s, c in SUITES if c == curve), "")
    rsa = load_rsa_public_key(spki, allow_2048=True)
    shares = [deal(f"bench-{k}", scheme, curve, 3, 1)[1] for k in range(count)]
    began = _CLOCK.monotonic()
    part = make_part(
        rsa=rsa,
        vault="bench",
        node=1,
        label="",
        params=params,
        keys=[statement_of(s.record) for s in shares],
        shares=[s.share for s in shares],
        chain_codes=[None] * count,
        rng=_RNG,
    )
    proved = _CLOCK.monotonic()
    verify_part(part, rsa=rsa)
    verified = _CLOCK.monotonic()
    context = len(part.context.encoded)
    return {
        "keys": count,
        "params": params,
        "rsa_bits": rsa.bits,
        "curve": curve,
        "prove_ms_per_key": round(1000 * (proved - began) / count, 4),
        "verify_ms_per_key": round(1000 * (verified - proved) / count, 4),
        "bytes_per_key": len(Document((part,)).encoded) // count,
        "context_bytes_per_key": context // count,
    }
