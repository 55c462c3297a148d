"""Recovery: a verified document and an RSA private key give the keys back.

Nothing is decrypted before the whole document is verified. One good closed leaf per node is
enough; a malicious node can grind some bad leaves into a valid proof, so on any mismatch the
next leaf is tried, up to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keycairn.curves.polynomial import interpolate
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers import linear
from keycairn.ers.box import unseal
from keycairn.ers.decrypt import BadLeaf, Decryptor
from keycairn.ers.document import Document, Part
from keycairn.ers.faults import invalid
from keycairn.ers.leaf import PLAINTEXT_LEN, Leaves
from keycairn.ers.ledger import KeyPaths, by_index, merge
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.statement import KeyStatement
from keycairn.ers.verify import (
    ClosedLeaf,
    ExpectedKey,
    closed_leaves_of,
    verify_document,
    verify_part,
)


@dataclass(frozen=True)
class RecoveredKey:
    """A key that came back; its private key was checked against the public key.

    Attributes:
        statement: the key's public facts.
        private_key: the scalar x with x*G = public key. For Ed25519 this is a scalar, not an
            RFC 8032 seed.
        chain_code: 32 bytes, or None if the key has none or no box held the right one.
        nodes: whose shares were recovered and agree.
        paths: derivation paths that any of these nodes knew to be in use, by rising indices; None
            if no box had a ledger. A hint: a node may have written what it liked.
        paths_left_out: more paths that one of them knew and that did not fit.
    """

    statement: KeyStatement
    private_key: SecretScalar
    chain_code: SecretBytes | None
    nodes: tuple[int, ...]
    paths: tuple[str, ...] | None = None
    paths_left_out: int = 0

    @property
    def key_id(self) -> str:
        return self.statement.key_id

    @property
    def curve(self) -> str:
        return self.statement.curve

    @property
    def public_key(self) -> bytes:
        return self.statement.public_key

    @property
    def chain_code_lost(self) -> bool:
        """The key has a chain code and no part's box gave it."""
        return self.chain_code is None and self.statement.chain_code_hash is not None


@dataclass(frozen=True)
class Shares:
    """One node's shares, by position in the context's keys, and what its box held."""

    node: int
    shares: tuple[SecretScalar, ...]
    chain_codes: dict[int, SecretBytes]
    ledger: tuple[KeyPaths, ...] | None
    tried: int


def _open_leaf(part: Part, leaves: Leaves, leaf: ClosedLeaf, plain: bytes) -> Shares | None:
    # None if anything does not match: the next leaf may.
    context = part.context
    if len(plain) != PLAINTEXT_LEN or plain[:34] != leaves.plaintext(leaf.k, b""):
        return None
    a = plain[34:]
    shares: dict[int, SecretScalar] = {}
    secret_k = 0
    for bundle in context.bundles:
        group = bundle.group
        stream = leaves.pads(leaf.k, a, bundle)
        z = leaves.part_of(leaf.z, bundle)
        for m in range(bundle.size):
            pad = int.from_bytes(stream[m * linear.PAD_LEN : (m + 1) * linear.PAD_LEN], "big")
            x = (group.decode_scalar(z[32 * m : 32 * m + 32]) - pad) % group.q
            is_key = m < len(bundle.keys)
            key = context.keys[bundle.keys[m]] if is_key else None
            want = key.commitment(part.node) if key else context.k_point
            if x == 0 or group.base_mul(x).encode() != want:
                return None
            if is_key:
                shares[bundle.keys[m]] = SecretScalar(x)
            else:
                secret_k = x
    box = unseal(context, secret_k, part.box)
    return Shares(
        part.node,
        tuple(shares[i] for i in range(len(context.keys))),
        {i: SecretBytes(code) for i, code in box.codes.items()},
        box.ledger,
        0,
    )


def open_part(part: Part, decryptor: Decryptor) -> Shares | None:
    """One node's shares out of its *verified* part; None if every closed leaf is bad.

    Raises:
        KeycairnError: what the decryptor raises for a token failure.
    """
    leaves = Leaves(part.context, decryptor.public)
    for tried, leaf in enumerate(closed_leaves_of(part), start=1):
        try:
            plain = decryptor.decrypt(leaf.ciphertext)
        except BadLeaf:
            continue
        opened = _open_leaf(part, leaves, leaf, plain)
        if opened is not None:
            return replace(opened, tried=tried)
    return None


