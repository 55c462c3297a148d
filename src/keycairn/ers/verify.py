"""The verifier (docs/ers-format.md, section 9): public data only, offline.

What a document says about itself proves nothing. The RSA key and, for every key that matters,
the public key come from the caller; whatever the caller did not give stands in the report's
``not_checked``. No value is both read from the document and recomputed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.curves import Point
from keycairn.ers import merkle, tree
from keycairn.ers.box import box_lengths
from keycairn.ers.challenge import challenge, closed_leaves, coefficients, hash_ciphertexts
from keycairn.ers.context import SECRET_LEN, Bundle, Context
from keycairn.ers.document import Document, Part
from keycairn.ers.faults import as_invalid, invalid
from keycairn.ers.leaf import Leaves
from keycairn.ers.linear import Combiner
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.statement import HASH_LEN, KeyStatement

COMPLETE = "COMPLETE"
PARTIAL = "PARTIAL"


@dataclass(frozen=True)
class ExpectedKey:
    """What the caller knows about a key, from elsewhere than the document.

    Attributes:
        key_id: the key.
        public_key: its encoded public key; None leaves it unchecked.
        curve, generation, record_hash: checked when given.
    """

    key_id: str
    public_key: bytes | None = None
    curve: str | None = None
    generation: int | None = None
    record_hash: bytes | None = None


@dataclass(frozen=True)
class ClosedLeaf:
    """A leaf that stayed closed: number k (1..N), ciphertext, masked secrets, salt."""

    k: int
    ciphertext: bytes
    z: bytes
    salt: bytes


@dataclass(frozen=True)
class KeyReport:
    """A key of a verified document; ``parts`` are the nodes whose share it gives back."""

    statement: KeyStatement
    parts: tuple[int, ...]

    @property
    def status(self) -> str:
        """COMPLETE with the parts of all holders, else ``PARTIAL k/n``."""
        have, all_ = len(self.parts), len(self.statement.holders)
        return COMPLETE if have == all_ else f"{PARTIAL} {have}/{all_}"

    @property
    def recoverable(self) -> bool:
        """Whether t+1 parts are there."""
        return len(self.parts) > self.statement.threshold

    def to_json(self) -> dict[str, Any]:
        s = self.statement
        return {
            "key_id": s.key_id,
            "curve": s.curve,
            "scheme": s.scheme,
            "public_key": s.public_key.hex(),
            "generation": s.generation,
            "record_hash": s.record_hash.hex(),
            "threshold": s.threshold,
            "holders": list(s.holders),
            "status": self.status,
            "parts": list(self.parts),
            "recoverable": self.recoverable,
        }


@dataclass(frozen=True)
class VerifyReport:
    """What a verified document is. There is no report for an invalid one.

    Attributes:
        sha256: the document's name.
        label, vault, params: from the contexts, equal in all parts.
        rsa_spki_sha256, rsa_bits: the RSA key under which the shares are encrypted.
        nodes: the nodes whose parts are there.
        keys: one report per key.
        not_checked: what the caller did not give and the document alone cannot prove.
    """

    sha256: str
    label: str
    vault: str
    params: str
    rsa_spki_sha256: str
    rsa_bits: int
    nodes: tuple[int, ...]
    keys: tuple[KeyReport, ...]
    not_checked: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every key is COMPLETE."""
        return all(key.status == COMPLETE for key in self.keys)

    def to_json(self) -> dict[str, Any]:
        """The object that ``ers verify --json`` prints."""
        return {
            "valid": True,
            "sha256": self.sha256,
            "label": self.label,
            "vault": self.vault,
            "params": self.params,
            "rsa_spki_sha256": self.rsa_spki_sha256,
            "rsa_bits": self.rsa_bits,
            "nodes": list(self.nodes),
            "not_checked": list(self.not_checked),
            "keys": [key.to_json() for key in self.keys],
        }


def split_leaves(part: Part, closed: Sequence[int], size: int) -> list[ClosedLeaf]:
    """The closed leaves of a part, after exact length checks (E_ERS_INVALID)."""
    z_len = SECRET_LEN * part.context.secrets
    step = size + z_len + HASH_LEN
    if len(part.leaves) != step * len(closed):
        raise invalid("length", "the closed leaves have the wrong length", node=part.node)
    out = []
    for k, at in zip(closed, range(0, len(part.leaves), step), strict=True):
        raw = part.leaves[at : at + step]
        out.append(ClosedLeaf(k, raw[:size], raw[size : size + z_len], raw[size + z_len :]))
    return out


def closed_leaves_of(part: Part) -> list[ClosedLeaf]:
    """The closed leaves of a part whose proof was verified."""
    context = part.context
    closed = closed_leaves(part.e, context.params)
    return split_leaves(part, closed, context.rsa().size)


