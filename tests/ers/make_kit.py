"""Writes tests/ers/kit-2, the kit of the format's version 2: ``python -m ers.make_kit`` in tests/.

The kit is for other implementations: valid documents, the RSA test keys (so that recovery can be
tested too), and one small file per fault (``kit_faults``). README.md in the kit explains the files;
docs/ers-test-kit.md lists the faults, and its table is written here. tests/ers/kit is the kit of
version 1; it was made by an earlier state of this program and is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ers import kit_faults
from ers.helpers import TestKey, document_of, make_key, part_of, prover_for
from ers.kit_faults import Fault
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document
from keycairn.ers.rsa import RsaPublicKey, to_pem

KIT = Path(__file__).with_name("kit-2")
PAGE = Path(__file__).parents[2] / "docs" / "ers-test-kit.md"
MARK = "<!-- the table below is written by tests/ers/make_kit.py -->\n"
LABEL = "kit lab\u00e9l"
A, B, P = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")
#: What each node's ledger knows.
PATHS: dict[int, dict[str, list[str]]] = {
    1: {"key-a": ["m/0/10", "m/0/2"]},
    2: {"key-a": ["m/0/2"], "key-p": ["m/7", "m"]},
    3: {},
}
ALL_PATHS = {"key-a": ["m/0/2", "m/0/10"], "key-p": ["m", "m/7"], "key-w": ["m/1"]}
KEYS = [A, P, B]
#: Each alone in a document: a P-256 key without a chain code, keys of five and of two holders.
W = make_key("key-w", "p256", chain_code=False)
FIVE = [make_key("key-5a", n=5, t=2), make_key("key-5b", "ed25519", n=5, t=2, generation=3)]
TWO = make_key("key-2", n=2, t=1)


def _rsa(bits: int) -> RsaPublicKey:
    """The kit's RSA key of that size; made once."""
    stem = "rsa" if bits == 3072 else f"rsa-{bits}"
    private = KIT / f"test-only-{stem}-key.pem"
    if not private.exists():
        made = crypto_rsa.generate_private_key(65537, bits)
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        private.write_bytes(made.private_bytes(*form))
    public = SoftwareKey.from_pem(private.read_bytes()).public
    (KIT / f"{stem}-public-key.pem").write_bytes(to_pem(public.spki))
    return public


def _patches(good: bytes, bad: bytes) -> list[tuple[int, bytes, bytes]]:
    """``(offset in good, old bytes, new bytes)`` of every stretch in which two strings differ."""
    out = []
    p = q = 0
    while p < len(good) or q < len(bad):
        if good[p : p + 1] == bad[q : q + 1]:
            p, q = p + 1, q + 1
            continue
        skip = (len(good) - p, len(bad) - q)  # the rest, unless the two meet again
        for i in range(600):
            j = bad.find(good[p + i : p + i + 24], q, q + 700) if p + i + 24 <= len(good) else -1
            if j >= 0:
                skip = (i, j - q)
                break
        out.append((p, good[p : p + skip[0]], bad[q : q + skip[1]]))
        p, q = p + skip[0], q + skip[1]
    return out


def _fault_file(name: str, fault: Fault) -> str:
    lines = ["expect: invalid", f"class: T-{fault.kind:03}", f"check: {fault.check}", *fault.given]
    if not fault.base:
        (KIT / f"{name}.cbor").write_bytes(fault.bad)
        return "\n".join([*lines, f"base: {name}.cbor", ""])
    lines.append(f"base: {fault.base}")
    for offset, old, new in _patches((KIT / fault.base).read_bytes(), fault.bad):
        lines += [f"offset: {offset}", f"old: {old.hex()}", f"new: {new.hex()}"]
    return "\n".join([*lines, ""])