def _assemble(
    position: int,
    key: KeyStatement,
    found: dict[int, Shares],
    codes: dict[int, SecretBytes],
    known: KeyPaths | None,
) -> RecoveredKey:
    group = key.group
    shares = {node: opened.shares[position] for node, opened in found.items()}
    nodes = sorted(shares)
    first = interpolate(group, {i: shares[i] for i in nodes[: key.threshold + 1]})
    everyone = interpolate(group, shares)
    x = first.reveal()
    if x != everyone.reveal():
        raise invalid("agreement", "the nodes' shares do not agree", key=key.key_id)
    if x == 0 or group.base_mul(x).encode() != key.public_key:
        raise invalid("public key", "the recovered key has another public key", key=key.key_id)
    return RecoveredKey(
        key,
        first,
        codes.get(position),
        tuple(nodes),
        None if known is None else tuple(by_index(known.paths)),
        0 if known is None else known.left_out,
    )


def sound_parts(
    document: Document,
    rsa: RsaPublicKey,
    warn: Callable[[str], Any] = lambda _: None,
) -> Document:
    """The document without the parts that don't verify: a last resort, when no other copy is left.

    What remains is verified like any document; any t+1 parts are enough for a key.

    Raises:
        KeycairnError: E_ERS_INVALID if no part verifies, or if what fails isn't one node's part.
    """
    good, first = [], None
    for part in document.parts:
        try:
            verify_part(part, rsa=rsa)
        except KeycairnError as exc:
            if exc.code is not Code.ERS_INVALID or exc.detail.get("node") is None:
                raise
            first = first or exc
            warn(f"a part of node {part.node} is left out: {exc.message}")
        else:
            good.append(part)
    if not good and first is not None:
        raise first
    return Document(tuple(good))


def recover(
    document: Document,
    decryptor: Decryptor,
    *,
    expected: Sequence[ExpectedKey] = (),
    label: str | None = None,
    vault: str | None = None,
    warn: Callable[[str], Any] = lambda _: None,
) -> list[RecoveredKey]:
    """Verify a document, then recover every key in it.

    A batch costs one RSA decryption per part if no leaf is bad, at worst all closed leaves.

    Args:
        document: from :meth:`Document.load`; combine the documents of several nodes first.
        decryptor: the RSA private key that the document is for.
        expected, label, vault: as in :func:`~keycairn.ers.verify.verify_document`.
        warn: called with a sentence for what is odd but does not stop the recovery.

    Returns:
        one :class:`RecoveredKey` per key, in the document's order: all or none.

    Raises:
        KeycairnError: E_ERS_INVALID if the document does not verify, is for another RSA key, or
            has too few (good) parts for a key; what the decryptor raises for a token failure.
    """
    report = verify_document(
        document, rsa=decryptor.public, expected=expected, label=label, vault=vault
    )
    for entry in report.keys:
        if not entry.recoverable:
            raise _too_few(entry.statement, len(entry.parts))
    found: dict[int, Shares] = {}
    codes: dict[int, SecretBytes] = {}
    ledgers: list[tuple[KeyPaths, ...]] = []
    for part in document.parts:
        if part.node in found and set(codes) == set(part.context.chain_codes):
            continue
        opened = open_part(part, decryptor)
        if opened is None:
            warn(f"no closed leaf of a part of node {part.node} decrypts to its share")
            continue
        found.setdefault(part.node, opened)
        codes = {**opened.chain_codes, **codes}
        if opened.ledger is not None:
            ledgers.append(opened.ledger)
        elif part.context.version > 1:
            warn(f"the box of a part of node {part.node} has no sound path ledger")
    known = merge(ledgers, len(document.keys)) if ledgers else None
    out = []
    for position, key in enumerate(document.keys):
        if len(found) <= key.threshold:
            raise _too_few(key, len(found))
        out.append(_assemble(position, key, found, codes, known[position] if known else None))
        if out[-1].chain_code_lost:
            warn(f"the chain code of {key.key_id} is in no part; the key itself is recovered")
    return out


def _too_few(key: KeyStatement, have: int) -> KeycairnError:
    error = invalid(
        "parts",
        f"{have} parts give back a share of this key, {key.threshold + 1} are needed",
        key=key.key_id,
    )
    error.next = "give the documents of more nodes together"
    return error
