"""``keycairn verify`` of BIP-340 signatures, as typed."""

from collections.abc import Callable
from typing import Any

import pytest

from keycairn.curves import SECP256K1
from keycairn.encoding import SecretScalar
from keycairn.ers.sign import sign_bip340
from keycairn.ports.seeded import SeededRng

Run = Callable[..., Any]
PUBLIC = SECP256K1.base_mul(7).encode().hex()


@pytest.mark.parametrize("taproot", [False, True])
def test_verify(keycairn: Run, taproot: bool) -> None:
    signature, output = sign_bip340(SecretScalar(7), b"message", SeededRng(1), taproot=taproot)
    kind = ("verify", "--json", "--scheme", "schnorr", "--curve", "secp256k1")
    signed = ("--signature", signature.hex(), "--message", b"message".hex())
    flag = ("--taproot",) if taproot else ()
    for public in (PUBLIC, PUBLIC[2:]):
        assert keycairn(*kind, *signed, "--public-key", public, *flag).json == {"valid": True}
        other = () if taproot else ("--taproot",)
        wrong = keycairn(*kind, *signed, "--public-key", public, *other)
        assert (wrong.code, wrong.error) == (5, "E_SIG_INVALID")
    for public in (output.hex(), output.hex()[2:]):
        assert keycairn(*kind, *signed, "--public-key", public).code == 0
    digest = keycairn(*kind, *signed[:2], "--public-key", PUBLIC, "--digest", "00" * 32)
    assert (digest.code, digest.error) == (2, "E_MALFORMED")
