"""``keycairn-recover`` as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import coincurve
import eth_keyfile
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import keycairn.ers
from curves import oracle
from ers.helpers import document_of, make_key, refused
from ers.tool import SRC, error, result, run
from keycairn.errors import Code
from keycairn.ers import cli, cli_recover
from keycairn.ers.document import Document
from keycairn.ers.network import interfaces_up, require_offline
from keycairn.ers.possession import check_answers, make_challenges
from keycairn.ers.rsa import load_rsa_public_key, to_pem
from keycairn.ports.seeded import SeededRng

KEYS = [make_key("key/a:1"), make_key("key-b", "ed25519"), make_key("key-p", "p256")]
PATHS = {"key-p": ["m/0/10", "m/0/2"], "key-b": ["m"]}
SERVER_PACKAGES = (
    "aiosqlite", "fastapi", "httpx", "msgspec", "pydantic", "pydantic_settings", "pyrage",
    "sqlalchemy", "starlette", "structlog", "uvicorn", "websockets", "prometheus_client",
)  # fmt: skip


@pytest.fixture
def kit(tmp_path: Path, rsa_key, private_key) -> Path:
    """A folder with private key, public key and documents of all nodes together and one by one."""
    pem = private_key(3072).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"correct horse"),
    )
    (tmp_path / "rsa.pem").write_bytes(pem)
    (tmp_path / "pass").write_text("correct horse\n")
    public = rsa_key(3072).public
    (tmp_path / "rsa.pub").write_bytes(to_pem(public.spki))
    whole = document_of(KEYS, public, paths=PATHS)
    (tmp_path / "all.json").write_bytes(whole.to_json())
    for part in whole.parts:
        single = type(whole)((part,))
        (tmp_path / f"node{part.node}.cbor").write_bytes(single.to_cbor())
    return tmp_path


def private(kit: Path) -> list[object]:
    return ["--rsa-key", kit / "rsa.pem", "--passphrase-file", kit / "pass"]


def test_recover_writes_keys_that_sign(kit: Path) -> None:
    out = kit / "out"
    pk = KEYS[0].statement.public_key.hex()
    done = result(kit / "all.json", *private(kit), "--out", out, "--allow-network",
                  "--public-key", f"key/a:1=secp256k1:{pk}", "--label", "test label")  # fmt: skip
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert [k["key_id"] for k in done["recovered"]] == ["key/a:1", "key-b", "key-p"]
    for key, entry in zip(KEYS, done["recovered"], strict=True):
        path = Path(entry["file"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        body = json.loads(path.read_text())
        group = key.statement.group
        assert body["private_key"] == group.encode_scalar(key.secret).hex()
        assert body["public_key"] == entry["public_key"] == key.statement.public_key.hex()
        assert body["curve"] == entry["curve"]
        assert body["chain_code"] == key.chain_code.reveal().hex()
        assert body["private_key"] not in json.dumps(done)
        assert ("seed" in body["private_key_encoding"]) is (key.statement.curve == "ed25519")
        assert body["paths"] == {"key-p": ["m/0/2", "m/0/10"], "key-b": ["m"]}.get(
            key.statement.key_id, []
        )
        assert body["paths_left_out"] == 0
        assert (body["private_key_pem"] is None) is (key.statement.curve == "ed25519")

    digest = "5a" * 32
    signed = result("sign", "--key", done["recovered"][0]["file"], "--digest", digest)
    public = coincurve.PublicKey(bytes.fromhex(signed["public_key"]))
    assert public.verify(bytes.fromhex(signed["der"]), bytes.fromhex(digest), hasher=None)
    raw = bytes.fromhex(signed["signature"])
    assert int.from_bytes(raw[32:], "big") <= KEYS[0].statement.group.q // 2
    back = coincurve.PublicKey.from_signature_and_message(
        raw + bytes([signed["recovery_id"]]), bytes.fromhex(digest), hasher=None
    )
    assert back.format().hex() == signed["public_key"]

    signatures = set()
    (kit / "message").write_bytes(b"hello")
    for what in (["--message", b"hello".hex()], ["--message-file", kit / "message"]) * 2:
        signed = result("sign", "--key", done["recovered"][1]["file"], *what)
        verifier = Ed25519PublicKey.from_public_bytes(KEYS[1].statement.public_key)
        verifier.verify(bytes.fromhex(signed["signature"]), b"hello")
        signatures.add(signed["signature"])
    assert len(signatures) == 4  # hedged: never the same nonce

    files = [entry["file"] for entry in done["recovered"]]
    error(2, Code.MALFORMED, "sign", "--key", files[0], "--message", "00")
    error(2, Code.MALFORMED, "sign", "--key", files[1], "--digest", digest)
    error(2, Code.MALFORMED, "sign", "--key", files[0], "--digest", "00")
    error(2, Code.MALFORMED, "sign", "--key", kit / "rsa.pem", "--digest", digest)
    error(3, Code.CONFLICT, kit / "all.json", *private(kit), "--out", out, "--allow-network")


def test_forms_are_files_and_nothing_of_them_is_printed(kit: Path) -> None:
    (kit / "pw").write_text("keystore password\nsecond line\n")
    done = run(kit / "all.json", *private(kit), "--out", kit / "out", "--allow-network", "--json",
               "--keystore-password-file", kit / "pw")  # fmt: skip
    assert done.returncode == 0, done
    assert "scalars, not seeds" in done.stderr
    entries = {entry["key_id"]: entry for entry in json.loads(done.stdout)["recovered"]}
    assert set(entries["key/a:1"]["files"]) == {"json", "pem", "descriptors", "keystore"}
    assert set(entries["key-b"]["files"]) == {"json", "children"}
    assert set(entries["key-p"]["files"]) == {"json", "pem", "children"}
    body = json.loads(Path(entries["key/a:1"]["files"]["keystore"]).read_text())
    secret = KEYS[0].statement.group.encode_scalar(KEYS[0].secret)
    assert eth_keyfile.decode_keyfile_json(body, b"keystore password") == secret
    for file in (kit / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for line in file.read_text().split('"'):
            if len(line) > 30 and not line.isspace() and "private" not in line:
                assert line not in done.stdout + done.stderr or line in json.dumps(
                    [entry["public_key"] for entry in entries.values()]
                )
    one = result(kit / "all.json", *private(kit), "--out", kit / "few", "--allow-network",
                 "--format", "wif", "--format", "pem")  # fmt: skip
    assert [set(entry["files"]) for entry in one["recovered"]] == [
        {"json", "pem"}, {"json"}, {"json", "pem"}
    ]  # fmt: skip
    # Without a terminal and without a file nobody can be asked for the password.
    out = ["--out", kit / "none", "--allow-network"]
    error(2, Code.MALFORMED, kit / "all.json", *private(kit), *out, "--format", "keystore")
    error(2, Code.MALFORMED, kit / "all.json", *private(kit), *out, "--format", "nonsense")
    (kit / "pw").write_text("\n")
    error(2, Code.MALFORMED, kit / "all.json", *private(kit), *out,
          "--keystore-password-file", kit / "pw")  # fmt: skip
    assert not (kit / "none").exists()


def test_export_gives_one_form_of_a_key_or_a_child(kit: Path) -> None:
    done = result(kit / "all.json", *private(kit), "--out", kit / "out", "--allow-network")
    files = [entry["file"] for entry in done["recovered"]]
    root = json.loads(Path(files[0]).read_text())
    for form in ("hex", "pem", "wif", "xprv"):
        name = {"hex": "private_key", "pem": "private_key_pem"}.get(form, form)
        made = result("export", "--key", files[0], "--format", form, "--print")
        assert made["private_key"] == root[name].strip()
        made = result("export", "--key", files[0], "--format", form, "--out", kit / form)
        assert stat.S_IMODE((kit / form).stat().st_mode) == 0o600
        assert (kit / form).read_text() == root[name].strip() + "\n"
        assert root["private_key"] not in json.dumps(made)
    (kit / "pw").write_text("pw\n")
    child = "--key", files[0], "--path", "m/7"
    result("export", *child, "--format", "keystore", "--keystore-password-file", kit / "pw",
           "--out", kit / "keystore")  # fmt: skip
    secret = eth_keyfile.decode_keyfile_json(json.loads((kit / "keystore").read_text()), b"pw")
    signed = result("sign", *child, "--digest", "11" * 32)
    assert coincurve.PrivateKey(secret).public_key.format().hex() == signed["public_key"]
    assert signed["path"] == "m/7"
    shown = run("export", *child, "--format", "descriptors", "--print").stdout
    assert "wpkh(" in shown
    assert "xprv" not in shown
    error(2, Code.MALFORMED, "export", *child, "--format", "xprv", "--print")
    error(2, Code.MALFORMED, "export", "--key", files[1], "--format", "pem", "--print")
    error(2, Code.MALFORMED, "export", "--key", files[0], "--format", "wif")
    error(2, Code.MALFORMED, "export", "--key", files[0], "--path", "m/1'", "--format", "hex",
          "--print")  # fmt: skip
    error(3, Code.CONFLICT, "export", "--key", files[0], "--format", "wif", "--out", kit / "wif")


def test_a_recovered_p256_key_is_a_pem_for_openssl_and_signs(kit: Path) -> None:
    done = result(kit / "all.json", *private(kit), "--out", kit / "out", "--allow-network")
    entry = done["recovered"][2]
    body = json.loads(Path(entry["file"]).read_text())
    loaded = serialization.load_pem_private_key(body["private_key_pem"].encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.curve.name == "secp256r1"
    assert loaded.private_numbers().private_value == KEYS[2].secret == int(body["private_key"], 16)
    digest = hashlib.sha256(b"hello").digest()
    signed = result("sign", "--key", entry["file"], "--digest", digest.hex())
    assert signed["curve"] == "p256"
    public = ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256R1(), bytes.fromhex(signed["public_key"])
    )
    public.verify(bytes.fromhex(signed["der"]), b"hello", ec.ECDSA(hashes.SHA256()))
    compact = bytes.fromhex(signed["signature"])
    r, s = int.from_bytes(compact[:32], "big"), int.from_bytes(compact[32:], "big")
    assert s <= KEYS[2].statement.group.q // 2
    parity, overflow = signed["recovery_id"] & 1, signed["recovery_id"] >> 1
    nonce = bytes([2 + parity]) + (r + overflow * oracle.P256.q).to_bytes(32, "big")
    inverse = pow(r, -1, oracle.P256.q)
    recovered = oracle.P256.add(
        oracle.P256.mul(s * inverse % oracle.P256.q, oracle.P256.decode(nonce)),
        oracle.P256.mul(-int.from_bytes(digest, "big") * inverse % oracle.P256.q),
    )
    assert recovered is not None
    assert oracle.P256.encode(recovered).hex() == signed["public_key"]
    error(2, Code.MALFORMED, "sign", "--key", entry["file"], "--message", "00")
    error(2, Code.MALFORMED, "sign", "--key", entry["file"], "--digest", "00" * 31)
    error(2, Code.MALFORMED, "sign", "--key", entry["file"], "--digest", "00" * 32, "--taproot")


def test_documents_of_single_nodes_are_combined(kit: Path) -> None:
    done = result(kit / "node1.cbor", kit / "node3.cbor", *private(kit),
                  "--out", kit / "out", "--allow-network")  # fmt: skip
    assert len(done["recovered"]) == 3
    few = error(5, Code.ERS_INVALID, kit / "node1.cbor", *private(kit),
                "--out", kit / "out2", "--allow-network")  # fmt: skip
    assert few["detail"]["check"] == "parts"
    assert not (kit / "out2").exists()


def test_the_last_copy_with_one_bad_part_still_gives_the_keys(kit: Path) -> None:
    """All nodes are gone and this copy has rotted: nobody can make the document again."""
    whole = Document.load((kit / "all.json").read_bytes())
    bad = bytearray(whole.parts[1].leaves)
    bad[len(bad) // 2] ^= 1
    parts = (whole.parts[0], replace(whole.parts[1], leaves=bytes(bad)), whole.parts[2])
    (kit / "rotten.json").write_bytes(Document(parts).to_json())
    out = ["--out", kit / "out", "--allow-network"]
    refused = error(5, Code.ERS_INVALID, kit / "rotten.json", *private(kit), *out)
    assert refused["detail"]["node"] == 2
    assert "--skip-bad-parts" in refused["next"]
    assert "do not use" not in refused["next"]
    assert not (kit / "out").exists()
    done = result(kit / "rotten.json", *private(kit), *out, "--skip-bad-parts")
    assert len(done["recovered"]) == 3
    assert "a part of node 2 is left out" in done["warnings"][0]
    # Two bad parts of three leave too few.
    parts = (replace(whole.parts[0], leaves=bytes(bad)), *parts[1:])
    (kit / "worse.json").write_bytes(Document(parts).to_json())
    few = error(5, Code.ERS_INVALID, kit / "worse.json", *private(kit), "--skip-bad-parts",
                "--out", kit / "out2", "--allow-network")  # fmt: skip
    assert few["detail"]["check"] == "parts"


def test_a_wrong_rsa_key_is_said_to_be_wrong_and_not_the_document(kit: Path, private_key) -> None:
    other = private_key(2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (kit / "other.pem").write_bytes(other)
    refused = error(5, Code.ERS_INVALID, kit / "all.json", "--rsa-key", kit / "other.pem",
                    "--out", kit / "out", "--allow-network")  # fmt: skip
    right = hashlib.sha256(Document.load((kit / "all.json").read_bytes()).context.rsa_spki)
    assert right.hexdigest() in refused["message"]
    assert "use the RSA key that the document is for" in refused["next"]
    assert "ers create" not in refused["next"]


def test_nothing_secret_is_printed(kit: Path) -> None:
    done = run(kit / "all.json", *private(kit), "--out", kit / "out", "--allow-network")
    assert done.returncode == 0
    assert '"test label"' in done.stderr  # shown before anything is decrypted
    for key in KEYS:
        for x in (key.secret, *(s.reveal() for s in key.shares.values())):
            text = key.statement.group.encode_scalar(x).hex()
            assert text not in done.stdout + done.stderr
            assert str(x) not in done.stdout + done.stderr


def test_no_output_appears_when_recovery_fails(kit: Path) -> None:
    data = bytearray((kit / "all.json").read_bytes())
    data[len(data) // 2] ^= 1
    (kit / "bad.json").write_bytes(data)
    out = kit / "out"
    error(5, Code.ERS_INVALID, kit / "bad.json", *private(kit), "--out", out, "--allow-network")
    wrong = "key-b=" + KEYS[0].statement.public_key.hex()
    error(5, Code.ERS_INVALID, kit / "all.json", *private(kit), "--out", out, "--allow-network",
          "--public-key", wrong)  # fmt: skip
    error(2, Code.MALFORMED, kit / "all.json", "--rsa-key", kit / "rsa.pem", "--out", out,
          "--allow-network")  # fmt: skip
    error(4, Code.NOT_FOUND, kit / "none.json", *private(kit), "--out", out, "--allow-network")
    error(2, Code.MALFORMED, kit / "all.json", *private(kit), "--out", out, "--allow-network",
          "--public-key", "nonsense")  # fmt: skip
    error(5, Code.ERS_INVALID, kit / "all.json", *private(kit), "--out", out, "--allow-network",
          "--label", "another")  # fmt: skip
    assert not out.exists()


def test_wrong_use_is_one_json_object_and_exit_2() -> None:
    for args in ((), ("x",), ("verify",), ("keygen", "--bits", "1024", "--out", "x"), ("sign",)):
        error(2, Code.MALFORMED, *args)
    shown = run("--help")
    assert shown.returncode == 0
    assert "exit codes" in shown.stdout
    assert "exit codes" in run("sign", "--help").stdout


def test_verify_with_public_data(kit: Path) -> None:
    done = result("verify", kit / "all.json")
    assert done["valid"] is True
    assert any(line.startswith("rsa_public_key") for line in done["not_checked"])
    known = []
    for key in KEYS:
        s = key.statement
        known += ["--public-key", f"{s.key_id}={s.public_key.hex()}",
                  "--record-hash", f"{s.key_id}={s.curve}:{s.record_hash.hex()}"]  # fmt: skip
    done = result("verify", kit / "all.json", "--rsa-public-key", kit / "rsa.pub", *known,
                  "--label", "test label")  # fmt: skip
    assert not any(line.startswith(("rsa", "public", "record", "label"))
                   for line in done["not_checked"])  # fmt: skip
    assert {k["status"] for k in done["keys"]} == {"COMPLETE"}
    done = result("verify", kit / "node2.cbor")
    assert {k["status"] for k in done["keys"]} == {"PARTIAL 1/3"}
    # The private key has no business here.
    error(3, Code.POLICY, "verify", kit / "all.json", "--rsa-public-key", kit / "rsa.pem")
    error(5, Code.ERS_INVALID, "verify", kit / "rsa.pub")
    assert "valid: True" in run("verify", kit / "all.json").stdout


def test_only_recover_takes_document_and_private_key(kit: Path) -> None:
    key = private(kit)
    for name in ("all.json", "node1.cbor"):
        error(3, Code.POLICY, "prove", "--challenges", kit / name, *key, "--out", kit / "a")
    error(2, Code.MALFORMED, "prove", "--challenges", kit / "pass", *key, "--out", kit / "a")
    assert not (kit / "a").exists()
    for option in ("--rsa-key", "--pkcs11-module", "--transit-address"):
        error(3, Code.POLICY, "verify", kit / "all.json", option, kit / "rsa.pem")
    error(3, Code.POLICY, "verify", kit / "all.json", kit / "rsa.pem")
    error(3, Code.POLICY, "sign", "--key", kit / "node1.cbor", "--digest", "00" * 32)
    error(3, Code.POLICY, "export", "--key", kit / "all.json", "--format", "hex", "--print")
    for name in ("all.json", "node1.cbor"):
        folder = kit / f"beside-{name}"
        folder.mkdir()
        (folder / "d").write_bytes((kit / name).read_bytes())
        error(3, Code.POLICY, "keygen", "--out", folder / "new.pem")
        assert [p.name for p in folder.iterdir()] == ["d"]


@pytest.mark.parametrize("bits", [3072, 4096])
def test_keygen_and_proof_of_possession(tmp_path: Path, bits: int) -> None:
    (tmp_path / "pass").write_bytes("pässphräse \u1234\r\n".encode())
    out = tmp_path / "rsa.pem"
    done = result("keygen", "--bits", bits, "--out", out, "--passphrase-file", tmp_path / "pass")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in out.read_bytes()
    assert done["encrypted"] is True
    public = load_rsa_public_key(Path(done["public_key_file"]).read_bytes())
    assert (public.bits, public.spki_sha256) == (bits, done["rsa_spki_sha256"])
    challenges = make_challenges(public, SeededRng(bits))
    (tmp_path / "challenges").write_bytes(challenges.public_json)
    result("prove", "--challenges", tmp_path / "challenges", "--rsa-key", out,
           "--passphrase-file", tmp_path / "pass", "--out", tmp_path / "answers")  # fmt: skip
    check_answers(challenges, (tmp_path / "answers").read_bytes())
    error(3, Code.CONFLICT, "keygen", "--out", out)
    other = make_challenges(public, SeededRng(0))
    refused(lambda: check_answers(other, (tmp_path / "answers").read_bytes()), Code.BAD_PROOF)


def test_one_file_answers_the_challenges_of_several_nodes(tmp_path: Path) -> None:
    key = tmp_path / "rsa.pem"
    public = load_rsa_public_key(
        Path(result("keygen", "--out", key)["public_key_file"]).read_bytes()
    )
    sets = {node: make_challenges(public, SeededRng(node)) for node in (1, 2, 30)}
    public_json = {str(n): json.loads(s.public_json) for n, s in sets.items()}
    asked, answered = tmp_path / "challenges", tmp_path / "answers"
    prove = ("prove", "--challenges", asked, "--rsa-key", key, "--out", answered)

    # What `keycairn ers key add --json` prints, of a vault and of one node.
    asked.write_text(json.dumps({"bits": 3072, "nodes": [1, 2, 30], "challenges": public_json}))
    result(*prove)
    answers = json.loads(answered.read_text())["answers"]
    assert set(answers) == {"1", "2", "30"}
    for node, made in sets.items():
        check_answers(made, json.dumps(answers[str(node)]).encode())
    refused(lambda: check_answers(sets[1], json.dumps(answers["2"]).encode()), Code.BAD_PROOF)
    answered.unlink()
    asked.write_text(json.dumps({"nodes": [2], "challenges": public_json["2"]}))
    result(*prove)
    check_answers(sets[2], answered.read_bytes())
    answered.unlink()

    for wrong in ({}, {"x": public_json["1"]}, {"1": public_json["1"], "2": {}}, {"1": [1]}):
        asked.write_text(json.dumps({"challenges": wrong}))
        error(2, Code.MALFORMED, *prove)
    # A ciphertext that is not a challenge is not answered, whatever stands beside it.
    moved = public_json["1"] | {"nonce": public_json["2"]["nonce"]}
    asked.write_text(json.dumps({"challenges": {"1": public_json["1"], "2": moved}}))
    error(2, Code.BAD_PROOF, *prove)
    assert not answered.exists()


def _interface(root: Path, name: str, flags: int, state: str) -> None:
    (root / name).mkdir()
    (root / name / "flags").write_text(f"{flags:#x}\n")
    (root / name / "operstate").write_text(state + "\n")


def test_recovery_is_refused_while_a_network_is_up(tmp_path: Path) -> None:
    root = tmp_path / "net"
    root.mkdir()
    (root / "bonding_masters").write_text("")
    _interface(root, "lo", 0x9, "unknown")
    _interface(root, "eth0", 0x1002, "down")
    _interface(root, "eth1", 0x1003, "lowerlayerdown")  # switched on, no cable
    _interface(root, "eth2", 0x1003, "down")
    require_offline(root)
    _interface(root, "tun0", 0x1091, "unknown")  # tunnels never say "up"
    _interface(root, "wlan0", 0x1003, "dormant")
    _interface(root, "wlan1", 0x1003, "up")
    assert interfaces_up(root) == ["tun0", "wlan0", "wlan1"]
    found = refused(lambda: require_offline(root), Code.POLICY)
    assert found.exit_code == 3
    assert "wlan1" in found.message
    refused(lambda: require_offline(tmp_path / "none"), Code.POLICY)  # cannot tell
    (root / "wlan1" / "flags").write_text("nonsense")
    refused(lambda: require_offline(root), Code.POLICY)


def test_network_refusal_comes_before_any_file_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up() -> None:
        require_offline(Path("/nonexistent"))

    monkeypatch.setattr(cli_recover, "require_offline", up)
    assert cli.main(["missing.json", "--rsa-key", "none", "--out", "none", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E_POLICY"
    args = ["missing.json", "--rsa-key", "none", "--out", "none", "--json", "--allow-network"]
    assert cli.main(args) == 4


def test_network_refusal_on_this_machine(kit: Path) -> None:
    up = interfaces_up()
    done = run(kit / "all.json", *private(kit), "--out", kit / "out", "--json")
    assert done.returncode == (3 if up else 0)
    assert (kit / "out").exists() is not bool(up)


def test_a_network_namespace_without_network_is_offline_although_sys_tells_of_another(
    kit: Path,
) -> None:
    """``unshare --net`` leaves /sys/class/net as it was: it shows the machine's interfaces."""
    apart = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    tool = [sys.executable, "-m", "keycairn.ers.cli", str(kit / "all.json"), "--out"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC)}
    options = {"capture_output": True, "text": True, "env": env, "timeout": 120}
    done = subprocess.run([*apart, *tool, str(kit / "out"), *map(str, private(kit))], **options)
    assert done.returncode == 0, done
    assert (kit / "out").is_dir()
    # With an interface switched on in there (nothing is at its other end) it is refused.
    line = " ".join(map(shlex.quote, [*tool, str(kit / "none"), *map(str, private(kit))]))
    code = (
        "import fcntl, socket, struct, os\n"
        "t = os.open('/dev/net/tun', os.O_RDWR)\n"
        "fcntl.ioctl(t, 0x400454CA, struct.pack('16sH22x', b'kc0', 0x1001))\n"
        "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'kc0', 0x1))\n"
        f"raise SystemExit(os.waitstatus_to_exitcode(os.system({line!r})))\n"
    )
    tried = subprocess.run([*apart, sys.executable, "-c", code], **options)
    if "Error" in tried.stderr and "keycairn-recover" not in tried.stderr:
        pytest.skip("no tunnel device here to switch on")
    assert tried.returncode == 3, tried
    assert "kc0" in tried.stderr
    assert not (kit / "none").exists()


BLOCKED = f"""
import importlib, pkgutil, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {SERVER_PACKAGES!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import keycairn.ers
for module in pkgutil.iter_modules(keycairn.ers.__path__):
    importlib.import_module("keycairn.ers." + module.name)
sys.exit(keycairn.ers.cli.main())
"""


def test_recovery_runs_without_server_packages(kit: Path) -> None:
    done = run(kit / "all.json", *private(kit), "--out", kit / "out", "--allow-network", "--json",
               code=BLOCKED)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["recovered"]) == 3


def test_ers_imports_only_lower_floors() -> None:
    allowed = ("errors", "encoding", "ports", "curves", "ers")
    for module in pkgutil.iter_modules(keycairn.ers.__path__):
        text = Path(keycairn.ers.__file__).with_name(f"{module.name}.py").read_text()
        for line in text.splitlines():
            if line.startswith(("from keycairn.", "import keycairn.")):
                assert line.split()[1].split(".")[1] in allowed, (module.name, line)
        assert "assert " not in text.replace('"assert ', "")
