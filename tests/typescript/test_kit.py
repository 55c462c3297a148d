"""T-109: the TypeScript verifier, on the whole published kit and on mutated documents."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ers.test_kit import FAULTS, ONE, TWO, VALID, Kit
from ers.test_mutations import mutate
from keycairn.ers.document import Document
from keycairn.ers.verify import ExpectedKey, verify_document

SOURCE = Path(__file__).parents[2] / "verifier-ts"
NODE = 18
pytestmark = pytest.mark.slow


def _missing() -> str | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node and npm are not installed"
    ran = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"v(\d+)\.", ran.stdout)
    if found is None or int(found[1]) < NODE:
        return f"node {ran.stdout.strip()} is older than {NODE}"
    return None


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built verifier. In CI it must be possible to build it; elsewhere node may be missing."""
    why = _missing()
    if why is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    work = tmp_path_factory.mktemp("verifier-ts")
    for name in ("package.json", "package-lock.json", ".npmrc", "tsconfig.json"):
        shutil.copy(SOURCE / name, work)
    shutil.copytree(SOURCE / "src", work / "src")
    for words in (["npm", "ci"], ["npm", "run", "build"]):
        ran = subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return work / "dist"


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _job(
    data: bytes,
    spki: bytes | None,
    *,
    label: str | None = None,
    vault: str | None = None,
    keys: Iterable[tuple[Any, ...]] = (),
) -> dict[str, Any]:
    rows = [[_base64(v) if isinstance(v, bytes) else v for v in key] for key in keys]
    return {
        "file": _base64(data), "rsa": _base64(spki), "label": label, "vault": vault, "keys": rows,
    }  # fmt: skip


def _answers(dist: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All jobs in one process of node."""
    runner = Path(__file__).with_name("run.mjs")
    ran = subprocess.run(
        ["node", str(runner), str(dist / "index.js")],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(jobs)
    return answers


def _expected_keys(kit: Kit, name: str) -> list[dict[str, Any]]:
    return kit.keys(name.split(".")[0])


def test_t109_valid_documents_give_the_same_report(dist: Path) -> None:
    jobs, reports = [], []
    for kit, name in [*VALID, (TWO, "bad-ledger.cbor")]:
        data, rsa = kit.read(name), kit.rsa_of(name.split(".")[0])
        label = kit.expected["label"] if name != "bad-ledger.cbor" else None
        keys = [(k["key_id"], bytes.fromhex(k["public_key"])) for k in _expected_keys(kit, name)]
        wanted = [ExpectedKey(*key) for key in keys]
        report = verify_document(Document.load(data), rsa=rsa, expected=wanted, label=label)
        reports.append(report.to_json())
        given = [(key_id, "public_key", raw) for key_id, raw in keys]
        jobs.append(_job(data, rsa.spki, label=label, keys=given))
        # And what is said of a document about which the caller knows nothing.
        reports.append(verify_document(Document.load(data)).to_json())
        jobs.append(_job(data, None))
    assert _answers(dist, jobs) == reports


def test_t109_every_fault_is_refused_for_its_reason(dist: Path) -> None:
    found = [(kit, name, kit.fault(name)) for kit, name in FAULTS]
    jobs = [
        _job(f.data, f.rsa.spki if f.rsa else None, label=f.label, vault=f.vault, keys=f.keys)
        for _, _, f in found
    ]
    cheats = [_job(kit.read("cancelling-errors.cbor"), kit.rsa.spki) for kit in (ONE, TWO)]
    answers = _answers(dist, jobs + cheats)
    for (kit, name, fault), answer in zip(found, answers, strict=False):
        where = f"{kit.version} {name}: {answer}"
        assert answer["error"]["code"] == "E_ERS_INVALID", where
        assert answer["error"]["detail"]["check"] in fault.checks, where
        if fault.node is not None:
            assert answer["error"]["detail"]["node"] == fault.node, where
    for answer in answers[len(found) :]:
        assert answer["error"]["detail"]["check"] == "challenge"


def test_t097_mutated_documents_are_refused(dist: Path) -> None:
    random = Random(109)
    forms = [TWO.read("one.cbor"), TWO.read("one.json"), ONE.read("one.cbor"), ONE.read("one.json")]
    spkis = [TWO.rsa.spki, TWO.rsa.spki, ONE.rsa.spki, ONE.rsa.spki]
    jobs = [_job(mutate(forms[i % 4], random), spkis[i % 4]) for i in range(80)]
    for answer in _answers(dist, jobs):
        assert answer["error"]["code"] == "E_ERS_INVALID"


def _cli(dist: Path, *words: str) -> tuple[int, dict[str, Any]]:
    ran = subprocess.run(
        ["node", str(dist / "cli.js"), *words, "--json"], capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.count("\n") == 1, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_the_command_has_the_options_and_exit_codes_of_ours(dist: Path, tmp_path: Path) -> None:
    file, rsa = str(TWO.folder / "all.json"), str(TWO.folder / "rsa-public-key.pem")
    [key, *_] = TWO.keys("all")
    mine = f"{key['key_id']}={key['curve']}:{key['public_key']}"
    words = (file, "--rsa-public-key", rsa, "--public-key", mine, "--label", "kit lab\xe9l")
    code, report = _cli(dist, *words)
    wanted = [ExpectedKey(key["key_id"], bytes.fromhex(key["public_key"]), key["curve"])]
    ours = verify_document(
        Document.load(TWO.read("all.json")), rsa=TWO.rsa, expected=wanted, label="kit lab\xe9l"
    )
    assert (code, report) == (0, ours.to_json())
    (tmp_path / "not-a-key").write_text("nothing")
    for more, status, error in (
        (("--public-key", "key-a=" + "02" * 33), 5, "E_ERS_INVALID"),
        (("--record-hash", "key-a=" + "00" * 32), 5, "E_ERS_INVALID"),
        (("--label", "another"), 5, "E_ERS_INVALID"),
        (("--public-key", "key-a=XY"), 2, "E_MALFORMED"),
        (("--colour", "red"), 2, "E_MALFORMED"),
        (("--rsa-public-key", str(tmp_path / "none")), 2, "E_MALFORMED"),
        (("--rsa-public-key", str(tmp_path / "not-a-key")), 2, "E_MALFORMED"),
    ):
        code, answer = _cli(dist, file, *more)
        assert (code, answer["error"]["code"]) == (status, error), more
    assert _cli(dist, str(tmp_path / "missing"))[0] == 2
    plain = subprocess.run(
        ["node", str(dist / "cli.js"), file], capture_output=True, text=True, timeout=60
    )
    assert plain.returncode == 0
    assert "rsa_public_key: taken from the document" in plain.stdout


def test_the_lock_names_no_registry_and_only_the_two_libraries() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert not any("resolved" in entry for entry in packages.values())
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    runtime = {name for name, entry in packages.items() if not entry.get("dev")}
    assert runtime == {"node_modules/@noble/curves", "node_modules/@noble/hashes"}
