"""Sinks for recovery documents, and what a node does for them while it runs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from keycairn.errors import Code, KeycairnError
from keycairn.ers.beside import private_keys_in, refuse_beside_private_key, refuse_private_key
from keycairn.ers.rsakeys import generate
from keycairn.node.ers_sinks import ObjectSink, sink_of
from keycairn.node.ers_watch import ErsWatch
from keycairn.node.metrics import Metrics
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.vault.ports import DocumentRow

DAY = 86_400


class Clock(SystemClock):
    """Put forward by hand, both ways of telling the time."""

    ahead = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead * 1_000_000

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def spki_name(key: rsa.RSAPrivateKey) -> str:
    from vault.nodes import spki_of

    return hashlib.sha256(spki_of(key)).hexdigest()


class Held:
    """A node's documents, as the watch sees them."""

    def __init__(self, spki_sha256: str) -> None:
        self.spki = spki_sha256
        self.stored: dict[str, bytes] = {}
        self.unsound: dict[str, str] = {}
        self.verified_us = SystemClock().now_us()

    def add(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.stored[sha256] = data
        return sha256

    async def rows(self) -> list[DocumentRow]:
        return [
            DocumentRow(sha256, "x", self.spki, "", True, {}, 1, self.verified_us)
            for sha256 in self.stored
        ]

    async def data(self, sha256: str) -> bytes:
        return self.stored[sha256]

    async def reverify(self, age_us: int, limit: int) -> list[str]:
        return []

    async def summary(self) -> dict[str, int]:
        return {"NONE": 1, "STALE": 0, "PARTIAL": 2, "COMPLETE": 3}


class Listed:
    async def list(self) -> list[Any]:
        return [
            SimpleNamespace(
                rsa_spki_sha256="aa", attested_us=None, attestation="never", state="allowed"
            ),
            SimpleNamespace(
                rsa_spki_sha256="bb", attested_us=5_000_000, attestation="good", state="allowed"
            ),
        ]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def held(key: rsa.RSAPrivateKey) -> Held:
    return Held(spki_name(key))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def watch(held: Held, clock: Clock, home: Path, *sinks: str, token: Path | None = None) -> ErsWatch:
    documents: Any = held
    keys: Any = Listed()
    return ErsWatch(
        documents, keys, clock, home=home, store=home / "ers", data=home, sinks=sinks,
        token_file=token, verify_seconds=7 * DAY,
    )  # fmt: skip


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# -- directories and object stores ---------------------------------------------------------------


@pytest.fixture
def s3(free_ports: Any) -> Iterator[str]:
    if not (importlib.util.find_spec("boto3") and importlib.util.find_spec("moto")):
        pytest.skip("boto3 and moto are not installed (the extras cloud and test)")
    import boto3
    from moto.server import ThreadedMotoServer

    kept = dict(os.environ)
    os.environ.update(
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="none",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_DEFAULT_REGION="eu-west-1",
        AWS_CONFIG_FILE="/dev/null",
    )
    port = free_ports(1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    bucket = f"keep-{port}"  # all servers of one process share their buckets
    client.create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    yield f"s3://{bucket}/ers?endpoint=http://127.0.0.1:{port}&region=eu-west-1"
    server.stop()
    os.environ.clear()
    os.environ.update(kept)


@pytest.mark.parametrize("kind", ["directory", "objects"])
async def test_a_document_goes_to_the_sink_and_is_read_back_from_there(
    kind: str, held: Held, clock: Clock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "directory":
        (tmp_path / "sink").mkdir()
        place = "sink"
    else:
        place = request.getfixturevalue("s3")
    sha256 = held.add(b"a document")
    watching = watch(held, clock, tmp_path, place)
    await watching.once()
    (state,) = watching.sinks
    assert state.sink.fetch(sha256) == b"a document"
    assert (state.waiting, state.error, list(state.receipts)) == (0, None, [sha256])
    # What is there already is no error, and receipts outlive the process; lost ones cost nothing.
    again = watch(held, clock, tmp_path, place)
    assert list(again.sinks[0].receipts) == [sha256]
    (tmp_path / "ers-sinks.json").write_text("{")
    again = watch(held, clock, tmp_path, place)
    assert again.sinks[0].receipts == {}
    await again.once()
    assert list(again.sinks[0].receipts) == [sha256]
    # A copy that is damaged or gone is found at the next check and delivered again.
    target: Any = again.sinks[0].sink
    for harm in ("damaged", "gone"):
        target._target.remove(target._target.location(f"{sha256}.kcers"))
        if harm == "damaged":
            (tmp_path / "bad").write_bytes(b"a documenT")
            target._target.publish(tmp_path / "bad", f"{sha256}.kcers")
        clock.ahead += 8 * DAY
        await again.once()
        assert target.fetch(sha256) == b"a document", harm
    assert again.sinks[0].lost_total == 2


async def test_a_sink_that_is_away_is_an_alarm_and_gets_everything_later(
    held: Held, clock: Clock, tmp_path: Path
) -> None:
    sha256 = held.add(b"a document")
    watching = watch(held, clock, tmp_path, "not-mounted")
    await watching.once()
    (state,) = watching.sinks
    assert state.error is not None
    assert state.error.code is Code.UNAVAILABLE
    (found,) = [f for f in await watching.findings() if f["finding"] == "ERS sink"]
    assert (found["waiting"], found["where"]) == (1, str(tmp_path / "not-mounted"))
    assert "[ers] sinks" in found["next"]
    # Not again at once, and later each time.
    for seconds, failures in ((0, 1), (31, 2), (31, 2), (31, 3)):
        clock.ahead += seconds
        await watching.once()
        assert state.failures_total == failures
    (tmp_path / "not-mounted").mkdir()
    clock.ahead += 3600
    await watching.once()
    assert state.error is None
    assert state.sink.fetch(sha256) == b"a document"
    assert await watching.findings() == []


async def test_a_sink_that_loses_its_mount_is_not_taken_for_empty(
    held: Held, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "sink").mkdir()
    held.add(b"a document")
    watching = watch(held, clock, tmp_path, "sink")
    await watching.once()
    (tmp_path / "sink").rename(tmp_path / "elsewhere")
    (tmp_path / "sink").mkdir()  # the empty mount point
    clock.ahead += 8 * DAY
    await watching.once()
    (state,) = watching.sinks
    assert state.lost_total == 0
    assert state.error is not None
    assert len(state.receipts) == 1


# -- private keys beside documents (issue 4, "Bad input gets") -------------------------------------


@pytest.mark.parametrize("form", ["pem", "der", "traditional", "encrypted", "encrypted with .pub"])
def test_no_document_is_written_beside_a_private_key_that_may_open_it(
    form: str, key: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    from vault.nodes import spki_of

    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    old = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    encrypted, public = generate(3072, b"passphrase", SystemRng())
    data = {"pem": pem(key), "der": der, "traditional": old}.get(form, encrypted)
    (tmp_path / "some name").write_bytes(data)
    mine = spki_name(key)
    if form == "encrypted with .pub":
        (tmp_path / "some name.pub").write_bytes(public)
        refuse_beside_private_key(tmp_path, mine)  # another key for sure
        mine = next(iter(private_keys_in(tmp_path))).spki_sha256 or ""
    with pytest.raises(KeycairnError) as refused:
        refuse_beside_private_key(tmp_path, mine)
    assert refused.value.code is Code.POLICY
    assert "some name" in refused.value.message
    if form in ("pem", "der", "traditional"):
        refuse_beside_private_key(tmp_path, "0" * 64)  # it opens nothing of that
    assert spki_of(key)


def test_other_private_keys_and_junk_are_no_reason_to_refuse(
    key: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    (tmp_path / "tls.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    (tmp_path / "junk.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnothing\n")
    (tmp_path / "junk.der").write_bytes(b"\x30\x82" + bytes(100))
    (tmp_path / "large").write_bytes(bytes(100_000))
    (tmp_path / "folder").mkdir()
    refuse_beside_private_key(tmp_path, spki_name(key))
    refuse_beside_private_key(tmp_path / "missing", spki_name(key))
    with pytest.raises(KeycairnError) as refused:
        refuse_private_key(pem(key))
    assert refused.value.code is Code.POLICY
    refuse_private_key(b"-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize("kind", ["directory", "objects"])
async def test_a_sink_with_the_private_key_gets_no_document_and_doctor_hears_of_it(
    kind: str,
    held: Held,
    clock: Clock,
    key: rsa.RSAPrivateKey,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if kind == "directory":
        (tmp_path / "sink").mkdir()
        place = "sink"
        (tmp_path / "sink" / "rsa.pem").write_bytes(pem(key))
    else:
        place = request.getfixturevalue("s3")
        sink = sink_of(place, tmp_path)
        assert isinstance(sink, ObjectSink)
        (tmp_path / "up").write_bytes(pem(key))
        sink._target.publish(tmp_path / "up", "rsa.pem")
    sha256 = held.add(b"a document")
    watching = watch(held, clock, tmp_path, place)
    await watching.once()
    (state,) = watching.sinks
    assert state.error is not None
    assert state.error.code is Code.POLICY
    assert state.receipts == {}
    if kind == "directory":
        assert not (tmp_path / "sink" / f"{sha256}.kcers").exists()
    findings = await watching.findings()
    beside = [f for f in findings if f["finding"] == "RSA private key beside ERS documents"]
    assert [f["file"] for f in beside] == ["rsa.pem"]
    assert (await watching.state())["private_keys_beside"] == 1


async def test_a_private_key_in_the_nodes_own_store_is_a_finding(
    held: Held, clock: Clock, key: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    (tmp_path / "ers").mkdir()
    (tmp_path / "ers" / "backup-of-key").write_bytes(pem(key))
    held.add(b"a document")
    watching = watch(held, clock, tmp_path)
    await watching.once()
    (found,) = await watching.findings()
    assert found["where"] == str(tmp_path / "ers")
    assert found["file"] == "backup-of-key"


# -- web-hooks -------------------------------------------------------------------------------------


class Receiver(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        status, answer = self.server.say(hashlib.sha256(body).hexdigest())
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:9/stolen")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.got = []
    server.say = lambda _: (204, b"")
    server.url = f"http://127.0.0.1:{server.server_address[1]}/secret/path"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


async def test_a_web_hook_gets_the_document_with_its_digest(
    hook: Any, held: Held, clock: Clock, tmp_path: Path
) -> None:
    sha256 = held.add(b"a document")
    token = tmp_path / "token"
    token.write_text("bearer-of-news\n")
    watching = watch(held, clock, tmp_path, hook.url, token=token)
    await watching.once()
    ((headers, body),) = hook.got
    assert body == b"a document"
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert headers["Keycairn-Sha256"] == sha256
    assert headers["Keycairn-Rsa"] == held.spki
    assert headers["Authorization"] == "Bearer bearer-of-news"
    clock.ahead += 30 * DAY
    await watching.once()
    assert len(hook.got) == 1, "delivered once; a web-hook can't be read back"
    text = str(await watching.findings()) + str(await watching.state())
    assert "secret/path" not in text
    assert "secret/path" not in (tmp_path / "ers-sinks.json").read_text()


@pytest.mark.parametrize(
    "answer", [(500, b""), (404, b""), (307, b""), (200, b'{"sha256":"' + b"0" * 64 + b'"}')]
)
async def test_a_web_hook_that_fails_is_asked_again(
    answer: tuple[int, bytes], hook: Any, held: Held, clock: Clock, tmp_path: Path
) -> None:
    held.add(b"a document")
    hook.say = lambda _: answer
    watching = watch(held, clock, tmp_path, hook.url)
    await watching.once()
    (state,) = watching.sinks
    assert state.error is not None
    assert state.error.code is Code.UNAVAILABLE
    await watching.once()
    assert len(hook.got) == 1, "not at once"
    hook.say = lambda sha256: (200, b'{"sha256":"' + sha256.encode() + b'"}')
    clock.ahead += 31
    await watching.once()
    assert state.error is None
    assert len(hook.got) == 2


async def test_one_sink_that_fails_keeps_nothing_from_the_others(
    hook: Any, held: Held, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "sink").mkdir()
    hook.say = lambda _: (503, b"")
    held.add(b"a document")
    watching = watch(held, clock, tmp_path, hook.url, "sink", "missing")
    await watching.once()
    assert [s.error is None for s in watching.sinks] == [False, True, False]
    state = await watching.state()
    assert [s["delivered"] for s in state["sinks"]] == [0, 1, 0]


async def test_a_sink_that_does_not_come_to_an_end_holds_up_no_other(
    hook: Any, held: Held, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "sink").mkdir()
    over = threading.Event()

    def say(_: str) -> tuple[int, bytes]:
        over.wait(20)
        return 204, b""

    hook.say = say
    held.add(b"a document")
    watching = watch(held, clock, tmp_path, hook.url, "sink")
    watching.patience = 1.0
    for number in (1, 2):
        await watching.once()
        held.add(b"another document")
        assert len(watching.sinks[0].receipts) == 0
        assert len(watching.sinks[1].receipts) == number
    assert len(hook.got) == 1, "one delivery at a time"
    over.set()
    watching.patience = 20.0
    for _ in range(2):
        await watching.once()
    assert [len(s.receipts) for s in watching.sinks] == [2, 2]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ftp://host/x", Code.MALFORMED),
        ("https://", Code.MALFORMED),
        ("https://host/x#y", Code.MALFORMED),
        ("http://host.example/x", Code.POLICY),
        ("https://user:pw@host.example/x", Code.POLICY),
        ("s3://UPPER/x", Code.MALFORMED),
        ("s3://bucket/x?endpoint=http://host.example", Code.POLICY),
    ],
)
def test_sinks_that_are_none_are_refused(text: str, code: Code, tmp_path: Path) -> None:
    with pytest.raises(KeycairnError) as refused:
        sink_of(text, tmp_path)
    assert refused.value.code is code


# -- metrics and ages ------------------------------------------------------------------------------


async def test_metrics_tell_status_ages_and_sinks(held: Held, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "sink").mkdir()
    held.add(b"a document")
    held.unsound = {"00": "broken"}
    watching = watch(held, clock, tmp_path, "sink", "missing")
    await watching.once()
    clock.ahead += 100
    metrics = Metrics()
    metrics.ers(await watching.state())
    metrics.ers(await watching.state())
    body, _ = metrics.render({"ok": True}, [], [], {})
    found = {
        (s.name.removeprefix("keycairn_ers_"), *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
        if s.name.startswith("keycairn_ers")
    }
    assert found["keys", "partial"] == 2
    assert found["keys", "complete"] == 3
    assert 100 <= found["verified_age_seconds",] < 200
    assert found["unsound_documents",] == 1
    assert found["key_attested_timestamp_seconds", "bb"] == 5
    assert found["key_attestation_overdue", "aa"] == 1
    assert found["key_attestation_overdue", "bb"] == 0
    assert found["sink_waiting", "2", "directory"] == 1
    assert found["sink_failing", "1", "directory"] == 0
    assert found["sink_failures_total", "2", "directory"] == 1
    assert 100 <= found["sink_checked_age_seconds", "1", "directory"] < 200


async def test_documents_that_nobody_verified_for_long_are_an_alarm(
    held: Held, clock: Clock, tmp_path: Path
) -> None:
    held.add(b"a document")
    watching = watch(held, clock, tmp_path)
    assert await watching.findings() == []
    clock.ahead += 15 * DAY
    (found,) = await watching.findings()
    assert (found["finding"], found["hours"]) == ("ERS documents not verified", 15 * 24)
    held.unsound = {"00": "broken"}
    assert "ERS document does not verify" in [f["finding"] for f in await watching.findings()]


async def test_the_watch_goes_on_after_any_error(
    held: Held, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keycairn.node import ers_watch

    monkeypatch.setattr(ers_watch, "_TICK_SECONDS", 0.01)
    watching = watch(held, clock, tmp_path)
    rounds: list[Callable[[], None]] = []

    async def once() -> None:
        rounds.append(lambda: None)
        raise (
            RuntimeError("a fault of ours")
            if len(rounds) % 2
            else KeycairnError(Code.UNAVAILABLE, "the disk is away")
        )

    monkeypatch.setattr(watching, "once", once)
    task = asyncio.ensure_future(watching.run())
    async with asyncio.timeout(5):
        while len(rounds) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
