"""A node that really runs: ports, locks, tokens, TLS, limits over a real socket."""

import asyncio
import json
import resource
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keycairn.cli.layout import check_plan, create_vault
from keycairn.client import OperatorClient, load_profile
from keycairn.client.node import NodeClient
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.daemon import serve_node
from keycairn.node.listeners import bind
from keycairn.ports.system import SystemClock, SystemRng

CLOCK, RNG = SystemClock(), SystemRng()


@pytest.fixture
def home(tmp_path: Path, free_ports: Callable[[int], int]) -> Path:
    """A vault of two nodes, made and not started."""
    plan = check_plan(tmp_path / "v", 2, 1, free_ports(6), "ers or node_backup")
    create_vault(plan, CLOCK, RNG)
    return plan.directory


@pytest.fixture
def config(home: Path) -> NodeConfig:
    return load_config(home / "node1" / "node.toml", {})


@pytest.fixture
async def running(config: NodeConfig) -> AsyncIterator[NodeConfig]:
    async with serve_node(config, CLOCK, RNG, lambda: None):
        yield config


@pytest.fixture
def api_key(home: Path) -> str:
    return load_profile(home / "vault.toml").nodes[0].api_key


async def refused(config: NodeConfig) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        async with serve_node(config, CLOCK, RNG, lambda: None):
            pass
    return caught.value


async def test_management_needs_the_token_of_this_start(running: NodeConfig, api_key: str) -> None:
    assert stat.S_IMODE(running.token_file.stat().st_mode) == 0o600
    async with OperatorClient.of(running) as node:
        assert (await node.status())["node"] == 1
        assert "keycairn_peer_up" in await node.metrics()
    async with OperatorClient(f"http://{running.management}", api_key) as node:
        with pytest.raises(KeycairnError) as caught:
            await node.status()
    assert caught.value.code is Code.AUTHN
    # And the token is no API key.
    token = running.token_file.read_text().strip()
    async with NodeClient(running.api.url, token) as client:
        with pytest.raises(KeycairnError) as caught:
            await client.list_keys()
    assert caught.value.code is Code.AUTHN


async def test_an_answer_is_one_piece(running: NodeConfig) -> None:
    reader, writer = await asyncio.open_connection(running.api.listen.host, running.api.listen.port)
    for _ in range(3):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        head, _, body = (await reader.read(65536)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert json.loads(body)["node"] == 1
    # What a connection that closes still has to say is said.
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["node"] == 1
    writer.close()


async def test_T006_unban_of_no_peer(running: NodeConfig, api_key: str) -> None:
    async with OperatorClient.of(running) as node:
        for player, expected in (("1", "E_BAD_INDEX"), ("3", "E_BAD_INDEX"), ("x", "E_BAD_INDEX")):
            answer = await node.send("POST", f"/v1/peers/{player}/unban", {})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, expected)
        assert (await node.unban(2))["lifted"] == []
    # No application lifts a ban.
    async with NodeClient(running.api.url, api_key) as client:
        answer = await client.send("POST", "/v1/peers/2/unban", {})
        assert answer.status_code == 404


async def test_token_is_gone_after_the_stop_and_new_after_a_start(config: NodeConfig) -> None:
    tokens = set()
    for _ in range(2):
        async with serve_node(config, CLOCK, RNG, lambda: None):
            tokens.add(config.token_file.read_text())
        assert not config.token_file.exists()
    assert len(tokens) == 2
    with pytest.raises(KeycairnError) as caught:
        OperatorClient.of(config)
    assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("section", ["api", "management"])
async def test_port_in_use_is_named(config: NodeConfig, section: str) -> None:
    address = config.api.listen if section == "api" else config.management
    taken = bind(address, section, 1)
    try:
        error = await refused(config)
    finally:
        taken.close()
    assert error.code is Code.UNAVAILABLE
    assert str(address.port) in error.message
    assert f"[{section}]" in error.message


async def test_two_nodes_on_one_data_directory(
    running: NodeConfig, home: Path, free_ports: Callable[[int], int]
) -> None:
    base = free_ports(3)
    text = running.file.read_text()
    addresses = (running.api.listen, running.links, running.management)
    for number, old in enumerate(addresses):
        text = text.replace(f'"{old}"', f'"127.0.0.1:{base + number}"')
    other = running.file.with_name("other.toml")
    other.write_text(text)
    other.chmod(0o600)
    error = await refused(load_config(other, {}))
    assert error.code is Code.CONFLICT
    async with OperatorClient.of(running) as node:  # The first one serves on.
        assert (await node.status())["state"] == "ACTIVE"


async def test_T079_wrong_master_secret(config: NodeConfig, home: Path) -> None:
    key = home / "operator1" / "master.key"
    key.write_text("00" * 32)
    error = await refused(config)
    assert error.code is Code.STORE_INTEGRITY
    key.unlink()
    assert (await refused(config)).code is Code.NOT_FOUND


async def test_database_gone_is_not_made_anew(config: NodeConfig) -> None:
    config.database.unlink()
    error = await refused(config)
    assert error.code is Code.NOT_FOUND
    assert "restore" in error.next
    assert not config.database.exists()


