"""``keycairn bench``: figures of this machine. Protocols run in this process, without network."""

from __future__ import annotations

import os
import platform
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.cli import lockstep
from keycairn.cli.options import command, group
from keycairn.cli.output import output
from keycairn.client import verify_signature
from keycairn.curves import group as curve_group
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import SecretBytes
from keycairn.errors import malformed
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
_SCHEMES = {"ecdsa": "secp256k1", "schnorr": "ed25519"}


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


def register(app: typer.Typer) -> None:
    """Add the group."""
    bench = group("bench", "Measure this machine. (presign, dkg, system come with later versions.)")
    app.add_typer(bench)

    @command(bench, "sign")
    def sign(
        scheme: Annotated[
            str | None, typer.Option("--scheme", help="ecdsa or schnorr; default: both")
        ] = None,
        signers: Annotated[int, typer.Option("--signers", help="t+1, 2 to 16")] = 2,
        count: Annotated[int, typer.Option("--count", help="signatures, 1 to 10000")] = 20,
    ) -> None:
        """Time to sign per party, waiting not counted; ECDSA with its presigning, setups not."""
        if scheme is not None and scheme not in _SCHEMES:
            raise malformed("--scheme must be ecdsa or schnorr")
        if not (2 <= signers <= 16 and 1 <= count <= 10_000):
            raise malformed("--signers must be 2 to 16 and --count 1 to 10000")
        wanted = [scheme] if scheme is not None else list(_SCHEMES)
        with output.working("signing"):
            results = [_bench_sign(s, signers, count) for s in wanted]
        output.result({"machine": machine(), "results": results})

    @command(bench, "ers")
    def ers(
        keys: Annotated[str, typer.Option("--keys", help="batch sizes, like 1,100")] = "1,100",
        params: Annotated[str, typer.Option("--params")] = "balanced",
        rsa_bits: Annotated[int, typer.Option("--rsa-bits", help="2048, 3072 or 4096")] = 3072,
        curve: Annotated[
            str | None, typer.Option("--curve", help="secp256k1 or ed25519; default: both")
        ] = None,
    ) -> None:
        """Time of one node's part of a document, proving and verifying, and its size."""
        words = keys.split(",")
        if not all(w.isascii() and w.isdigit() and 1 <= int(w) <= 1000 for w in words):
            raise malformed("--keys takes numbers from 1 to 1000 with commas between them")
        if rsa_bits not in (2048, 3072, 4096):
            raise malformed("--rsa-bits must be 2048, 3072 or 4096")
        curves = list(_SCHEMES.values()) if curve is None else [curve]
        with output.working("proving and verifying"):
            spki = _rsa_spki(rsa_bits)
            results = [_bench_ers(c, int(w), params, spki) for c in curves for w in words]
        output.result({"machine": machine(), "results": results})


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
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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


def _bench_sign(scheme: str, count_signers: int, count: int) -> dict[str, Any]:
    curve = _SCHEMES[scheme]
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
                i: dkls23.sign_full(p, shares[i], setups[i], payload) for i, p in parties.items()
            }
        else:
            runs = {i: frost.sign(p, shares[i], payload) for i, p in parties.items()}
        ends = lockstep.run(runs, _CLOCK)
        seconds += sum(e.seconds for e in ends.values()) / count_signers
        size += sum(e.bytes_sent for e in ends.values()) // count_signers
        _check(scheme, curve, shares[1].record.public_key, ends[1].result, payload)
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


def _rsa_spki(bits: int) -> bytes:
    public = crypto_rsa.generate_private_key(65537, bits).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _bench_ers(curve: str, count: int, params: str, spki: bytes) -> dict[str, Any]:
    scheme = next((s for s, c in _SCHEMES.items() if c == curve), "")
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
