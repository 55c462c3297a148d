"""Microseconds of the library calls that the protocols are made of.

Measured in every run of ``bench``, next to the figures that are compared with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from nacl.signing import SigningKey

from keycairn.curves import SECP256K1, bip340, group
from keycairn.ports.system import ProcessClock, SystemRng

_CLOCK, _RNG = ProcessClock(), SystemRng()
_KIB = 1024
Call = tuple[Callable[[], Any], int]  # a call, and how many units of the primitive it is


def primitives(scheme: str, curve: str, *, runs: int = 9, repeats: int = 60) -> dict[str, float]:
    """Microseconds of each primitive: median of ``runs``, which try each of them in turn."""
    calls = _calls(scheme, curve)
    timed: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):  # In turn, so that a disturbance of the machine spoils one run of each.
        for name, (call, units) in calls.items():
            times = max(1, repeats // units) if units > 1 else repeats
            timed[name].append(1e6 * _seconds(call, times) / times / units)
    return {name: float(f"{median(us):.4g}") for name, us in timed.items()}


def least(first: Mapping[str, float], *others: Mapping[str, float]) -> dict[str, float]:
    """The least of several measurements, primitive by primitive."""
    return {name: min([us, *(o[name] for o in others)]) for name, us in first.items()}


def _seconds(call: Callable[[], Any], times: int) -> float:
    began = _CLOCK.monotonic()
    for _ in range(times):
        call()
    return _CLOCK.monotonic() - began


def _calls(scheme: str, curve: str) -> dict[str, Call]:
    """Multiplications, sums and decodings as the protocols call them, a verification by the
    library alone, and bulk hashes and ciphers in the units that floors count in."""
    g = group(curve)
    secret = g.random_scalar(_RNG)
    point, other = g.base_mul(secret), g.base_mul(g.random_scalar(_RNG))
    encoded = point.encode()
    data, bulk = _RNG.bytes(64 * _KIB), np.frombuffer(_RNG.bytes(1 << 20), np.uint8)
    out = np.empty(len(bulk) + 15, np.uint8)
    aes = Cipher(algorithms.AES(_RNG.bytes(16)), modes.ECB())  # noqa: S305 - a figure, no secret
    calls: dict[str, Call] = {
        "base_mult": (lambda: g.base_mul(secret), 1),
        "constant_time_mult": (lambda: g.mul_secret(point, secret), 1),
        "public_mult": (lambda: g.mul_public(point, secret), 1),
        "add": (lambda: g.add([point, other]), 1),
        "decode": (lambda: g.decode_point(encoded), 1),
        "verify": (_verification(scheme, curve), 1),
        "sha256_kib": (lambda: hashlib.sha256(data).digest(), 64),
        "shake128_kib": (lambda: hashlib.shake_128(b"").digest(64 * _KIB), 64),
        "aes_block": (lambda: aes.encryptor().update_into(bulk.data, out.data), len(bulk) // 16),
    }
    if g is SECP256K1:
        uniform = _RNG.bytes(64)
        calls["hash_to_point"] = (lambda: SECP256K1.hash_to_point(uniform), 1)
    return calls


def _verification(scheme: str, curve: str) -> Callable[[], Any]:
    """A plain signature of one signer, verified by the library that the protocols verify with."""
    payload = _RNG.bytes(32)
    if (scheme, curve) == ("ecdsa", "secp256k1"):
        key = PrivateKey(_RNG.bytes(32))
        public, der = PublicKey(key.public_key.format()), key.sign(payload, hasher=None)
        return lambda: public.verify(der, payload, hasher=None)
    if (scheme, curve) == ("schnorr", "secp256k1"):
        signer = PrivateKey(_RNG.bytes(32))
        x_only, signed = signer.public_key.format(), signer.sign_schnorr(payload)
        return lambda: bip340.verify(x_only, payload, signed)
    if curve == "p256":
        ours = ec.generate_private_key(ec.SECP256R1())
        theirs, made = ours.public_key(), ours.sign(payload, ec.ECDSA(SHA256()))
        return lambda: theirs.verify(made, payload, ec.ECDSA(SHA256()))
    edwards = SigningKey(_RNG.bytes(32))
    verifier, plain = edwards.verify_key, edwards.sign(payload).signature
    return lambda: verifier.verify(payload, plain)
