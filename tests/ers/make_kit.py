"""Writes tests/ers/kit-2, the kit of the format's version 2: ``python -m ers.make_kit`` in tests/.

The kit is for other implementations: valid documents, the RSA test key (so that recovery can be
tested too), and one small file per fault. README.md in the kit explains the files. tests/ers/kit is
the kit of version 1; it was made by an earlier state of this program and is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from curves.oracle import P256
from ers.helpers import document_of, make_key, part_of, prover_for, with_context
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document, Part
from keycairn.ers.rsa import to_pem

KIT = Path(__file__).with_name("kit-2")
A, B, P = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")
#: What each node's ledger knows.
PATHS: dict[int, dict[str, list[str]]] = {
    1: {"key-a": ["m/0/10", "m/0/2"]},
    2: {"key-a": ["m/0/2"], "key-p": ["m/7", "m"]},
    3: {},
}
ALL_PATHS = {"key-a": ["m/0/2", "m/0/10"], "key-p": ["m", "m/7"]}
KEYS = [A, P, B]
C_LEN = 384  # RSA-3072
STEP = C_LEN + 32 * 4 + 32  # three keys and K; in a leaf: key-a, K, key-p, key-b


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


def _leaf(part: Part, offset: int, new: bytes) -> Part:
    raw = part.leaves
    return replace(part, leaves=raw[:offset] + new + raw[offset + len(new) :])


def _flip(data: bytes, i: int) -> bytes:
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]


def faults(part: Part, modulus: int) -> dict[str, tuple[str, Part]]:
    """Name -> (check that fails, faulty part)."""
    a, p, b = part.context.keys
    q_a, q_b = a.group.q.to_bytes(32, "big"), b.group.q.to_bytes(32, "little")
    q_p = p.group.q.to_bytes(32, "big")
    off_p256 = b"\2" + next(x for x in range(99) if not P256.has_point(x)).to_bytes(32, "big")
    leaves = part.leaves

    def keys(**changes: object) -> Part:
        return with_context(part, keys=(replace(a, **changes), p, b))  # type: ignore[arg-type]

    def p256(**changes: object) -> Part:
        return with_context(part, keys=(a, replace(p, **changes), b))  # type: ignore[arg-type]

    def flipped(i: int) -> Part:
        return replace(part, leaves=_flip(leaves, i))

    return {
        "e-changed": ("length or challenge", replace(part, e=_flip(part.e, 31))),
        "box-changed": ("challenge", replace(part, box=_flip(part.box, 3))),
        "box-shorter": ("challenge", replace(part, box=part.box[:-1])),
        "box-too-short": ("length", replace(part, box=part.box[: 12 + 32 * 3 + 16 + 3])),
        "box-empty": ("length", replace(part, box=b"")),
        "copath-changed": ("challenge", replace(part, copath=_flip(part.copath, 40))),
        "copath-too-long": ("length", replace(part, copath=part.copath + bytes(32))),
        "sibling-changed": ("challenge", replace(part, siblings=_flip(part.siblings, 0))),
        "siblings-too-short": ("length", replace(part, siblings=part.siblings[:-32])),
        "ciphertext-changed": ("challenge", flipped(9)),
        "ciphertext-not-below-modulus": (
            "ciphertext",
            _leaf(part, 0, modulus.to_bytes(C_LEN, "big")),
        ),
        "z-changed": (
            "challenge",
            _leaf(part, C_LEN + 31, _flip(leaves, C_LEN + 31)[C_LEN + 31 :][:1]),
        ),
        "z-not-below-q-secp256k1": ("scalar", _leaf(part, C_LEN, q_a)),
        "z-not-below-q-p256": ("scalar", _leaf(part, C_LEN + 64, q_p)),
        "z-not-below-q-ed25519": ("scalar", _leaf(part, C_LEN + 96, q_b)),
        "salt-changed": (
            "challenge",
            _leaf(part, STEP - 1, _flip(leaves, STEP - 1)[STEP - 1 : STEP]),
        ),
        "leaf-missing": ("length", replace(part, leaves=leaves[STEP:])),
        "leaf-extra": ("length", replace(part, leaves=leaves + leaves[:STEP])),
        "leaves-reordered": (
            "challenge",
            replace(part, leaves=leaves[STEP : 2 * STEP] + leaves[:STEP] + leaves[2 * STEP :]),
        ),
        "node-changed": ("challenge", with_context(part, node=2)),
        "node-no-holder": ("holder", with_context(part, node=4)),
        "label-changed": ("challenge", with_context(part, label="kit label!")),
        "label-with-escape": ("context", with_context(part, label="\x1b[2Jlabel")),
        "vault-changed": ("challenge", with_context(part, vault="vault-2")),
        "params-changed": ("length", with_context(part, params_name="compact")),
        "params-unknown": ("params", with_context(part, params_name="tiny")),
        "salt-of-context-changed": ("challenge", with_context(part, salt=bytes(32))),
        "k-point-another": ("challenge", with_context(part, k_point=a.public_key)),
        "k-point-off-curve": ("point", with_context(part, k_point=b"\x02" + b"\xff" * 32)),
        "key-generation-changed": ("challenge", keys(generation=2)),
        "key-chain-code-hash-changed": ("challenge", keys(chain_code_hash=bytes(32))),
        "key-record-hash-changed": ("challenge", keys(record_hash=bytes(32))),
        "key-public-key-another": ("polynomial", keys(public_key=a.share_commitments[0])),
        "key-commitments-swapped": (
            "polynomial",
            keys(share_commitments=a.share_commitments[::-1]),
        ),
        "key-threshold-too-high": ("context", keys(threshold=3)),
        "key-twice": ("context", with_context(part, keys=(a, p, replace(b, key_id=a.key_id)))),
        "key-small-order-point": (
            "point",
            with_context(
                part, keys=(a, p, replace(b, public_key=b"\xec" + b"\xff" * 30 + b"\x7f"))
            ),
        ),
        "key-point-off-p256": ("point", p256(public_key=off_p256)),
        "key-on-another-curve": ("point or polynomial", p256(curve="secp256k1")),
        "key-curve-unknown": ("context", p256(curve="p384")),
        "keys-reordered": ("scalar or challenge", with_context(part, keys=(b, p, a))),
        "version-1-with-p256": ("context", with_context(part, version=1)),
        "version-unknown": ("version", with_context(part, version=3)),
    }


def encodings(cbor: bytes, text: bytes) -> dict[str, tuple[str, bytes, bytes]]:
    """Name -> (base file, base, faulty bytes) for faults of the encoding alone."""
    return {
        "cbor-trailing-byte": ("one.cbor", cbor, cbor + b"\0"),
        "cbor-cut-off": ("one.cbor", cbor, cbor[:-1]),
        "cbor-version-1": ("one.cbor", cbor, cbor[:-1] + b"\x01"),
        "cbor-version-3": ("one.cbor", cbor, cbor[:-1] + b"\x03"),
        "cbor-long-integer": ("one.cbor", cbor, cbor[:-1] + b"\x18\x02"),
        "cbor-indefinite-map": ("one.cbor", cbor, b"\xbf" + cbor[1:] + b"\xff"),
        "json-upper-case-hex": ("one.json", text, text.replace(b"\\u00e9", b"\\u00E9")),
        "json-no-final-newline": ("one.json", text, text[:-1]),
        "json-duplicate-key": (
            "one.json", text, text.replace(b"{", b'{\n  "format": "keycairn-ers",', 1),
        ),
        "json-float": ("one.json", text, text.replace(b'"version": 2', b'"version": 2.0')),
        "json-version-1": (
            "one.json", text, text.replace(b'\n  "version": 2', b'\n  "version": 1'),
        ),
    }  # fmt: skip


def main() -> None:
    (KIT / "faults").mkdir(parents=True, exist_ok=True)
    pem_file = KIT / "test-only-rsa-key.pem"
    if not pem_file.exists():
        pem_file.write_bytes((KIT.with_name("kit") / pem_file.name).read_bytes())
    rsa = SoftwareKey.from_pem(pem_file.read_bytes()).public
    (KIT / "rsa-public-key.pem").write_bytes(to_pem(rsa.spki))
    label = "kit lab\u00e9l"
    whole = Document(
        tuple(
            part_of(KEYS, i, rsa, params="balanced", label=label, paths=paths)
            for i, paths in PATHS.items()
        )
    )
    one = Document(whole.parts[:1])
    alone = make_key("key-w", "p256", chain_code=False)
    p256 = document_of([alone], rsa, (1, 2), label=label, paths={"key-w": ["m/1"]})
    cheat = Document((prover_for(KEYS, 1, rsa, shift=1).run(),))
    liar = Document((prover_for(KEYS, 1, rsa, ledger=b"\x83\x80\x81\x63m/x\x80").run(),))
    files: dict[str, Callable[[], bytes]] = {
        "all.cbor": whole.to_cbor, "all.json": whole.to_json, "one.cbor": one.to_cbor,
        "one.json": one.to_json, "p256.cbor": p256.to_cbor, "p256.json": p256.to_json,
        "bad-ledger.cbor": liar.to_cbor, "cancelling-errors.cbor": cheat.to_cbor,
    }  # fmt: skip
    for name, render in files.items():
        (KIT / name).write_bytes(render())
    for old in (KIT / "faults").iterdir():
        old.unlink()
    base = one.to_cbor()
    found = {
        name: ("one.cbor", base, Document((part,)).to_cbor(), check)
        for name, (check, part) in faults(one.parts[0], rsa.n).items()
    }
    for name, (file, good, bad) in encodings(base, one.to_json()).items():
        found[name] = (file, good, bad, "version" if "-version-" in name else "encoding")
    for name, (file, good, bad, check) in found.items():
        lines = ["expect: invalid", f"check: {check}", f"base: {file}"]
        for offset, old, new in _patches(good, bad):
            lines += [f"offset: {offset}", f"old: {old.hex()}", f"new: {new.hex()}"]
        lines.append("")
        (KIT / "faults" / f"{name}.txt").write_text("\n".join(lines))
    expected = {
        "label": label,
        "sha256": {"all": whole.sha256, "one": one.sha256, "p256": p256.sha256},
        "keys": [
            {
                "key_id": k.statement.key_id,
                "curve": k.statement.curve,
                "public_key": k.statement.public_key.hex(),
                "private_key": k.statement.group.encode_scalar(k.secret).hex(),
                "chain_code": k.chain_code.reveal().hex() if k.chain_code else None,
                "document": "p256" if k is alone else "all",
                "paths": ["m/1"] if k is alone else ALL_PATHS.get(k.statement.key_id, []),
            }
            for k in (*KEYS, alone)
        ],
    }
    (KIT / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
