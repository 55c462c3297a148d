"""Figures of this machine: keys, parties and runs of ``keycairn bench``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.cli import lockstep
from keycairn.cli.measure_ecdsa import (
    measure_presign,
    measure_setup,
    measure_sign,
    primitives,
)
from keycairn.client import verify_signature
from keycairn.curves import group as curve_group
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import SecretBytes
from keycairn.ers.document import Document
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import verify_part
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols import dkls23, frost
from keycairn.protocols.ers_session import statement_of
from keycairn.protocols.form import Party
from keycairn.protocols.record import KeyRecord, KeyShare, protocol_for
from keycairn.protocols.setup import PairSetup, pair_setup
from keycairn.vault.api import Identity
from keycairn.vault.signer import IdentitySigner

_CLOCK, _RNG = SystemClock(), SystemRng()
#: Curve of each scheme that this version signs with.
SCHEMES = {"ecdsa": "secp256k1", "schnorr": "ed25519"}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


# -- keys and parties of a bench


def _deal(scheme: str, curve: str, key_id: str, n: int, t: int) -> dict[int, KeyShare]:
    """A key from a trusted dealer: benches need shares, not trust."""
    g = curve_group(curve)
    polynomial = Polynomial.random(g, t, _RNG)
    shares = {i: polynomial.evaluate(i) for i in range(1, n + 1)}
    record = KeyRecord(
        key_id=key_id,
        vault="bench",
        scheme=scheme,
        curve=curve,
        protocol=protocol_for(scheme, curve),
        purpose="sign",
        threshold=t,
        holders=tuple(shares),
        public_key=polynomial.commit()[0].encode(),
        share_commitments=tuple(g.base_mul(s.reveal()).encode() for s in shares.values()),
        chain_code_hash=None,
        generation=1,
    )
    return {i: KeyShare(record, i, s, None) for i, s in shares.items()}


def _signers(players: tuple[int, ...]) -> dict[int, IdentitySigner]:
    keys = {i: Ed25519PrivateKey.from_private_bytes(_RNG.bytes(32)) for i in players}
    pins = {i: k.public_key().public_bytes_raw() for i, k in keys.items()}
    return {
        i: IdentitySigner(Identity(SecretBytes(k.private_bytes_raw()), pins[i]), pins)
        for i, k in keys.items()
    }


def _parties(players: tuple[int, ...], signers: dict[int, IdentitySigner]) -> dict[int, Party]:
    sid = _RNG.bytes(32)
    return {i: Party(i, players, sid, _RNG, signers[i]) for i in players}


def _setups(
    players: tuple[int, ...], signers: dict[int, IdentitySigner]
) -> dict[int, dict[int, PairSetup]]:
    made: dict[int, dict[int, PairSetup]] = {i: {} for i in players}
    for a, b in combinations(players, 2):
        ends = lockstep.run(
            {i: pair_setup(p) for i, p in _parties((a, b), signers).items()}, _CLOCK
        )
        made[a][b], made[b][a] = ends[a].result, ends[b].result
    return made


# -- the benches


def bench_sign(scheme: str, count_signers: int, count: int) -> dict[str, Any]:
    """One row of ``bench sign``; every signature is verified."""
    curve = SCHEMES[scheme]
    players = tuple(range(1, count_signers + 1))
    shares = _deal(scheme, curve, "bench", count_signers, count_signers - 1)
    signers = _signers(players)
    setups = _setups(players, signers) if scheme == "ecdsa" else {}
    seconds, size = 0.0, 0
    for _ in range(count):
        payload = _RNG.bytes(32)
        parties = _parties(players, signers)
        if scheme == "ecdsa":
            runs: dict[int, Any] = {
                i: dkls23.sign_full(p, shares[i], setups[i], [dkls23.Request(payload)])
                for i, p in parties.items()
            }
        else:
            asked = [frost.Request(payload)]
            runs = {i: frost.sign_full(p, shares[i], asked) for i, p in parties.items()}
        ends = lockstep.run(runs, _CLOCK)
        seconds += sum(e.seconds for e in ends.values()) / count_signers
        size += sum(e.bytes_sent for e in ends.values()) // count_signers
        _check(scheme, curve, shares[1].record.public_key, ends[1].result[0], payload)
    return {
        "scheme": scheme,
        "curve": curve,
        "signers": count_signers,
        "signatures": count,
        "ms_per_signature_per_party": round(1000 * seconds / count, 3),
        "bytes_sent": size // count,
    }


def _check(scheme: str, curve: str, public_key: bytes, made: Any, payload: bytes) -> None:
    """A figure for signatures that aren't valid would be worth nothing."""
    if scheme == "ecdsa":
        verify_signature(scheme, curve, public_key, made.compact(), digest=payload)
    else:
        verify_signature(scheme, curve, public_key, made.signature, message=payload)


def rsa_spki(bits: int) -> bytes:
    """A fresh RSA public key; nobody keeps the private half."""
    public = crypto_rsa.generate_private_key(65537, bits).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def bench_ers(curve: str, count: int, params: str, spki: bytes) -> dict[str, Any]:
    """One row of ``bench ers``: one node's part for ``count`` keys."""
    scheme = next((s for s, c in SCHEMES.items() if c == curve), "")
    rsa = load_rsa_public_key(spki, allow_2048=True)
    shares = [_deal(scheme, curve, f"bench-{k}", 3, 1)[1] for k in range(count)]
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


def bench_presign(signers: int, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Setup, presignatures in each batch size, and signatures with them, beside primitives.

    Processor time of one party; ``ratio_to`` counts in calls of the primitives of this run.
    """
    players = tuple(range(1, signers + 1))
    shares = _deal("ecdsa", "secp256k1", "bench", signers, signers - 1)
    identities = _signers(players)
    setups = _setups(players, identities)

    def fresh(wanted: tuple[int, ...]) -> Mapping[int, Party]:
        return _parties(wanted, identities)

    rows = [{"what": "primitives", "microseconds": primitives()}]
    rows.append({"what": "setup"} | measure_setup(fresh))
    rows += [{"what": "presign"} | measure_presign(fresh, shares, setups, b) for b in batches]
    rows.append({"what": "online"} | measure_sign(fresh, shares, setups))
    return rows
