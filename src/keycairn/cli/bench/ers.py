"""Emergency recovery: one node's parts of documents, proved and verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.cli.bench.cast import deal
from keycairn.cli.bench.sample import Sample, rounded
from keycairn.encoding import SecretBytes
from keycairn.ers.document import Document, Part
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.statement import chain_code_hash
from keycairn.ers.verify import verify_part
from keycairn.ports.system import ProcessClock, SystemRng
from keycairn.protocols.ers_session import statement_of
from keycairn.protocols.record import SUITES

_CLOCK, _RNG = ProcessClock(), SystemRng()
#: Keys of one document, at most: more are several documents, as nodes make them.
BATCH = 1000


def rsa_spki(bits: int) -> bytes:
    """A fresh RSA public key; nobody keeps the private half."""
    public = crypto_rsa.generate_private_key(65537, bits).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ers(curve: str, count: int, params: str, spki: bytes) -> dict[str, Any]:
    """One node's part for ``count`` keys of a curve with chain codes: processor time, bytes, and
    the most memory that the process had (Linux only).

    A few keys are proved several times, and the median counts; more than :data:`BATCH` are proved
    in documents of as many, and what a key takes is the mean of all.
    """
    rsa = load_rsa_public_key(spki, allow_2048=True)
    runs = 9 if count <= 10 else 3 if count <= BATCH else 1
    _prepare(curve, rsa, params)
    _forget_peak()
    prove_ms: list[float] = []
    verify_ms: list[float] = []
    for _ in range(runs):
        proving = verifying = 0.0
        sizes, contexts = 0, 0
        for size in _batches(count):
            part, took = _prove(curve, size, params, rsa)
            proving += took
            began = _CLOCK.monotonic()
            verify_part(part, rsa=rsa)
            verifying += _CLOCK.monotonic() - began
            sizes += len(Document((part,)).encoded)
            contexts += len(part.context.encoded)
        prove_ms.append(1000 * proving / count)
        verify_ms.append(1000 * verifying / count)
    return {
        "keys": count,
        "params": params,
        "rsa_bits": rsa.bits,
        "curve": curve,
        "prove_ms_per_key": rounded(Sample(prove_ms).median),
        "verify_ms_per_key": rounded(Sample(verify_ms).median),
        "bytes_per_key": sizes // count,
        "context_bytes_per_key": contexts // count,
        "proof_bytes_per_key": (sizes - contexts) // count,
        "peak_memory_mb": _peak(),
    }


def _batches(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, BATCH)
        count -= BATCH


def _prepare(curve: str, rsa: RsaPublicKey, params: str) -> None:
    """What is made once, in a run that does not count."""
    verify_part(_prove(curve, 1, params, rsa)[0], rsa=rsa)


def _prove(curve: str, count: int, params: str, rsa: RsaPublicKey) -> tuple[Part, float]:
    scheme = next((s for s, c in SUITES if c == curve), "")
    shares = [deal(f"bench-{k}", scheme, curve, 3, 1)[1] for k in range(count)]
    codes = [SecretBytes(_RNG.bytes(32)) for _ in shares]
    keys = [
        replace(statement_of(s.record), chain_code_hash=chain_code_hash(code.reveal()))
        for s, code in zip(shares, codes, strict=True)
    ]
    began = _CLOCK.monotonic()
    part = make_part(
        rsa=rsa,
        vault="bench",
        node=1,
        label="",
        params=params,
        keys=keys,
        shares=[s.share for s in shares],
        chain_codes=codes,
        rng=_RNG,
    )
    return part, _CLOCK.monotonic() - began


def _forget_peak() -> None:
    """Begin the count of the peak again (proc(5): clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int | None:
    """Most megabytes (10^6) of resident memory since :func:`_forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 // 1_000_000
    return None
