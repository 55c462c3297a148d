"""The verifier: docs/ers-format.md, 7 and 9. Public data only.

What a document says about itself proves nothing: the RSA key and the public keys come from the
caller, who has them from elsewhere. No value is both read from the document and recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Set

from .curves import Point, at
from .document import MAX_LEDGER, Document, Key, Part
from .encoding import big, tagged, to_cbor, xof
from .errors import ToolError, invalid, need
from .rsa import PublicKey, load


@dataclass(frozen=True)
class Closed:
    """A leaf that stayed closed: its number, ciphertext, masked secrets, salt."""

    k: int
    ciphertext: bytes
    z: bytes
    salt: bytes


def rsa_of(document: Document) -> PublicKey:
    """The document's RSA key, checked; E_ERS_INVALID."""
    try:
        return load(document.rsa_spki)
    except ToolError as exc:
        raise invalid("rsa", exc.message) from None


def verify(document: Document) -> None:
    """Check every part; E_ERS_INVALID with node, key and check. The caller compares RSA key,
    label and public keys with what it knows."""
    rsa_of(document)
    points = [check_sharing(key) for key in document.keys]
    for part in document.parts:
        verify_part(part, points)


def verify_part(part: Part, points: Sequence[Dict[int, Point]]) -> None:
    """Check one part; ``points`` are the decoded commitments of each key, by holder."""
    try:
        _check_proof(part, [found[part.node] for found in points])
    except ToolError as exc:
        exc.detail["node"] = part.node
        exc.message = "%s (part of node %d)" % (exc.message, part.node)
        raise


def check_sharing(key: Key) -> Dict[int, Point]:
    """The commitments by holder, decoded, after checking that they are one sharing of degree at
    most t of the public key (step 3)."""
    group, t = key.group, key.threshold
    try:
        public = group.decode(key.public_key)
        points = {i: group.decode(raw) for i, raw in zip(key.holders, key.share_commitments)}
    except ToolError as exc:
        raise invalid("point", exc.message, key.key_id) from None
    basis = key.holders[: t + 1]
    targets = {0: public, **{i: points[i] for i in key.holders[t + 1 :]}}
    for x, target in targets.items():
        total = group.combine((at(group.q, basis, i, x), points[i]) for i in basis)
        same = group.is_zero(group.add(total, group.neg(target)))
        need(same, "polynomial", "the shares are not a sharing of the public key", key.key_id)
    return points


# -- pieces of section 7


def closed_leaves(e: bytes, n: int, tau: int) -> List[int]:
    """T (7.4)."""
    words, i = xof(1 << 14, "ers/closed", e), 0
    found: Set[int] = set()
    while len(found) < tau:
        word = int.from_bytes(words[i : i + 2], "big")
        i += 2
        if word < 65536 // n * n:
            found.add(word % n + 1)
    return sorted(found)


