"""What the disasters have in common: a recovery key, registered at every node by its operator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from keycairn.ers.rsa import load_rsa_public_key
from system.local import LocalVault, keycairn


def recover_tool(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``keycairn-recover``."""
    return subprocess.run(
        [sys.executable, "-m", "keycairn.ers.cli", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def register_recovery_key(vault: LocalVault, safe: Path) -> tuple[Path, Path]:
    """Make an RSA-3072 key in ``safe`` and pass the proof of possession at every node.

    Returns (private key file, public key file).
    """
    safe.mkdir(mode=0o700, parents=True, exist_ok=True)
    private, public = safe / "recovery.pem", safe / "recovery.pem.pub"
    done = recover_tool("keygen", "--bits", "3072", "--out", str(private), "--json")
    assert done.returncode == 0, done.stderr
    for i in vault.players:
        config = str(vault.config(i))
        challenges, answers = safe / f"challenges{i}.json", safe / f"answers{i}.json"
        keycairn(
            "ers",
            "key",
            "add",
            "--rsa-public-key",
            str(public),
            "--out",
            str(challenges),
            "--config",
            config,
        )
        done = recover_tool(
            "prove",
            "--challenges",
            str(challenges),
            "--rsa-key",
            str(private),
            "--out",
            str(answers),
        )
        assert done.returncode == 0, done.stderr
        keycairn("ers", "key", "confirm", "--answers", str(answers), "--config", config)
    return private, public


def spki(public: Path) -> bytes:
    """The key file as the SDK takes it."""
    return load_rsa_public_key(public.read_bytes()).spki
