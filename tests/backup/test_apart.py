"""Documents and the RSA private key that opens them are never in one bundle (issue 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ers.helpers import document_of, make_key
from keycairn.backup.collect import collect
from keycairn.errors import Code, KeycairnError
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.rsakeys import generate
from keycairn.ports.system import SystemRng


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def test_a_private_key_among_the_includes_stops_the_bundle(
    node: Any, private: rsa.RSAPrivateKey
) -> None:
    store = node.home / "ers"
    store.mkdir(exist_ok=True)
    made = document_of([make_key("K1")], SoftwareKey(private).public)
    (store / f"{made.sha256}.kcers").write_bytes(made.to_cbor())
    extra = node.home / "notes.txt"  # in [backup] include
    encrypted, _ = generate(3072, b"passphrase", SystemRng())
    other = rsa.generate_private_key(65537, 2048)

    def refused() -> KeycairnError:
        with pytest.raises(KeycairnError) as caught:
            collect(node.config)
        assert caught.value.code is Code.POLICY
        return caught.value

    for data in (pem(private), encrypted):
        extra.write_bytes(data)
        assert "notes.txt" in refused().message
    extra.write_bytes(pem(other))
    collect(node.config)  # it opens nothing here
    extra.write_text("notes")
    key: Path = store / "a-key"
    key.write_bytes(pem(private))
    assert "a-key" in refused().message
    key.unlink()
    collect(node.config)
    # Without documents a private key is the operator's own business.
    for document in store.iterdir():
        document.unlink()
    extra.write_bytes(pem(private))
    collect(node.config)
