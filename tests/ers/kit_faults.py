"""The faults of the published kit: every class of bad input that the design names for documents.

Numbers are those of the security requirements: 87 RSA keys, 97 mutated bytes, 99 a proof for other
shares, 101 what the caller expects and what the context says, 102 splicing, 105 encodings and
lengths, 107 generations, 108 a bad part among good ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cbor2 import loads

from curves.oracle import EDWARDS, P256, SECP
from ers.helpers import with_context
from ers.weak_rsa import weak_spkis
from keycairn.encoding import canonical_cbor
from keycairn.ers.document import Document, Part

C_LEN = 384  # RSA-3072
STEP = C_LEN + 32 * 4 + 32  # three keys and K; in a leaf: key-a, K, key-p, key-b


@dataclass(frozen=True)
class Fault:
    """One bad input.

    Attributes:
        kind: number of its class.
        check: what should fail; several are separated by " or ".
        bad: the faulty file.
        base: the file of the kit that it differs from; "" keeps the faulty file whole.
        given: what the caller gives, and the node that the error names: lines of the fault file.
    """

    kind: int
    check: str
    bad: bytes
    base: str = "one.cbor"
    given: tuple[str, ...] = ()


def _leaf(part: Part, offset: int, new: bytes) -> Part:
    raw = part.leaves
    return replace(part, leaves=raw[:offset] + new + raw[offset + len(new) :])


def _flip(data: bytes, i: int) -> bytes:
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]


def _file(part: Part) -> bytes:
    return Document((part,)).to_cbor()


def proofs(part: Part, modulus: int) -> dict[str, Fault]:
    """The proof is edited."""
    a, p, b = part.context.keys
    q_a, q_b = a.group.q.to_bytes(32, "big"), b.group.q.to_bytes(32, "little")
    q_p = p.group.q.to_bytes(32, "big")
    leaves = part.leaves

    def flipped(i: int) -> Part:
        return replace(part, leaves=_flip(leaves, i))

    half = len(leaves) // 2
    found: dict[str, tuple[int, str, Part]] = {
        "e-changed": (97, "length or challenge", replace(part, e=_flip(part.e, 31))),
        "box-changed": (97, "challenge", replace(part, box=_flip(part.box, 3))),
        "box-shorter": (97, "challenge", replace(part, box=part.box[:-1])),
        "box-too-short": (105, "length", replace(part, box=part.box[: 12 + 32 * 3 + 16 + 3])),
        "box-empty": (105, "length", replace(part, box=b"")),
        "copath-changed": (97, "challenge", replace(part, copath=_flip(part.copath, 40))),
        "copath-too-long": (105, "length", replace(part, copath=part.copath + bytes(32))),
        "sibling-changed": (97, "challenge", replace(part, siblings=_flip(part.siblings, 0))),
        "siblings-too-short": (105, "length", replace(part, siblings=part.siblings[:-32])),
        "ciphertext-changed": (97, "challenge", flipped(9)),
        "ciphertext-not-below-modulus": (
            105, "ciphertext", _leaf(part, 0, modulus.to_bytes(C_LEN, "big"))
        ),
        "ciphertext-shorter": (105, "length", replace(part, leaves=leaves[1:])),
        "ciphertext-longer": (105, "length", replace(part, leaves=b"\0" + leaves)),
        "z-changed": (97, "challenge", flipped(C_LEN + 31)),
        "z-not-below-q-secp256k1": (105, "scalar", _leaf(part, C_LEN, q_a)),
        "z-not-below-q-p256": (105, "scalar", _leaf(part, C_LEN + 64, q_p)),
        "z-not-below-q-ed25519": (105, "scalar", _leaf(part, C_LEN + 96, q_b)),
        "salt-changed": (97, "challenge", flipped(STEP - 1)),
        "leaf-missing": (105, "length", replace(part, leaves=leaves[STEP:])),
        "leaf-extra": (105, "length", replace(part, leaves=leaves + leaves[:STEP])),
        "leaves-trailing-byte": (105, "length", replace(part, leaves=leaves + b"\0")),
        "leaves-cut-in-half": (97, "length", replace(part, leaves=leaves[:half])),
        "leaves-reordered": (
            105, "challenge",
            replace(part, leaves=leaves[STEP : 2 * STEP] + leaves[:STEP] + leaves[2 * STEP :]),
        ),
    }  # fmt: skip
    return {name: Fault(kind, check, _file(bad)) for name, (kind, check, bad) in found.items()}


def spliced(part: Part, other: Part) -> dict[str, Fault]:
    """T-102: what belongs to another valid part about the same keys."""
    every = bytearray(part.leaves)
    for at in range(0, len(every), STEP):
        every[at : at + C_LEN] = other.leaves[at : at + C_LEN]
    found = {
        "spliced-ciphertext": _leaf(part, 0, other.leaves[:C_LEN]),
        "spliced-ciphertexts": replace(part, leaves=bytes(every)),
        "spliced-leaf": _leaf(part, 0, other.leaves[:STEP]),
        "spliced-box": replace(part, box=other.box),
    }
    return {name: Fault(102, "challenge", _file(bad)) for name, bad in found.items()}


def contexts(part: Part) -> dict[str, Fault]:
    """The statement is edited, in its fields."""
    a, p, b = part.context.keys

    def of(**changes: object) -> Part:
        return with_context(part, **changes)

    def keys(**changes: object) -> Part:
        return of(keys=(replace(a, **changes), p, b))  # type: ignore[arg-type]

    def p256(**changes: object) -> Part:
        return of(keys=(a, replace(p, **changes), b))  # type: ignore[arg-type]

    found: dict[str, tuple[int, str, Part]] = {
        "node-changed": (101, "challenge", of(node=2)),
        "node-no-holder": (101, "holder", of(node=4)),
        "node-zero": (105, "context", of(node=0)),
        "label-changed": (101, "challenge", of(label="kit label!")),
        "label-with-escape": (105, "context", of(label="\x1b[2Jlabel")),
        "label-turning-right-to-left": (105, "context", of(label="kit \u202e label")),
        "label-too-long": (105, "context", of(label="\xe9" * 129)),
        "vault-changed": (101, "challenge", of(vault="vault-2")),
        "vault-with-space": (105, "context", of(vault="vault 1")),
        "params-changed": (101, "length", of(params_name="compact")),
        "params-unknown": (105, "params", of(params_name="tiny")),
        "salt-of-context-changed": (101, "challenge", of(salt=bytes(32))),
        "salt-of-context-short": (105, "context", of(salt=bytes(31))),
        "k-point-another": (101, "challenge", of(k_point=a.public_key)),
        "k-point-off-curve": (105, "point", of(k_point=b"\x02" + b"\xff" * 32)),
        "key-generation-changed": (101, "challenge", keys(generation=2)),
        "key-generation-zero": (105, "context", keys(generation=0)),
        "key-generation-too-large": (105, "context or encoding", keys(generation=2**53 + 1)),
        "key-chain-code-hash-changed": (101, "challenge", keys(chain_code_hash=bytes(32))),
        "key-chain-code-hash-removed": (101, "challenge", keys(chain_code_hash=None)),
        "key-record-hash-changed": (101, "challenge", keys(record_hash=bytes(32))),
        "key-public-key-another": (99, "polynomial", keys(public_key=a.share_commitments[0])),
        "key-commitments-swapped": (
            99, "polynomial", keys(share_commitments=a.share_commitments[::-1])
        ),
        "key-commitment-another": (
            99, "polynomial",
            keys(share_commitments=(a.share_commitments[0], a.public_key, a.share_commitments[2])),
        ),
        "key-commitment-missing": (105, "context", keys(share_commitments=a.share_commitments[:2])),
        "key-holders-not-rising": (105, "context", keys(holders=(1, 3, 2))),
        "key-threshold-too-high": (105, "context", keys(threshold=3)),
        "key-threshold-zero": (105, "context", keys(threshold=0)),
        "key-id-with-space": (105, "context", keys(key_id="key a")),
        "key-twice": (105, "context", of(keys=(a, p, replace(b, key_id=a.key_id)))),
        "key-curve-unknown": (105, "context", p256(curve="p384")),
        "key-on-another-curve": (105, "point or polynomial", p256(curve="secp256k1")),
        "keys-reordered": (105, "scalar or challenge", of(keys=(b, p, a))),
        "keys-empty": (105, "context", of(keys=(), k_point=a.public_key)),
        "version-1-with-p256": (105, "context", of(version=1)),
        "version-unknown": (105, "version", of(version=3)),
    }  # fmt: skip
    return {name: Fault(kind, check, _file(bad)) for name, (kind, check, bad) in found.items()}


def points(part: Part) -> dict[str, Fault]:
    """T-105: points in other encodings, off the curve, or in no prime-order group."""
    a, p, b = part.context.keys
    off_p256 = next(x for x in range(99) if not P256.has_point(x))
    x, y = SECP.decode(a.public_key)
    twisted = next(t for t in EDWARDS.torsion() if EDWARDS.encode(t) != b"\1" + bytes(31))
    y_b = int.from_bytes(b.public_key, "little") % 2**255
    mixed = EDWARDS.add((EDWARDS.x_of(y_b, b.public_key[31] >> 7), y_b), twisted)
    found: dict[str, tuple[int, str, bytes]] = {
        "point-uncompressed": (0, "context", b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")),
        "point-prefix-of-uncompressed": (0, "point", b"\4" + a.public_key[1:]),
        "point-prefix-of-identity": (0, "point", bytes(33)),
        "point-x-not-reduced": (0, "point", b"\2" + (SECP.p + 1).to_bytes(32, "big")),
        "key-point-off-p256": (1, "point", b"\2" + off_p256.to_bytes(32, "big")),
        "point-x-not-reduced-p256": (1, "point", b"\2" + (P256.p + 5).to_bytes(32, "big")),
        "key-small-order-point": (2, "point", b"\xec" + b"\xff" * 30 + b"\x7f"),
        "key-identity-ed25519": (2, "point", b"\1" + bytes(31)),
        "key-sign-of-zero-ed25519": (2, "point", b"\1" + bytes(30) + b"\x80"),
        "key-y-not-reduced-ed25519": (2, "point", b"\xf0" + b"\xff" * 30 + b"\x7f"),
        "key-mixed-order-ed25519": (2, "point", EDWARDS.encode(mixed)),
    }
    assert P256.has_point(5)
    out = {}
    for name, (i, check, raw) in found.items():
        keys = [a, p, b]
        keys[i] = replace(keys[i], public_key=raw)
        out[name] = Fault(105, check, _file(with_context(part, keys=tuple(keys))))
    return out


def rsa_keys(part: Part) -> dict[str, Fault]:
    """T-087: RSA keys that anyone could decrypt with, or that no canonical DER names."""
    nothing = ("given-rsa-public-key: none",)
    good = part.context.rsa_spki
    spkis = weak_spkis() | {
        "trailing-byte": good + b"\0",
        "pkcs1": good[24:],
        "changed": good[:-9] + bytes([good[-9] ^ 8]) + good[-8:],
    }
    out = {}
    for name, spki in spkis.items():
        check = "rsa or length or challenge" if name == "changed" else "rsa"
        given = () if name == "changed" else nothing
        bad = _file(with_context(part, rsa_spki=spki))
        out[f"rsa-{name}"] = Fault(87, check if given else "rsa", bad, given=given)
    return out


def expectations(part: Part, good: bytes) -> dict[str, Fault]:
    """T-101, T-107: a valid document, and a caller who expects another one."""
    a = part.context.keys[0]
    other = a.share_commitments[0].hex()
    found = {
        "given-key-id": (101, "key id", ("given-key: key-z",)),
        "given-curve": (101, "curve", ("given-key: key-a curve p256",)),
        "given-public-key": (101, "public key", (f"given-key: key-a public_key {other}",)),
        "given-record-hash": (101, "record hash", ("given-key: key-a record_hash " + "00" * 32,)),
        "given-generation": (107, "generation", ("given-key: key-a generation 2",)),
        "given-label": (101, "label", ("given-label: another label",)),
        "given-vault": (101, "vault", ("given-vault: vault-2",)),
        "given-rsa-key": (101, "rsa", ("given-rsa-public-key: rsa-4096-public-key.pem",)),
    }
    return {
        name: Fault(kind, check, good, given=given) for name, (kind, check, given) in found.items()
    }


def _with_raw_context(document: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    item = loads(document)
    item["parts"][0]["context"] = edit(item["parts"][0]["context"])
    return canonical_cbor(item)


def _with_fields(raw: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    item = loads(raw)
    edit(item)
    return canonical_cbor(item)


def encodings(cbor: bytes, text: bytes) -> dict[str, Fault]:
    """T-105: faults of the encoding alone."""

    def inside(edit: Callable[[dict[str, Any]], object]) -> bytes:
        return _with_raw_context(cbor, lambda raw: _with_fields(raw, edit))

    def proof(edit: Callable[[dict[str, Any]], object]) -> bytes:
        return _with_fields(cbor, lambda item: edit(item["parts"][0]))

    assert text.count(b'"node": 1,') == 1
    found: dict[str, tuple[str, bytes]] = {
        "cbor-trailing-byte": ("encoding", cbor + b"\0"),
        "cbor-cut-off": ("encoding", cbor[:-1]),
        "cbor-version-1": ("version", cbor[:-1] + b"\x01"),
        "cbor-version-3": ("version", cbor[:-1] + b"\x03"),
        "cbor-version-float": ("encoding or version", cbor[:-1] + b"\xf9\x40\x00"),
        "cbor-version-tagged": ("encoding", cbor[:-1] + b"\xc1\x02"),
        "cbor-version-true": ("encoding or version", cbor[:-1] + b"\xf5"),
        "cbor-long-integer": ("encoding", cbor[:-1] + b"\x18\x02"),
        "cbor-indefinite-map": ("encoding", b"\xbf" + cbor[1:] + b"\xff"),
        "cbor-map-not-sorted": (
            "encoding", b"\xa3gversion\x02" + cbor[1:].removesuffix(b"gversion\x02")
        ),
        "cbor-field-twice": ("encoding", b"\xa4" + cbor[1:] + b"gversion\x02"),
        "cbor-field-extra": ("encoding", _with_fields(cbor, lambda d: d.update(zzzzzzzz=1))),
        "cbor-field-missing": ("encoding", _with_fields(cbor, lambda d: d.pop("format"))),
        "cbor-text-not-utf8": (
            "encoding", cbor.replace(b"keycairn-ers\x67", b"keycairn-er\xff\x67")
        ),
        "cbor-format-another": ("encoding", _with_fields(cbor, lambda d: d.update(format="ers"))),
        "cbor-no-parts": ("parts", _with_fields(cbor, lambda d: d["parts"].clear())),
        "cbor-part-field-extra": ("encoding", proof(lambda d: d.update(z=b""))),
        "cbor-part-field-missing": ("encoding", proof(lambda d: d.pop("box"))),
        "cbor-part-e-short": ("length", proof(lambda d: d.update(e=d["e"][:31]))),
        "cbor-part-e-text": ("encoding", proof(lambda d: d.update(e="e" * 32))),
        "context-trailing-byte": ("encoding", _with_raw_context(cbor, lambda raw: raw + b"\0")),
        "context-field-extra": ("context", inside(lambda c: c.update(zzzzzzzzz=1))),
        "context-field-missing": ("context", inside(lambda c: c.pop("hash"))),
        "context-hash-another": ("context", inside(lambda c: c.update(hash="sha512"))),
        "context-format-another": ("context", inside(lambda c: c.update(format="keycairn-ers"))),
        "context-node-text": ("context", inside(lambda c: c.update(node="1"))),
        "context-key-item-extra": ("context", inside(lambda c: c["keys"][0].append(1))),
        "context-key-item-missing": ("context", inside(lambda c: c["keys"][0].pop())),
        "json-upper-case-escape": ("encoding", text.replace(b"\\u00e9", b"\\u00E9")),
        "json-upper-case-hex": ("encoding", _upper_hex(text)),
        "json-needless-escape": ("encoding", text.replace(b'"kit lab', b'"\\u006bit lab')),
        "json-not-ascii": ("encoding", text.replace(b"\\u00e9", b"\xc3\xa9")),
        "json-no-final-newline": ("encoding", text[:-1]),
        "json-carriage-return": ("encoding", text.replace(b"\n", b"\r\n", 1)),
        "json-trailing-space": ("encoding", text + b" "),
        "json-cut-off": ("encoding", text[:-3]),
        "json-duplicate-key": (
            "encoding", text.replace(b"{", b'{\n  "format": "keycairn-ers",', 1)
        ),
        "json-names-not-sorted": (
            "encoding",
            b'{\n  "version": 2,' + text[1:].replace(b',\n  "version": 2\n', b"\n"),
        ),
        "json-field-extra": (
            "encoding", text.replace(b'\n  "version": 2\n', b'\n  "version": 2,\n  "z": 1\n')
        ),
        "json-float": ("encoding", text.replace(b'"version": 2', b'"version": 2.0')),
        "json-exponent": ("encoding", text.replace(b'"node": 1,', b'"node": 1e0,')),
        "json-true-for-1": ("context", text.replace(b'"node": 1,', b'"node": true,')),
        "json-version-1": ("version", text.replace(b'\n  "version": 2', b'\n  "version": 1')),
        "json-base64-no-padding": ("encoding", _edit_e(text, lambda e: e.rstrip(b"="))),
        "json-base64-line-break": ("encoding", _edit_e(text, lambda e: e[:20] + b"\\n" + e[20:])),
        # 32 bytes leave two bits of the last character unused: both spellings decode to one e.
        "json-base64-unused-bits": ("encoding", _edit_e(text, _with_unused_bit)),
    }  # fmt: skip
    bases = {"json": "one.json", "cbor": "one.cbor", "context": "one.cbor"}
    whole = {"cbor-no-parts": ""}
    return {
        name: Fault(105, check, bad, whole.get(name, bases[name.split("-")[0]]))
        for name, (check, bad) in found.items()
    }


def _edit_e(text: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    start = text.index(b'"e": "') + 6
    end = text.index(b'"', start)
    return text[:start] + edit(text[start:end]) + text[end:]


def _with_unused_bit(e: bytes) -> bytes:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return e[:-2] + bytes([alphabet[alphabet.index(e[-2]) | 1]]) + b"="


def _upper_hex(text: bytes) -> bytes:
    start = text.index(b'"salt": "') + 9
    return text[:start] + text[start : start + 64].upper() + text[start + 64 :]


def documents(whole: Document, another_rsa: bytes) -> dict[str, Fault]:
    """T-108 and the rules of combining: something is wrong with one part of three."""
    one, two, three = whole.parts

    def file(*parts: Part) -> bytes:
        # Without Document, which would refuse them or set them right.
        item = {
            "format": "keycairn-ers",
            "version": 2,
            "parts": [loads(part.encoded) for part in parts],
        }
        return canonical_cbor(item)

    def second(**changes: object) -> bytes:
        return file(one, with_context(two, **changes), three)

    keys = two.context.keys
    newer = (replace(keys[0], generation=2), *keys[1:])
    record = (replace(keys[0], record_hash=bytes(32)), *keys[1:])
    bad = replace(two, leaves=_flip(two.leaves, C_LEN + 5))
    found: Mapping[str, tuple[int, str, bytes, tuple[str, ...]]] = {
        "part-of-node-2-bad": (108, "challenge", file(one, bad, three), ("node: 2",)),
        "parts-not-in-order": (105, "encoding", file(two, one, three), ()),
        "part-twice": (105, "encoding", file(one, one), ()),
        "mixed-labels": (101, "mixed label", second(label="another"), ()),
        "mixed-vaults": (101, "mixed vault", second(vault="vault-2"), ()),
        "mixed-params": (101, "mixed params", second(params_name="fast"), ()),
        "mixed-rsa-keys": (101, "mixed rsa", second(rsa_spki=another_rsa), ()),
        "mixed-generations": (107, "mixed generation or mixed keys", second(keys=newer), ()),
        "mixed-keys": (101, "mixed keys", second(keys=record), ()),
    }
    bases = {"parts-not-in-order": "", "part-twice": "one.cbor"}
    return {
        name: Fault(kind, check, data, bases.get(name, "all.cbor"), given)
        for name, (kind, check, data, given) in found.items()
    }