async def test_disk_full_at_start(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = os.open

    def full(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if str(path).endswith("management.token.new"):
            raise OSError(28, "No space left on device")
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    error = await refused(config)
    assert error.code is Code.UNAVAILABLE
    assert "No space left" in error.message


async def test_T113_hundred_megabytes_over_a_real_socket(running: NodeConfig, api_key: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for header in (b"Content-Length: 104857600", b"Transfer-Encoding: chunked"):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.api.listen.port)
        writer.write(
            b"POST /v1/keys HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
            + b"Authorization: Bearer "
            + api_key.encode()
            + b"\r\n"
            + header
            + b"\r\n\r\n"
        )
        chunked = header.startswith(b"Transfer")
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n" if chunked else b" " * 65536
        try:
            for _ in range(1600):
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), 5)
        except (ConnectionError, TimeoutError):
            pass
        status = b""
        try:
            status = await asyncio.wait_for(reader.readline(), 5)
        except ConnectionError:
            status = b"HTTP/1.1 413"  # Closed on the sender's face: its answer may be lost.
        writer.close()
        assert b" 413" in status
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50 * 1024
    async with NodeClient(running.api.url, api_key) as client:
        assert await client.list_keys() == []


async def test_no_server_header_and_no_stack(running: NodeConfig) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(running.api.url + "/v1/keys")
        assert answer.status_code == 401
        assert "server" not in answer.headers
        assert "date" not in answer.headers


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    import ipaddress

    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    crt, pem = folder / "tls.crt", folder / "tls.key"
    crt.write_bytes(cert.public_bytes(Encoding.PEM))
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem.chmod(0o600)
    return crt, pem


async def test_T111_api_over_tls_13_with_the_pinned_certificate(
    config: NodeConfig, api_key: str, tmp_path: Path
) -> None:
    crt, _ = _certificate(config.home)
    listen = f'listen = "{config.api.listen}"'
    text = config.file.read_text().replace(
        listen, f'{listen}\ntls_cert = "tls.crt"\ntls_key = "tls.key"'
    )
    config.file.write_text(text)
    tls = load_config(config.file, {})
    assert tls.api.url.startswith("https://")
    async with serve_node(tls, CLOCK, RNG, lambda: None):
        async with NodeClient(tls.api.url, api_key, ca=crt) as client:
            assert await client.list_keys() == []
        other = tmp_path / "other"
        other.mkdir()
        stranger, _ = _certificate(other)
        async with NodeClient(tls.api.url, api_key, ca=stranger) as client:
            with pytest.raises(KeycairnError) as caught:
                await client.list_keys()
        assert caught.value.code is Code.UNAVAILABLE
        old = ssl.create_default_context(cafile=str(crt))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", tls.api.listen.port, ssl=old)


async def test_bundle_through_management_leaves_a_receipt(
    running: NodeConfig, api_key: str
) -> None:
    async with OperatorClient.of(running) as node:
        made = await node.backup_create()
        assert made["verified"] is True
        assert Path(made["bundle"]).is_file()
        [row] = await node.backups()
        assert row["sha256"] == made["sha256"]
    async with NodeClient(running.api.url, api_key) as client:
        [seen] = await client.backups()
    assert seen["sha256"] == made["sha256"]
    assert "bundle" not in seen  # Where it lies is the operator's business.


@pytest.mark.parametrize("text", [True, False])
async def test_master_secret_never_goes_into_a_bundle(
    config: NodeConfig, home: Path, text: bool
) -> None:
    secret = (home / "operator1" / "master.key").read_text().strip()
    launch = config.home / "launch.conf"
    launch.write_bytes(b"KEY=" + (secret.encode() if text else bytes.fromhex(secret)))
    config.file.write_text(
        config.file.read_text().replace("[backup]\n", '[backup]\ninclude = ["launch.conf"]\n')
    )
    loose = load_config(config.file, {})
    async with serve_node(loose, CLOCK, RNG, lambda: None), OperatorClient.of(loose) as node:
        with pytest.raises(KeycairnError) as caught:
            await node.backup_create()
    assert caught.value.code is Code.POLICY
    assert list((home / "operator1" / "backups").iterdir()) == []


async def test_bundle_without_recipients_is_refused(config: NodeConfig) -> None:
    lines = config.file.read_text().splitlines(keepends=True)
    # Without recipients there are no points either: that is refused when the file is read.
    gone = ("recipients", "points_from_peers")
    config.file.write_text("".join(line for line in lines if not line.startswith(gone)))
    bare = load_config(config.file, {})
    async with serve_node(bare, CLOCK, RNG, lambda: None), OperatorClient.of(bare) as node:
        with pytest.raises(KeycairnError) as caught:
            await node.backup_create()
    assert caught.value.code is Code.POLICY


async def test_T028_T006_with_the_real_service(running: NodeConfig, api_key: str) -> None:
    body = {
        "session_id": "s",
        "request_id": "r",
        "players": [1, 9],
        "scheme": "schnorr",
        "curve": "ed25519",
        "threshold": 1,
    }
    async with NodeClient(running.api.url, api_key) as client:
        for change, code in (
            ({}, Code.BAD_INDEX),
            ({"players": [1, 2], "curve": "p256"}, Code.MALFORMED),
            ({"players": [1, 2], "threshold": 2}, Code.MALFORMED),
        ):
            with pytest.raises(KeycairnError) as caught:
                await client.create_keys(body | change)
            assert caught.value.code is code
            json.dumps(caught.value.to_json())
