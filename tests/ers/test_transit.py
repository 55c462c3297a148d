"""The RSA key in the transit engine of OpenBao: a real server, on loopback, with TLS."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encryptors.components import OpenBao, private, running_openbao
from ers.helpers import document_of, make_key, refused
from ers.tool import error, result
from keycairn.encoding import SecretBytes
from keycairn.errors import Code
from keycairn.ers.decrypt import BadLeaf
from keycairn.ers.network import interfaces_up
from keycairn.ers.possession import check_answers, make_challenges
from keycairn.ers.recover import recover
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.transit import Service, TransitKey, transit_key
from keycairn.ports.seeded import SeededRng

KEYS = [make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")]


@pytest.fixture(scope="module")
def bao(free_ports: Callable[..., int]) -> Iterator[OpenBao]:
    with running_openbao(free_ports(2)) as server:
        yield server


def token_for(bao: OpenBao, key: str) -> str:
    """A token with what the docs say is needed, and nothing else."""
    policy = (
        f'path "transit/keys/{key}" {{ capabilities = ["read"] }}\n'
        f'path "transit/decrypt/{key}" {{ capabilities = ["update"] }}\n'
    )
    bao.api("PUT", f"sys/policies/acl/recover-{key}", {"policy": policy})
    made = bao.api("POST", "auth/token/create", {"policies": [f"recover-{key}"], "ttl": "1h"})
    return str(made["auth"]["client_token"])


@pytest.fixture
def key(bao: OpenBao, request: pytest.FixtureRequest) -> str:
    name = request.node.name.split("[")[0].replace("_", "-")[:60]
    bao.make_key(name, type="rsa-3072")
    return name


def service(bao: OpenBao, key: str, **more: Any) -> Service:
    return Service(bao.address, key, ca_file=str(bao.ca_file), **more)


def options(bao: OpenBao, key: str, token_file: Path) -> list[object]:
    return ["--transit-address", bao.address, "--transit-key", key, "--token-file", token_file,
            "--transit-ca-file", bao.ca_file]  # fmt: skip


def public_of(path: Path) -> RsaPublicKey:
    return load_rsa_public_key(path.read_bytes())


def test_t096_keys_come_back_by_a_decryption_service(
    bao: OpenBao, key: str, tmp_path: Path
) -> None:
    given = options(bao, key, private(tmp_path / "token", token_for(bao, key) + "\n"))
    shown = result("fingerprint", *given, "--out", tmp_path / "rsa.pub")
    public = public_of(tmp_path / "rsa.pub")
    assert (public.bits, public.spki_sha256) == (3072, shown["rsa_spki_sha256"])
    challenges = make_challenges(public, SeededRng(1))
    (tmp_path / "challenges").write_bytes(challenges.public_json)
    result("prove", "--challenges", tmp_path / "challenges", *given, "--out", tmp_path / "answers")
    check_answers(challenges, (tmp_path / "answers").read_bytes())

    (tmp_path / "all.json").write_bytes(document_of(KEYS, public).to_json())
    command = [tmp_path / "all.json", *given, "--out", tmp_path / "out"]
    if interfaces_up():
        found = error(3, Code.POLICY, *command)
        assert "--allow-network" in found["next"]
        assert "service" in found["next"]
        assert not (tmp_path / "out").exists()
    done = result(*command, "--allow-network")
    for made, entry in zip(KEYS, done["recovered"], strict=True):
        body = json.loads(Path(entry["file"]).read_text())
        assert body["private_key"] == made.statement.group.encode_scalar(made.secret).hex()


def test_after_a_rotation_the_version_of_the_document_is_taken(
    bao: OpenBao, key: str, tmp_path: Path
) -> None:
    given = options(bao, key, private(tmp_path / "token", token_for(bao, key)))
    result("fingerprint", *given, "--out", tmp_path / "old.pub")
    old = public_of(tmp_path / "old.pub")
    (tmp_path / "old.cbor").write_bytes(document_of(KEYS, old, (1, 2)).to_cbor())
    bao.api("POST", f"transit/keys/{key}/rotate")
    result("fingerprint", *given, "--out", tmp_path / "new.pub")
    assert public_of(tmp_path / "new.pub") != old
    done = result(tmp_path / "old.cbor", *given, "--out", tmp_path / "out", "--allow-network")
    assert done["rsa_spki_sha256"] == old.spki_sha256
    # Versions below the least that decrypts: the service's setting, named as such.
    bao.api("POST", f"transit/keys/{key}/config", {"min_decryption_version": 2})
    found = error(5, Code.ERS_INVALID, tmp_path / "old.cbor", *given, "--out", tmp_path / "none",
                  "--allow-network")  # fmt: skip
    assert old.spki_sha256 in found["message"]


def test_what_the_service_refuses_is_named(bao: OpenBao, key: str, tmp_path: Path) -> None:
    token = private(tmp_path / "token", token_for(bao, key))
    root = private(tmp_path / "root", bao.token)
    wrong = private(tmp_path / "wrong", "s.wrong")
    show = "fingerprint"
    found = error(4, Code.AUTHN, show, *options(bao, key, wrong))
    assert "s.wrong" not in json.dumps(found)
    error(4, Code.AUTHN, show, *options(bao, "another", token))  # its policy does not say which
    error(4, Code.NOT_FOUND, show, *options(bao, "another", root))
    bao.make_key("aes", type="aes256-gcm96")
    assert "not an RSA key" in error(3, Code.POLICY, show, *options(bao, "aes", root))["message"]
    bao.make_key("rsa2048", type="rsa-2048")
    assert result(show, *options(bao, "rsa2048", root))["bits"] == 2048  # legacy, but recovers
    error(2, Code.MALFORMED, show, *options(bao, "../keys", root))
    error(2, Code.MALFORMED, show, "--transit-address", bao.address, "--token-file", token)
    error(2, Code.MALFORMED, show, "--transit-address", "ftp://x", "--transit-key", "k",
          "--token-file", token)  # fmt: skip
    error(3, Code.POLICY, show, "--transit-address", "http://192.0.2.1:8200", "--transit-key", "k",
          "--token-file", token)  # fmt: skip
    found = error(1, Code.UNAVAILABLE, show, *options(bao, key, token)[:-2])
    assert "no certificate that is trusted" in found["message"]
    error(4, Code.NOT_FOUND, show, *options(bao, key, token)[:-1], tmp_path / "no-ca")
    found = error(1, Code.UNAVAILABLE, show, "--transit-address", "http://127.0.0.1:9",
                  "--transit-key", "k", "--token-file", token)  # fmt: skip
    assert "can't be reached" in found["message"]
    (tmp_path / "odd").write_bytes(b"\xff\n")
    error(2, Code.MALFORMED, show, *options(bao, key, tmp_path / "odd"))


def test_t106_a_wrong_padding_is_a_bad_leaf_and_a_failing_service_is_not(
    bao: OpenBao, key: str
) -> None:
    token = SecretBytes(token_for(bao, key).encode())
    with transit_key(service(bao, key), token) as opened:
        public = opened.public
        with pytest.raises(BadLeaf) as caught:
            opened.decrypt(pow(3, public.e, public.n).to_bytes(public.size, "big"))
        assert caught.value.args == ()
        assert "version 1" in opened.how
        # The service itself in trouble answers the same, and to the known ciphertext too.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TransitKey, "_ask", lambda *args: (500, {}))
            refused(lambda: opened.decrypt(bytes(public.size)), Code.UNAVAILABLE)
            patch.setattr(TransitKey, "_ask", lambda *args: (400, {}))
            refused(lambda: opened.decrypt(bytes(public.size)), Code.POLICY)
        bao.api("POST", "auth/token/revoke", {"token": token.reveal().decode()})
        found = refused(lambda: opened.decrypt(bytes(public.size)), Code.AUTHN)
        assert token.reveal().decode() not in str(found.to_json())


def test_one_connection_for_a_whole_batch(
    bao: OpenBao, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = SecretBytes(token_for(bao, key).encode())
    with transit_key(service(bao, key), token) as opened:
        sockets, asked = set(), []
        real = TransitKey._ask

        def counting(self: TransitKey, method: str, path: str, body: Any) -> Any:
            sockets.add(id(self._connection.sock))
            asked.append(path)
            return real(self, method, path, body)

        monkeypatch.setattr(TransitKey, "_ask", counting)
        back = recover(document_of(KEYS, opened.public), opened)
    assert [found.private_key.reveal() for found in back] == [made.secret for made in KEYS]
    assert asked == [f"decrypt/{key}"] * 3
    assert len(sockets) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1]\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnonsense!",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 503 X\r\nContent-Length: 27\r\n\r\n{"errors":["Vault sealed"]}',
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["empty", "list", "no-json", "redirect", "sealed", "no-http", "nothing"],
)
def test_an_odd_service_is_unavailable(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        found = refused(
            lambda: TransitKey(Service(address, "k"), SecretBytes(b"token"), ()), Code.UNAVAILABLE
        )
        thread.join(10)
    assert ("sealed" in found.message) is (b"sealed" in answer)
    assert "token" not in found.message