def _table(faults: Mapping[str, Fault]) -> str:
    rows = ["| class | file | made from | fails at |", "| --- | --- | --- | --- |"]
    for name, f in sorted(faults.items(), key=lambda item: (item[1].kind, item[0])):
        base = f.base or f"{name}.cbor"
        rows.append(f"| T-{f.kind:03} | `{name}` | `{base}` | {f.check} |")
    return "\n".join([*rows, ""])


def _expected(key: TestKey, document: str) -> dict[str, object]:
    return {
        "key_id": key.statement.key_id,
        "curve": key.statement.curve,
        "public_key": key.statement.public_key.hex(),
        "private_key": key.statement.group.encode_scalar(key.secret).hex(),
        "chain_code": key.chain_code.reveal().hex() if key.chain_code else None,
        "document": document,
        "paths": ALL_PATHS.get(key.statement.key_id, []),
    }


def _write(files: Mapping[str, Callable[[], bytes]]) -> None:
    for name, render in files.items():
        (KIT / name).write_bytes(render())


def main() -> None:
    (KIT / "faults").mkdir(parents=True, exist_ok=True)
    rsa, legacy, large = (_rsa(bits) for bits in (3072, 2048, 4096))
    whole = Document(
        tuple(
            part_of(KEYS, i, rsa, params="balanced", label=LABEL, paths=paths)
            for i, paths in PATHS.items()
        )
    )
    one = Document(whole.parts[:1])
    p256 = document_of([W], rsa, (1, 2), label=LABEL, paths={"key-w": ["m/1"]})
    five = document_of(FIVE, legacy, (2, 4, 5), label=LABEL)
    two = document_of([TWO], large, (1, 2), label=LABEL, params="compact")
    cheat = Document((prover_for(KEYS, 1, rsa, shift=1).run(),))
    liar = Document((prover_for(KEYS, 1, rsa, ledger=b"\x83\x80\x81\x63m/x\x80").run(),))
    _write(
        {
            "all.cbor": whole.to_cbor, "all.json": whole.to_json, "one.cbor": one.to_cbor,
            "one.json": one.to_json, "p256.cbor": p256.to_cbor, "p256.json": p256.to_json,
            "five-2048.cbor": five.to_cbor, "compact-4096.cbor": two.to_cbor,
            "bad-ledger.cbor": liar.to_cbor, "cancelling-errors.cbor": cheat.to_cbor,
        }
    )  # fmt: skip
    part, good = one.parts[0], one.to_cbor()
    other = part_of(KEYS, 1, rsa, params="balanced", label=LABEL, seed="another")
    # A proof for a share that is not the one under X_1: honest in everything else.
    stranger = make_key("key-a", n=3, t=2)
    claimed = [k.statement for k in KEYS]
    false = prover_for([stranger, P, B], 1, rsa, statements=claimed).run()
    faults = {
        **kit_faults.proofs(part, rsa.n),
        **kit_faults.spliced(part, other),
        **kit_faults.contexts(part),
        **kit_faults.points(part),
        **kit_faults.rsa_keys(part),
        **kit_faults.expectations(part, good),
        **kit_faults.encodings(good, one.to_json()),
        **kit_faults.documents(whole, large.spki),
        "another-share": Fault(99, "challenge", Document((false,)).to_cbor(), ""),
    }
    for old in (KIT / "faults").iterdir():
        old.unlink()
    for name, fault in faults.items():
        assert fault.bad != good or fault.given, name
        (KIT / "faults" / f"{name}.txt").write_text(_fault_file(name, fault))
    PAGE.write_text(PAGE.read_text().split(MARK)[0] + MARK + "\n" + _table(faults))
    documents: Sequence[tuple[str, Document, Sequence[TestKey]]] = [
        ("all", whole, KEYS), ("p256", p256, [W]), ("five-2048", five, FIVE),
        ("compact-4096", two, [TWO]),
    ]  # fmt: skip
    expected = {
        "label": LABEL,
        "sha256": {name: d.sha256 for name, d, _ in documents} | {"one": one.sha256},
        "keys": [_expected(key, name) for name, _, keys in documents for key in keys],
    }
    (KIT / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