def _numbered(raw: bytes, nodes: Sequence[int], what: str, node: int) -> dict[int, bytes]:
    if len(raw) != HASH_LEN * len(nodes):
        raise invalid("length", f"the {what} has the wrong length", node=node)
    return {i: raw[HASH_LEN * j : HASH_LEN * (j + 1)] for j, i in enumerate(nodes)}


def _check_scalars(z: bytes, bundle: Bundle, context: Context) -> None:
    # Canonical scalars below q, compared as big-endian byte strings.
    group = bundle.group
    bound = group.q.to_bytes(SECRET_LEN, "big")
    for m in range(bundle.size):
        raw = z[m * SECRET_LEN : (m + 1) * SECRET_LEN]
        if (raw if group.byteorder == "big" else raw[::-1]) >= bound:
            key = context.keys[bundle.keys[m]].key_id if m < len(bundle.keys) else None
            raise invalid("scalar", "a masked secret is not below the group order", key=key)


def _announce(bundle: Bundle, combiner: Combiner, z: bytes, target: Point) -> bytes:
    # A of a closed leaf: (sum rho z) G - sum rho X. ``target`` is -sum rho X.
    return bundle.group.add([bundle.group.base_mul(combiner.scalars(z)), target]).encode()


def check_proof(part: Part, points: Sequence[Point], rsa: RsaPublicKey) -> None:
    """Steps 1 and 3 of the verifier for one part.

    Args:
        part: the part; its context's shape is checked already.
        points: X_m of the part's node for every key, decoded, in the context's order.
        rsa: the RSA key, equal to the context's.

    Raises:
        KeycairnError: E_ERS_INVALID naming the node and the check.
    """
    with as_invalid("proof", node=part.node):
        _check_proof(part, points, rsa)


def _check_proof(part: Part, points: Sequence[Point], rsa: RsaPublicKey) -> None:
    context = part.context
    ctx, p, bundles = context.ctx, context.params, context.bundles
    if len(part.box) not in box_lengths(context):
        raise invalid("length", "the box has the wrong length")
    with as_invalid("point"):
        k_point = context.k_group.decode_point(context.k_point)
    closed = closed_leaves(part.e, p)
    cover = tree.cover(p.leaves, closed)
    seeds = tree.regrow(ctx, p.leaves, _numbered(part.copath, cover, "co-path", part.node))
    siblings = _numbered(part.siblings, cover, "list of Merkle siblings", part.node)
    hidden = {leaf.k: leaf for leaf in split_leaves(part, closed, rsa.size)}
    leaves = Leaves(context, rsa)
    for leaf in hidden.values():
        if int.from_bytes(leaf.ciphertext, "big") >= rsa.n:
            raise invalid("ciphertext", f"c of leaf {leaf.k} is not below the modulus")
        for bundle in bundles:
            _check_scalars(leaves.part_of(leaf.z, bundle), bundle, context)

    opened: dict[int, bytes] = {}
    ciphertexts: list[bytes] = []
    for k in range(1, p.leaves + 1):
        if k in hidden:
            ciphertexts.append(hidden[k].ciphertext)
        else:
            opened[k], coins = leaves.open_seed(k, seeds[p.leaves + k - 1])
            ciphertexts.append(leaves.ciphertext(k, opened[k], coins))
    h_root = merkle.root(
        ctx,
        p.leaves,
        {k: leaves.commitment(k, leaf.z, leaf.salt) for k, leaf in hidden.items()},
        siblings,
    )
    c_hash = hash_ciphertexts(ctx, ciphertexts)
    rhos = [coefficients(ctx, c_hash, h_root, bundle) for bundle in bundles]
    combiners = leaves.combiners(rhos)
    targets: list[Point] = []
    for bundle, rho in zip(bundles, rhos, strict=True):
        secrets = [points[i] for i in bundle.keys] + ([k_point] if bundle.has_k else [])
        total = bundle.group.combine(zip(rho, secrets, strict=True))
        targets.append(bundle.group.neg(total))

    announcements: list[bytes] = []
    for k in range(1, p.leaves + 1):
        for bundle, combiner, target in zip(bundles, combiners, targets, strict=True):
            if k in hidden:
                z = leaves.part_of(hidden[k].z, bundle)
                announcements.append(_announce(bundle, combiner, z, target))
            else:
                value = combiner.pads(leaves.pads(k, opened[k], bundle))
                announcements.append(bundle.group.base_mul(value).encode())
    if challenge(ctx, part.box, c_hash, h_root, announcements) != part.e:
        raise invalid("challenge", "the proof does not verify")


