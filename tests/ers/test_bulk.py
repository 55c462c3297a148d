"""``ers verify --all``: an answer for every key of very many documents."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ers.helpers import TestKey, document_of, make_key, part_of
from keycairn.cli.ers_places import is_document
from keycairn.cli.run import run
from keycairn.ers.document import Document
from keycairn.ers.rsa import to_pem

pytestmark = pytest.mark.slow
needs_s3 = pytest.mark.skipif(
    not (importlib.util.find_spec("boto3") and importlib.util.find_spec("moto")),
    reason="boto3 and moto are not installed (the set all)",
)
needs_dask = pytest.mark.skipif(
    not importlib.util.find_spec("distributed"),
    reason="distributed is not installed (the extra cluster)",
)


class Place:
    """A directory with documents, the RSA key and the file of expected keys."""

    def __init__(self, folder: Path, rsa: Any) -> None:
        self.folder = folder / "documents"
        self.folder.mkdir()
        self.rsa, self.rsa_file = rsa, folder / "rsa.pub"
        self.rsa_file.write_bytes(to_pem(rsa.spki))
        self.expected_file = folder / "keys.json"

    def put(self, name: str, document: Document) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(document.to_cbor() if name.endswith(".cbor") else document.to_json())
        return path

    def expect(self, *keys: TestKey, **changes: Any) -> None:
        rows = [
            {
                "key_id": k.statement.key_id,
                "curve": k.statement.curve,
                "public_key": k.statement.public_key.hex(),
                "generation": k.statement.generation,
                "record_hash": k.statement.record_hash.hex(),
                "state": "active",
            }
            | changes
            for k in keys
        ]
        self.expected_file.write_text(json.dumps({"keys": rows}))

    @property
    def words(self) -> list[str]:
        known = ["--rsa-public-key", str(self.rsa_file), "--expected", str(self.expected_file)]
        return ["ers", "verify", "--all", str(self.folder), *known]


@pytest.fixture
def place(tmp_path: Path, rsa_key: Any) -> Place:
    made = Place(tmp_path, rsa_key().public)
    made.put("a/ers-one.json", document_of([A, B], made.rsa))
    made.put("two.cbor", document_of([C], made.rsa))
    made.expect(A, B, C)
    return made


A, B, C = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-c", "p256")


def ask(capfd: Any, *words: str) -> tuple[int, dict[str, Any]]:
    code = run([*words, "--json"])
    return code, json.loads(capfd.readouterr().out)


def reasons(answer: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {k["key_id"]: (k["answer"], k["why"]) for k in answer["not_yes"]["keys"]}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_keys_of_good_documents_are_yes(place: Place, workers: str, capfd: Any) -> None:
    (place.folder / "notes.json").write_text("{}")  # no document by its name
    report = place.folder.parent / "report.jsonl"
    code, answer = ask(capfd, *place.words, "--workers", workers, "--report", str(report))
    assert (code, answer["answer"]) == (0, "yes")
    assert answer["keys"] == {"yes": 3, "no": 0, "cant_tell": 0}
    assert answer["documents"] == {"yes": 2, "no": 0, "cant_tell": 0, "in_place": 2}
    assert answer["statuses"] == {"COMPLETE": 3}
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(r["key_id"], r["answer"]) for r in rows] == [
        ("key-a", "yes"), ("key-b", "yes"), ("key-c", "yes"),
    ]  # fmt: skip


def test_no_by_its_reason(place: Place, rsa_key: Any, capfd: Any) -> None:
    data = place.folder / "two.cbor"
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 1
    data.write_bytes(raw)
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, answer["answer"]) == (5, "no")
    assert reasons(answer)["key-c"][0] == "no"
    assert answer["documents"]["no"] == 1

    place.put("two.cbor", document_of([C], rsa_key(2048, 1).public))  # for another RSA key
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, reasons(answer)["key-c"]) == (5, ("no", "the document is not valid"))
    assert "RSA key" in answer["not_yes"]["documents"][0]["why"]

    place.put("two.cbor", document_of([make_key("key-c", "p256", t=2)], place.rsa))
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, reasons(answer)["key-c"]) == (5, ("no", "another public key than expected"))

    place.put("two.cbor", document_of([C], place.rsa, (2,)))
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, reasons(answer)["key-c"]) == (5, ("no", "fewer than t+1 parts"))

    # A good copy beside a bad one is enough for the key; the bad document is still named.
    place.put("copy.cbor", document_of([C], place.rsa))
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, answer["keys"]["yes"]) == (5, 3)
    assert [d["document"] for d in answer["not_yes"]["documents"]] == ["two.cbor"]

    (place.folder / "two.cbor").unlink()
    (place.folder / "copy.cbor").unlink()
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, reasons(answer)["key-c"]) == (5, ("no", "in no document"))


def test_an_older_generation_still_gives_the_key(place: Place, capfd: Any) -> None:
    place.expect(A, B, C, generation=2)
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, answer["statuses"]) == (0, {"STALE": 3})
    place.expect(A, B, C, record_hash="00" * 32)
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, answer["keys"]["no"]) == (5, 3)


def test_cant_tell_what_nothing_was_given_for(place: Place, capfd: Any) -> None:
    place.expect(A, B)
    code, answer = ask(capfd, *place.words, "--workers", "1")
    assert (code, answer["answer"]) == (7, "cant_tell")
    assert list(reasons(answer)) == ["key-c"]
    alone = ["ers", "verify", "--all", str(place.folder), "--workers", "1"]
    code, answer = ask(capfd, *alone)
    assert (code, answer["keys"]) == (7, {"yes": 0, "no": 0, "cant_tell": 3})
    place.expect(A, B, C)
    code, answer = ask(capfd, *alone, "--expected", str(place.expected_file))
    assert (code, set(r[1] for r in reasons(answer).values())) == (
        7, {"no RSA public key was given"},
    )  # fmt: skip
    for path in (place.folder / "a" / "ers-one.json", place.folder / "two.cbor"):
        path.unlink()
    place.expect()
    assert ask(capfd, *place.words)[0] == 7  # nothing at all is no yes


def test_cant_tell_while_a_document_cannot_be_read(place: Place, capfd: Any) -> None:
    path = place.folder / "two.cbor"
    path.unlink()
    # Larger than any document may be: not read, so nobody knows what is in it.
    with path.open("wb") as stream:
        stream.truncate((96 << 20) + 1)
    state = place.folder.parent / "state"
    words = [*place.words, "--workers", "1", "--resume", str(state)]
    code, answer = ask(capfd, *words)
    assert (code, answer["documents"]["cant_tell"]) == (7, 1)
    assert reasons(answer) == {"key-c": ("cant_tell", "in no document")}
    place.put("two.cbor", document_of([C], place.rsa))
    code, answer = ask(capfd, *words)
    assert (code, answer["resumed"], answer["verified_now"]) == (0, 1, 1)


def test_a_sample_judges_only_what_it_drew(place: Place, capfd: Any) -> None:
    code, answer = ask(capfd, *place.words, "--workers", "1", "--sample", "1")
    assert (code, answer["sample"], answer["documents"]["in_place"]) == (0, 1, 2)
    assert answer["documents"]["yes"] == 1
    assert answer["keys"]["yes"] in (1, 2)


def test_wrong_use(place: Place, tmp_path: Path, capfd: Any) -> None:
    for words in (
        ["--workers", "257"], ["--sample", "0"], ["--label", "x"], ["--cluster", "tcp://x", "f"],
        ["--sample", "1", "--resume", str(tmp_path / "s")],
    ):  # fmt: skip
        assert ask(capfd, *place.words, *words)[0] == 2
    assert ask(capfd, "ers", "verify", str(place.folder / "two.cbor"), "--workers", "2")[0] == 2
    assert ask(capfd, "ers", "verify")[0] == 2
    missing = ["ers", "verify", "--all", str(tmp_path / "none")]
    assert ask(capfd, *missing)[1]["error"]["code"] == "E_NOT_FOUND"
    state = str(tmp_path / "state")
    assert ask(capfd, *place.words, "--workers", "1", "--resume", state)[0] == 0
    place.expect(A, B, C, generation=7)
    code, answer = ask(capfd, *place.words, "--workers", "1", "--resume", state)
    assert (code, answer["error"]["code"]) == (3, "E_CONFLICT")
    place.expected_file.write_text("[1]")
    assert ask(capfd, *place.words, "--workers", "1")[0] == 2


def test_resumed_after_kill_9(tmp_path: Path, rsa_key: Any, capfd: Any) -> None:
    place = Place(tmp_path, rsa_key().public)
    body = document_of([A], place.rsa)
    for i in range(60):  # the same document under many names: what counts is the work
        place.put(f"{i:02}.cbor", body)
    place.expect(A)
    state = tmp_path / "state"
    words = [*place.words, "--workers", "2", "--resume", str(state), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "keycairn.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if _done(state) >= 3:
                break
            time.sleep(0.01)
    finally:
        # Its workers too: the group is ours alone.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = _done(state)
    assert 3 <= before <= 60
    code, answer = ask(capfd, *words[:-1])
    assert (code, answer["resumed"], answer["verified_now"]) == (0, before, 60 - before)
    assert answer["documents"]["yes"] == 60


def _done(state: Path) -> int:
    if not state.exists():
        return 0
    db = sqlite3.connect(state, timeout=5)
    try:
        return int(db.execute("SELECT count(*) FROM documents").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


@pytest.fixture
def bucket(free_ports: Any) -> Iterator[tuple[str, Any]]:
    import boto3
    from moto.server import ThreadedMotoServer

    port = free_ports()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "id-of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="eu-west-1")
        client.create_bucket(
            Bucket="ers", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield f"s3://ers/docs?endpoint={endpoint}&region=eu-west-1", client
    server.stop()


@needs_s3
def test_documents_in_a_bucket(place: Place, bucket: tuple[str, Any], capfd: Any) -> None:
    address, client = bucket
    for path in place.folder.rglob("*.*"):
        client.upload_file(str(path), "ers", f"docs/{path.name}")
    words = [address if w == str(place.folder) else w for w in place.words]
    code, answer = ask(capfd, *words, "--workers", "2")
    assert (code, answer["keys"]) == (0, {"yes": 3, "no": 0, "cant_tell": 0})
    code, answer = ask(capfd, *[w.replace("s3://ers/", "s3://none/") for w in words])
    assert (code, answer["error"]["code"]) == (1, "E_UNAVAILABLE")
    assert "secret-of-the-tests" not in json.dumps(answer)


@needs_dask
def test_a_dask_cluster_of_real_processes(
    place: Place, tmp_path: Path, free_ports: Any, capfd: Any
) -> None:
    port = free_ports()
    address, quiet = f"tcp://127.0.0.1:{port}", {"stdout": subprocess.DEVNULL}
    python, here = sys.executable, ["--host", "127.0.0.1"]
    scheduler = [python, "-m", "distributed.cli.dask_scheduler", *here, "--port", str(port)]
    worker = [python, "-m", "distributed.cli.dask_worker", address, *here, "--nthreads", "1"]
    started = []
    try:
        for words in ([*scheduler, "--no-dashboard"], [*worker, "--no-dashboard"]):
            started.append(
                subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL, **quiet)  # type: ignore[call-overload]
            )
        code, answer = ask(capfd, *place.words, "--cluster", address)
        assert (code, answer["keys"]) == (0, {"yes": 3, "no": 0, "cant_tell": 0}), answer
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


def test_a_cluster_that_is_not_there(place: Place, free_ports: Any, capfd: Any) -> None:
    code, answer = ask(capfd, *place.words, "--cluster", f"tcp://127.0.0.1:{free_ports()}")
    assert (code, answer["error"]["code"]) == (1, "E_UNAVAILABLE")


def test_parts_of_a_document_that_was_changed_are_judged_again(place: Place, capfd: Any) -> None:
    state = ["--workers", "1", "--resume", str(place.folder.parent / "state")]
    assert ask(capfd, *place.words, *state)[0] == 0
    place.put("two.cbor", Document((part_of([C], 1, place.rsa),)))
    code, answer = ask(capfd, *place.words, *state)
    assert (code, reasons(answer)["key-c"]) == (5, ("no", "fewer than t+1 parts"))
    assert answer["verified_now"] == 1


def test_what_a_node_or_a_sink_stored_counts_as_a_document() -> None:
    """``<sha256>.kcers`` is the name in a node's store and at every sink."""
    assert all(map(is_document, (f"a/{'0' * 64}.kcers", "x.cbor", "ers-v-1.json")))
    assert not any(map(is_document, (".0.1.tmp", ".x.kcers", "manifest.json", "key.pem")))
