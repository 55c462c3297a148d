"""The newcomer's trial: a kit, the RSA key and the system's Python, in a network namespace without
a network. The commands are those of README.txt in the kit, executed as they stand there."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

from coincurve import PrivateKey
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ers.test_kit import TWO
from kit.making import make
from kit.namespace import namespace
from kit.tool import PYTHON

TOOL = "python3 -I keycairn-offline.pyz"
PASSPHRASE = "correct horse"
SECONDS = 120


def typed(words: list[str], cwd: Path) -> tuple[int, str]:
    """Run at a terminal and type the passphrase where it is asked for: exit code, what was seen."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execve("/usr/bin/env", ["env", "-i", "PATH=/usr/bin:/bin", *words], {})  # noqa: S606
    seen, answered, end = b"", False, time.monotonic() + SECONDS
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        try:
            data = os.read(terminal, 4096) if ready else b""
        except OSError:  # the terminal's other side is closed
            break
        seen += data
        if b"passphrase of the RSA key: " in seen and not answered:
            os.write(terminal, PASSPHRASE.encode() + b"\n")
            answered = True
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), seen.decode("utf-8", "replace")


def test_a_newcomer_recovers_both_keys_without_a_network(tmp_path: Path) -> None:
    start = namespace()
    made, _ = make(tmp_path)
    desk = tmp_path / "desk"
    desk.mkdir()
    sealed = RSA.import_key(TWO.read("test-only-rsa-key.pem")).export_key(
        format="PEM", passphrase=PASSPHRASE, pkcs=8, protection="scryptAndAES256-CBC"
    )
    (desk / "rsa-key.pem").write_bytes(sealed)

    began = time.monotonic()
    # From the printed page: unpack, go into the folder. Then what is written there.
    unpack = [PYTHON, "-I", "-m", "zipfile", "-e", str(made), str(desk / "kit")]
    subprocess.run(unpack, check=True)
    lines = (desk / "kit" / "README.txt").read_text(encoding="utf-8").splitlines()
    commands = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
    assert len(commands) == 6
    script = "set -e\n" + "\n".join(commands)
    code, seen = typed([*start, "sh", "-c", script], desk / "kit")
    assert code == 0, seen
    assert seen.count(": OK") == 5
    assert "valid: True" in seen
    assert hashlib.sha256((desk / "kit" / "SHA256SUMS").read_bytes()).hexdigest() in seen

    wanted = {key["key_id"]: key for key in TWO.keys("all")}
    found = {}
    for path in sorted((desk / "recovered").glob("*.json")):
        body = json.loads(path.read_text())
        if body["format"] == "keycairn-recovered-key":
            found[body["key_id"]] = body
            assert body["private_key"] == wanted[body["key_id"]]["private_key"]
            assert body["private_key"] not in seen
    assert set(found) == set(wanted)
    ecdsa, ed25519 = found["key-a"], found["key-b"]
    ours = PrivateKey(bytes.fromhex(ecdsa["private_key"]))
    assert ours.public_key.format().hex() == ecdsa["public_key"]
    # The Ed25519 key signs by the command that the README names.
    (desk / "message").write_bytes(b"move everything")
    sign = f"{TOOL} sign --key ../recovered/KEY.json --message-file FILE"
    assert sign in " ".join(" ".join(lines).split())
    words = sign.replace("KEY.json", "key-b.json").replace("FILE", "../message").split()
    done = subprocess.run(
        [*start, *words, "--json"],
        cwd=desk / "kit",
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    signature = bytes.fromhex(json.loads(done.stdout)["signature"])
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(ed25519["public_key"]))
    public.verify(signature, b"move everything")
    print(json.dumps({"newcomer_seconds": round(time.monotonic() - began, 2)}))