def cover(n: int, closed: Sequence[int]) -> List[int]:
    """The nodes whose subtree has no closed leaf while their parent's has one (7.1)."""
    has = [False] * (2 * n)
    for k in closed:
        has[n + k - 1] = True
    for i in range(n - 1, 0, -1):
        has[i] = has[2 * i] or has[2 * i + 1]
    return [i for i in range(2, 2 * n) if has[i // 2] and not has[i]]


def closed_of(part: Part, size: int) -> List[Closed]:
    """The closed leaves; ``size`` is that of the modulus."""
    step = size + 32 * part.secrets + 32
    closed = closed_leaves(part.e, part.n, part.tau)
    need(len(part.leaves) == step * part.tau, "length", "the closed leaves have a wrong length")
    out = []
    for i, k in enumerate(closed):
        raw = part.leaves[i * step : (i + 1) * step]
        out.append(Closed(k, raw[:size], raw[size:-32], raw[-32:]))
    return out


def pads(part: Part, k: int, a: bytes) -> List[List[int]]:
    """The pads of a leaf, by group (7.2)."""
    out = []
    for group in part.groups:
        stream = xof(48 * group.size, "ers/pads", part.ctx, group.curve.name, k, a)
        numbers = (int.from_bytes(stream[i : i + 48], "big") for i in range(0, len(stream), 48))
        out.append([number % group.curve.q for number in numbers])
    return out


def masked(part: Part, z: bytes) -> List[List[int]]:
    """The scalars of z, by group; E_ERS_INVALID if one is not below q."""
    out, start = [], 0
    for group in part.groups:
        row = []
        for m in range(start, start + group.size):
            row.append(group.curve.scalar(z[32 * m : 32 * m + 32]))
        out.append(row)
        start += group.size
    return out


def _check_lengths(part: Part) -> None:
    need(len(part.e) == 32, "length", "e does not have 32 bytes")
    codes = 32 * len(part.chain_codes)
    if part.version == 1:
        good = len(part.box) == (codes + 16 if codes else 0)
    else:
        ledger = len(part.box) - 12 - codes - 16
        good = len(to_cbor([[] for _ in part.keys])) <= ledger <= MAX_LEDGER
    need(good, "length", "the box has a wrong length")


def _numbered(raw: bytes, nodes: Sequence[int], what: str) -> Dict[int, bytes]:
    need(len(raw) == 32 * len(nodes), "length", "the %s has a wrong length" % what)
    return {j: raw[32 * i : 32 * i + 32] for i, j in enumerate(nodes)}


def _check_proof(part: Part, points: Sequence[Point]) -> None:
    ctx, n, rsa = part.ctx, part.n, load(part.rsa_spki)
    _check_lengths(part)
    k_point = part.k_curve.decode(part.k_point)
    closed = {leaf.k: leaf for leaf in closed_of(part, rsa.size)}
    nodes = cover(n, sorted(closed))
    seeds = _numbered(part.copath, nodes, "co-path")
    merkle = _numbered(part.siblings, nodes, "list of Merkle siblings")

    # The open leaves' seeds follow from the cover's.
    for j in range(2, 2 * n):
        if j not in seeds and j // 2 in seeds:
            seeds[j] = tagged("ers/tree", ctx, j, seeds[j // 2])

    # Of every leaf: c, and the scalars whose combination A commits to.
    ciphertexts: List[bytes] = []
    values: List[List[List[int]]] = []
    for k in range(1, n + 1):
        leaf = closed.get(k)
        if leaf is None:
            raw = xof(64, "ers/leaf-seed", ctx, k, seeds[n + k - 1])
            ciphertexts.append(rsa.encrypt(ctx + big(k, 2) + raw[:32], raw[32:]))
            values.append(pads(part, k, raw[:32]))
        else:
            below = int.from_bytes(leaf.ciphertext, "big") < rsa.n
            need(below, "ciphertext", "c of leaf %d is not below the modulus" % k)
            ciphertexts.append(leaf.ciphertext)
            values.append(masked(part, leaf.z))
            merkle[n + k - 1] = tagged("ers/leaf", ctx, k, leaf.z, leaf.salt)

    for i in range(n - 1, 0, -1):
        if i not in merkle and 2 * i in merkle:
            merkle[i] = tagged("ers/merkle", ctx, i, merkle[2 * i], merkle[2 * i + 1])
    h_root = merkle[1]
    all_c = tagged("ers/ciphertexts", ctx, ciphertexts)

    # Coefficients, and - sum rho X, by group.
    rhos: List[List[int]] = []
    targets: List[Point] = []
    for group in part.groups:
        stream = xof(16 * group.size, "ers/rho", ctx, all_c, h_root, group.curve.name)
        rho = [int.from_bytes(stream[i : i + 16], "big") for i in range(0, len(stream), 16)]
        rhos.append(rho if group.size > 1 else [1])
        xs = [points[i] for i in group.keys] + ([k_point] if group.has_k else [])
        total = group.curve.combine(zip(rhos[-1], xs))
        need(not group.curve.is_zero(total), "challenge", "the combined secrets are zero")
        targets.append(group.curve.neg(total))

    announcements = []
    for k in range(1, n + 1):
        for group, rho, target, row in zip(part.groups, rhos, targets, values[k - 1]):
            q = group.curve.q
            a = group.curve.base_mul(sum(r * v for r, v in zip(rho, row)) % q)
            need(not group.curve.is_zero(a), "challenge", "an announcement is the identity")
            if k in closed:
                a = group.curve.add(a, target)
            announcements.append(group.curve.encode(a))
    again = tagged("ers/challenge", ctx, part.box, all_c, h_root, announcements)
    need(again == part.e, "challenge", "the proof does not verify")