def _check_expected(keys: Sequence[KeyStatement], expected: Sequence[ExpectedKey]) -> None:
    by_id = {key.key_id: key for key in keys}
    for want in expected:
        key = by_id.get(want.key_id)
        if key is None:
            raise invalid("key id", "the document has no such key", key=want.key_id)
        for check, given, found in (
            ("curve", want.curve, key.curve),
            ("public key", want.public_key, key.public_key),
            ("generation", want.generation, key.generation),
            ("record hash", want.record_hash, key.record_hash),
        ):
            if given is not None and given != found:
                raise invalid(
                    check, f"the key has another {check} than the caller expects", key=key.key_id
                )


def _not_checked(
    keys: Sequence[KeyStatement],
    expected: Sequence[ExpectedKey],
    rsa: RsaPublicKey | None,
    label: str | None,
    vault: str | None,
) -> tuple[str, ...]:
    out = []
    if rsa is None:
        out.append("rsa_public_key: taken from the document")
    if label is None:
        out.append("label")
    if vault is None:
        out.append("vault")
    for key in keys:
        wants = [want for want in expected if want.key_id == key.key_id]
        if not any(want.public_key is not None for want in wants):
            out.append(f"public_key of {key.key_id}: taken from the document")
        if not any(want.generation is not None for want in wants):
            out.append(f"generation of {key.key_id}")
        if not any(want.record_hash is not None for want in wants):
            out.append(f"record_hash of {key.key_id}")
    if any(key.chain_code_hash is not None for key in keys):
        out.append("chain codes: a single node's box may hold a wrong one, t+1 parts may not")
    return tuple(out)


def _rsa_for(context: Context, rsa: RsaPublicKey | None) -> RsaPublicKey:
    with as_invalid("rsa"):
        if rsa is None:
            return load_rsa_public_key(context.rsa_spki, allow_2048=True)
        checked = load_rsa_public_key(rsa.spki, allow_2048=True)
    if context.rsa_spki != checked.spki:
        wanted = hashlib.sha256(context.rsa_spki).hexdigest()
        error = invalid(
            "rsa",
            f"the document is for the RSA key {wanted}, not for the one given, "
            f"{checked.spki_sha256} (SHA-256 of SubjectPublicKeyInfo)",
        )
        error.next = "use the RSA key that the document is for; the document itself may be good"
        raise error
    return checked


def _check_context(context: Context, label: str | None, vault: str | None) -> None:
    if label is not None and context.label != label:
        raise invalid("label", "the document has another label", node=context.node)
    if vault is not None and context.vault != vault:
        raise invalid("vault", "the document is of another vault", node=context.node)


def verify_part(
    part: Part,
    *,
    rsa: RsaPublicKey | None,
    expected: Sequence[ExpectedKey] = (),
    label: str | None = None,
    vault: str | None = None,
    node: int | None = None,
) -> None:
    """Verify one part, as a peer does before it counts it.

    Args:
        part: from :meth:`Part.from_cbor` or :func:`~keycairn.ers.prove.make_part`.
        rsa: the RSA key, from the caller's own list; None takes the document's (no proof of
            anything then).
        expected: what the caller knows of the keys; each must be in the part.
        label, vault, node: compared when given.

    Raises:
        KeycairnError: E_ERS_INVALID; ``detail`` has check, node and key.
    """
    verify_document(Document((part,)), rsa=rsa, expected=expected, label=label, vault=vault)
    if node is not None and part.node != node:
        raise invalid("node", "the part is of another node", node=part.node)


def verify_document(
    document: Document,
    *,
    rsa: RsaPublicKey | None = None,
    expected: Sequence[ExpectedKey] = (),
    label: str | None = None,
    vault: str | None = None,
) -> VerifyReport:
    """Verify every part of a document with public data.

    Args:
        document: from :meth:`Document.load`.
        rsa: the RSA public key, from the caller. Without it the key in the document is used
            for consistency only, and the report says so.
        expected: what the caller knows of the keys, from elsewhere. Keys without an entry are
            checked for consistency only, and the report says so.
        label, vault: compared when given.

    Returns:
        the report; a document with fewer parts than holders is valid and PARTIAL.

    Raises:
        KeycairnError: E_ERS_INVALID; ``detail`` names check, node and key.
    """
    context = document.context
    key_used = _rsa_for(context, rsa)
    _check_context(context, label, vault)
    _check_expected(document.keys, expected)
    points = [key.check_points() for key in document.keys]
    for part in document.parts:
        check_proof(part, [by_node[part.node] for by_node in points], key_used)
    return VerifyReport(
        sha256=document.sha256,
        label=context.label,
        vault=context.vault,
        params=context.params_name,
        rsa_spki_sha256=key_used.spki_sha256,
        rsa_bits=key_used.bits,
        nodes=document.nodes,
        keys=tuple(KeyReport(key, document.nodes) for key in document.keys),
        not_checked=_not_checked(document.keys, expected, rsa, label, vault),
    )
