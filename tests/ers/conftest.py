"""RSA keys for the ERS tests: made once per run, when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa

from keycairn.ers.decrypt import SoftwareKey


@cache
def _generated(bits: int, number: int) -> crypto_rsa.RSAPrivateKey:
    return crypto_rsa.generate_private_key(65537, bits)


@pytest.fixture(scope="session")
def private_key() -> Callable[..., crypto_rsa.RSAPrivateKey]:
    """``private_key(bits, number=0)``: a key of the ``cryptography`` package."""
    return lambda bits, number=0: _generated(bits, number)


@pytest.fixture(scope="session")
def rsa_key() -> Callable[..., SoftwareKey]:
    """``rsa_key(bits=2048, number=0)``: the same key as a decryptor, with ``.public``."""
    return lambda bits=2048, number=0: SoftwareKey(_generated(bits, number))
