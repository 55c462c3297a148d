"""What the disasters have in common: a recovery key, registered at every node by its operator."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coincurve
from coincurve import PublicKeyXOnly
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keycairn.ers.rsa import load_rsa_public_key
from system.local import LocalVault, keycairn

MESSAGE = b"signed with a key that came back"


def recover_tool(
    *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``keycairn-recover``."""
    return subprocess.run(
        [sys.executable, "-m", "keycairn.ers.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=300,
        check=False,
    )


def recovered(*words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The one JSON object of a ``keycairn-recover`` that must work."""
    done = recover_tool(*words, "--json", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def register_recovery_key(
    vault: LocalVault, safe: Path, name: str = "recovery"
) -> tuple[Path, Path]:
    """Make an RSA-3072 key in ``safe`` and pass the proof of possession at every node.

    Returns (private key file, public key file).
    """
    safe.mkdir(mode=0o700, parents=True, exist_ok=True)
    private, public = safe / f"{name}.pem", safe / f"{name}.pem.pub"
    recovered("keygen", "--bits", "3072", "--out", str(private))
    prove_possession(vault, safe, public, ["--rsa-key", str(private)])
    return private, public


def prove_possession(
    vault: LocalVault,
    safe: Path,
    public: Path,
    private_options: Sequence[str],
    env: Mapping[str, str] | None = None,
    nodes: Sequence[int] = (),
) -> None:
    """Every operator (or those of ``nodes``) allows the RSA key, after its holder's answers."""
    for i in nodes or vault.players:
        config = str(vault.config(i))
        challenges = safe / f"{public.stem}-challenges{i}.json"
        answers = safe / f"{public.stem}-answers{i}.json"
        add = ["--rsa-public-key", str(public), "--out", str(challenges)]
        keycairn("ers", "key", "add", *add, "--config", config)
        prove = ["--challenges", str(challenges), "--out", str(answers)]
        recovered("prove", *prove, *private_options, env=env)
        keycairn("ers", "key", "confirm", "--answers", str(answers), "--config", config)


def spki(public: Path) -> bytes:
    """The key file as the SDK takes it."""
    return load_rsa_public_key(public.read_bytes()).spki


def sign_with(file: Path, key: Mapping[str, Any], path: str = "m") -> None:
    """Sign with a recovered key, or its child; another library verifies under what the vault's
    own record says, which ``key`` is (with the child's public key)."""
    public = bytes.fromhex(key["public_key"])
    where = ["sign", "--key", str(file), "--path", path]
    digest = hashlib.sha256(MESSAGE).digest()
    if key["scheme"] == "ecdsa":
        made = recovered(*where, "--digest", digest.hex())
        der = bytes.fromhex(made["der"])
        if key["curve"] == "p256":
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
            point.verify(der, MESSAGE, ec.ECDSA(hashes.SHA256()))
        else:
            assert coincurve.PublicKey(public).verify(der, MESSAGE)
        return
    made = recovered(*where, "--message", MESSAGE.hex())
    signature = bytes.fromhex(made["signature"])
    if key["curve"] == "ed25519":
        Ed25519PublicKey.from_public_bytes(public).verify(signature, MESSAGE)
    else:
        assert PublicKeyXOnly(public[1:]).verify(signature, MESSAGE)
