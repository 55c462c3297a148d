"""OpenBao's transit engine: its tokens, its traps, and answers that a test server gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from encryptors.components import OpenBao, configured, private, running_openbao
from encryptors.test_contract import HERE, MASTER, fails, unwrap, wrap
from keycairn.encryptors import encryptor_of
from keycairn.errors import Code
from keycairn.ports.seeded import SeededRng


def test_the_policy_needs_two_lines(openbao: OpenBao, tmp_path: Path) -> None:
    """update on encrypt and decrypt of one key: nothing else was given to this token."""
    openbao.make_key("two-lines")
    token = private(tmp_path / "token", openbao.make_token("two-lines"))
    config = configured(openbao.section("two-lines", token))
    assert unwrap(config, wrap(config)) == MASTER.reveal()
    assert encryptor_of(config, SeededRng(1)).notes() == []


def test_a_token_without_permission_is_told_which_it_lacks(
    openbao: OpenBao, tmp_path: Path
) -> None:
    openbao.make_key("mine")
    openbao.make_key("yours")
    token = private(tmp_path / "token", openbao.make_token("mine"))
    config = configured(openbao.section("yours", token))
    error = fails(Code.AUTHN, lambda: wrap(config))
    assert "transit/decrypt/yours" in error.message
    assert error.exit_code == 4


def test_a_role_logs_in_with_its_secret_id(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.make_key("roles")
    openbao.make_token("roles")  # for its policy
    openbao.api("POST", "auth/approle/role/node3", {"token_policies": ["roles"], "token_ttl": "60"})
    role = openbao.api("GET", "auth/approle/role/node3/role-id")["data"]["role_id"]
    secret = openbao.api("POST", "auth/approle/role/node3/secret-id")["data"]["secret_id"]
    file = private(tmp_path / "secret-id", secret + "\n")
    section = openbao.section("roles", file, auth="approle", role_id=role)
    wrapped = wrap(configured(section))
    assert unwrap(configured(section), wrapped) == MASTER.reveal()
    file.write_text("not-a-secret-id")
    fails(Code.AUTHN, lambda: unwrap(configured(section), wrapped))
    fails(Code.POLICY, lambda: wrap(configured(openbao.section("roles", file, auth="approle"))))


def test_a_key_without_associated_data_is_refused(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.make_key("rsa", type="rsa-2048")
    token = private(tmp_path / "token", openbao.make_token("rsa"))
    error = fails(Code.POLICY, lambda: wrap(configured(openbao.section("rsa", token))))
    assert "aes256-gcm96" in error.next


def test_the_services_own_rotation_of_its_key_is_borne(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.make_key("turning")
    token = private(tmp_path / "token", openbao.make_token("turning"))
    config = configured(openbao.section("turning", token))
    old = wrap(config)
    openbao.api("POST", "transit/keys/turning/rotate", {})
    new = wrap(config)
    assert old.body.startswith(b"vault:v1:")
    assert new.body.startswith(b"vault:v2:")
    assert unwrap(config, old) == unwrap(config, new) == MASTER.reveal()


def test_a_key_that_can_be_lost_or_read_is_noted(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.make_key("loose", type="aes256-gcm96", exportable=True)
    openbao.api("POST", "transit/keys/loose/config", {"deletion_allowed": True})
    more = 'path "transit/keys/loose" { capabilities = ["read"] }\n'
    token = private(tmp_path / "token", openbao.make_token("loose", more=more))
    notes = encryptor_of(configured(openbao.section("loose", token)), SeededRng(1)).notes()
    assert [n for n in notes if "deleted" in n]
    assert [n for n in notes if "exported" in n]


def test_a_server_with_a_strangers_certificate_gets_no_token(
    openbao: OpenBao, tmp_path: Path
) -> None:
    token = private(tmp_path / "token", "t")
    section = openbao.section("k", token)
    del section["ca_file"]
    error = fails(Code.UNAVAILABLE, lambda: wrap(configured(section)))
    assert "ca_file" in error.next
    fails(
        Code.NOT_FOUND,
        lambda: wrap(configured({**section, "ca_file": str(tmp_path / "no-such.pem")})),
    )


def test_a_sealed_server_says_so_and_nothing_is_lost(
    free_ports: Callable[..., int], tmp_path: Path
) -> None:
    with running_openbao(free_ports(2)) as server:
        server.make_key("k")
        token = private(tmp_path / "token", server.make_token("k"))
        config = configured(server.section("k", token))
        wrapped = wrap(config)
        server.api("POST", "sys/seal", {})
        error = fails(Code.UNAVAILABLE, lambda: unwrap(config, wrapped))
        assert "is sealed" in error.message
        assert "unseal" in error.next


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"address": "http://vault.example.org:8200"}, "not encrypted"),
        ({"address": "https://user:pw@vault.example.org"}, "https://host:port"),
        ({"address": "ftp://127.0.0.1"}, "https://host:port"),
        ({"address": "https://[::1"}, "https://host:port"),
        ({"mount": "../sys"}, "plain name"),
        ({"key": "a/../../sys/seal"}, "plain name"),
        ({"key": "a b"}, "plain name"),
        ({"key": "a?x=1"}, "plain name"),
    ],
)
def test_an_address_or_name_that_leads_elsewhere_is_refused(
    tmp_path: Path, change: dict[str, str], word: str
) -> None:
    section = {
        "kind": "transit",
        "address": "https://127.0.0.1:1",
        "key": "k",
        "secret_file": str(private(tmp_path / "token", "t")),
    }
    error = fails(Code.POLICY, lambda: wrap(configured({**section, **change})))
    assert word in error.message


class _Server(BaseHTTPRequestHandler):
    """Gives the answers that its server's list holds, and keeps what it was asked."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.asked.append((self.path, dict(self.headers), self.rfile.read(length)))
        status, headers, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Server)
    server.answers, server.asked = list(answers), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, {}, b"not json"), Code.UNAVAILABLE),
        ((200, {}, b"{}"), Code.UNAVAILABLE),
        ((200, {}, b'{"data": {"plaintext": 7}}'), Code.UNAVAILABLE),
        ((200, {}, b'{"data": {"plaintext": "!!"}}'), Code.UNAVAILABLE),
        ((200, {}, b"x" * 100_000), Code.UNAVAILABLE),
        ((500, {}, b"boom"), Code.UNAVAILABLE),
        ((429, {}, b"{}"), Code.UNAVAILABLE),
        ((307, {"Location": "http://127.0.0.1:9/steal"}, b""), Code.UNAVAILABLE),
        ((400, {}, json.dumps({"errors": ["cipher: message authentication failed"]}).encode()),
         Code.STORE_INTEGRITY),
    ],
)  # fmt: skip
def test_strange_answers_are_errors_with_a_code(
    tmp_path: Path, answer: tuple[int, dict[str, str], bytes], code: Code
) -> None:
    from keycairn.encryptors import Wrapped

    wrapped = Wrapped({"mount": "transit", "key": "k"}, b"vault:v1:" + b"A" * 80)
    with answering(answer) as server:
        section = {
            "kind": "transit",
            "address": f"http://127.0.0.1:{server.server_port}",
            "key": "k",
            "namespace": "team-a",
            "secret_file": str(private(tmp_path / "token", "token-1\n")),
        }
        encryptor = encryptor_of(configured(section), SeededRng(1))
        fails(code, lambda: encryptor.unwrap(wrapped, HERE))
        # One request, to the one address, with the token in its header and nowhere else.
        [(path, headers, body)] = server.asked
    assert path == "/v1/transit/decrypt/k"
    assert headers["X-Vault-Token"] == "token-1"
    assert headers["X-Vault-Namespace"] == "team-a"
    assert b"token-1" not in body
