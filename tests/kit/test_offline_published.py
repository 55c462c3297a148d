"""The offline tool on the whole published kits of the format, and beside ``keycairn-recover``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ers.test_kit import BOTH, FAULTS, ONE, TWO, VALID, Kit
from ers.tool import result as recover_tool
from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.kit.offline import document as plain
from keycairn.kit.offline import pem, proof, recover, rsa
from keycairn.kit.offline.errors import ToolError
from keycairn.kit.offline.expect import Expected, compare
from kit.tool import gives, refuses, result

IDS = {"ids": lambda v: getattr(v, "version", v)}


#: A few seconds each, and nothing that smaller ones don't show.
LONG = pytest.mark.full


@pytest.mark.parametrize(
    ("kit", "file"),
    [pytest.param(*v, marks=LONG) if "compact" in v[1] else v for v in VALID],
    **IDS,
)
def test_t096_valid_documents(kit: Kit, file: str) -> None:
    name = file.split(".")[0]
    document = plain.load(kit.read(file))
    facts = [(k["key_id"], "public_key", bytes.fromhex(k["public_key"])) for k in kit.keys(name)]
    want = Expected(rsa.load(kit.rsa_of(name).spki), kit.expected["label"], None, list(facts))
    compare([document], want)
    proof.verify(document)
    assert document.sha256 == kit.expected["sha256"][name]
    assert document.version == kit.version


@pytest.mark.parametrize(
    ("kit", "name"),
    [pytest.param(*f, marks=LONG) if f[0] is ONE else f for f in FAULTS],
    **IDS,
)
def test_t097_t105_every_fault_is_refused(kit: Kit, name: str) -> None:
    fault = kit.fault(name)
    key = rsa.load(fault.rsa.spki) if fault.rsa else None
    facts = [(k[0], *(k[1:] or (None, None))) for k in fault.keys]

    def check() -> None:
        document = plain.load(fault.data)
        compare([document], Expected(key, fault.label, fault.vault, facts))
        proof.verify(document)

    with pytest.raises(ToolError) as caught:
        check()
    assert caught.value.code == "E_ERS_INVALID"
    assert caught.value.detail["check"]
    if fault.node is not None and caught.value.detail["check"] in ("challenge", "scalar"):
        assert caught.value.detail["node"] == fault.node


@BOTH
def test_cancelling_errors_are_refused(kit: Kit) -> None:
    with pytest.raises(ToolError) as caught:
        proof.verify(plain.load(kit.read("cancelling-errors.cbor")))
    assert caught.value.detail["check"] == "challenge"


def test_a_bad_ledger_costs_nothing_but_its_paths() -> None:
    document = plain.load(TWO.read("bad-ledger.cbor"))
    proof.verify(document)
    key = pem.load_private(TWO.read("test-only-rsa-key.pem"), None)
    opened = recover._open_part(document.parts[0], key.decrypt)
    assert opened is not None
    assert opened.ledger is None
    assert len(opened.codes) == 3


@pytest.mark.parametrize(
    ("kit", "file"),
    [
        (ONE, "all.cbor"),
        (TWO, "all.json"),
        (TWO, "p256.json"),
        (TWO, "five-2048.cbor"),
        pytest.param(TWO, "compact-4096.cbor", marks=LONG),
    ],
    **IDS,
)
def test_it_writes_the_files_of_keycairn_recover(
    kit: Kit, file: str, tool: Path, tmp_path: Path
) -> None:
    """Every file is the same, byte for byte, but those that only the larger tool writes."""
    bits = file.split(".")[0].rpartition("-")[2]
    stem = f"rsa-{bits}" if bits.isdigit() else "rsa"
    words = [kit.folder / file, "--rsa-key", kit.folder / f"test-only-{stem}-key.pem"]
    ours = result(tool, "recover", *words, "--out", tmp_path / "ours", "--allow-network")
    recover_tool(*words, "--out", tmp_path / "theirs", "--allow-network")
    made = {path.name: path for path in (tmp_path / "ours").iterdir()}
    wanted = {
        path.name: path.read_bytes()
        for path in (tmp_path / "theirs").iterdir()
        if not path.name.endswith(".descriptors.json")
    }
    assert {name: path.read_bytes() for name, path in made.items()} == wanted
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.values())
    keys = {k["key_id"]: k for k in kit.keys(file.split(".")[0])}
    assert {row["key_id"]: row["public_key"] for row in ours["recovered"]} == {
        key_id: k["public_key"] for key_id, k in keys.items()
    }
    assert all(keys[row["key_id"]]["private_key"] not in str(ours) for row in ours["recovered"])


def test_one_node_is_too_few_and_two_nodes_files_are_enough(tmp_path: Path) -> None:
    key = ["--rsa-key", TWO.folder / "test-only-rsa-key.pem", "--allow-network"]
    out = ["--out", tmp_path / "o"]
    found = refuses(5, "E_ERS_INVALID", "recover", TWO.folder / "one.cbor", *key, *out)
    assert found["detail"]["check"] == "parts"
    assert not (tmp_path / "o").exists()
    # One file per node: together they are the document.
    whole = plain.load(TWO.read("all.cbor"))
    files = []
    for part in whole.parts[1:]:
        item = {"parts": [decode_cbor(part.encoded)], "format": "keycairn-ers", "version": 2}
        files.append(tmp_path / f"node{part.node}.cbor")
        files[-1].write_bytes(canonical_cbor(item))
    done = gives("recover", *files, *key, *out)
    assert len(done["recovered"]) == 3
