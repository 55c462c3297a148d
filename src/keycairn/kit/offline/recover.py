"""From a verified document and the RSA private key back to the keys (section 10 of the format).

One good closed leaf per node is enough. A malicious node can grind some bad leaves into a valid
proof, so on any mismatch the next leaf is tried, up to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .aes import gcm_decrypt
from .curves import at
from .derivation import parse_path
from .document import MAX_LEDGER, Document, Key, Part
from .encoding import big, from_cbor, hkdf, prefix, tagged
from .errors import ToolError, invalid, need
from .proof import check_sharing, closed_of, masked, pads, verify, verify_part
from .rsa import load

#: From a ciphertext to the 66 bytes, or None if it has no sound padding.
Decrypt = Callable[[bytes], Optional[bytes]]
Warn = Callable[[str], Any]
#: Of one key: its paths, and how many its node left out.
Paths = Tuple[Tuple[str, ...], int]


@dataclass(frozen=True)
class Recovered:
    """A key that came back; x*G was compared with the public key."""

    key: Key
    x: int
    chain_code: Optional[bytes]
    nodes: Tuple[int, ...]
    paths: Optional[Tuple[str, ...]]
    paths_left_out: int

    @property
    def chain_code_lost(self) -> bool:
        return self.chain_code is None and self.key.chain_code_hash is not None


@dataclass(frozen=True)
class Opened:
    """What one part gave: shares and chain codes by position, and its ledger."""

    shares: Tuple[int, ...]
    codes: Dict[int, bytes]
    ledger: Optional[List[Paths]]


def sound_parts(document: Document, warn: Warn) -> Document:
    """The document without the parts that don't verify; the last resort."""
    points = [check_sharing(key) for key in document.keys]
    good, first = [], None
    for part in document.parts:
        try:
            verify_part(part, points)
            good.append(part)
        except ToolError as exc:
            first = first or exc
            warn("a part of node %d is left out: %s" % (part.node, exc.message))
    if first is not None and not good:
        raise first
    return Document(good)


def recover(document: Document, decrypt: Decrypt, warn: Warn) -> List[Recovered]:
    """Verify, then recover every key, all or none; E_ERS_INVALID."""
    verify(document)
    for key in document.keys:
        if len(document.nodes) <= key.threshold:
            raise _too_few(key, len(document.nodes))
    found: Dict[int, Opened] = {}
    codes: Dict[int, bytes] = {}
    ledgers: List[List[Paths]] = []
    for part in document.parts:
        if part.node in found and set(codes) == set(part.chain_codes):
            continue
        opened = _open_part(part, decrypt)
        if opened is None:
            warn("no closed leaf of a part of node %d decrypts to its share" % part.node)
            continue
        found.setdefault(part.node, opened)
        codes = {**opened.codes, **codes}
        if opened.ledger is not None:
            ledgers.append(opened.ledger)
        elif part.version > 1:
            warn("the box of a part of node %d has no sound path ledger" % part.node)
    return [_assemble(i, key, found, codes, ledgers, warn) for i, key in enumerate(document.keys)]


def _too_few(key: Key, have: int) -> ToolError:
    error = invalid(
        "parts",
        "%d parts give back a share of this key, %d are needed" % (have, key.threshold + 1),
        key.key_id,
    )
    error.advice = "give the documents of more nodes together"
    return error


def _open_part(part: Part, decrypt: Decrypt) -> Optional[Opened]:
    for leaf in closed_of(part, load(part.rsa_spki).size):
        plain = decrypt(leaf.ciphertext)
        if plain is None or len(plain) != 66 or plain[:34] != part.ctx + big(leaf.k, 2):
            continue
        opened = _unmask(part, masked(part, leaf.z), pads(part, leaf.k, plain[34:]))
        if opened is not None:
            return opened
    return None


def _unmask(part: Part, z: List[List[int]], p: List[List[int]]) -> Optional[Opened]:
    shares: Dict[int, int] = {}
    secret_k = 0
    for group, z_row, p_row in zip(part.groups, z, p):
        wanted = [part.keys[i].commitment(part.node) for i in group.keys]
        wanted += [part.k_point] if group.has_k else []
        for m, (zm, pm, want) in enumerate(zip(z_row, p_row, wanted)):
            x = (zm - pm) % group.curve.q
            if x == 0 or group.curve.public(x) != want:
                return None
            if m < len(group.keys):
                shares[group.keys[m]] = x
            else:
                secret_k = x
    codes, ledger = _unseal(part, secret_k)
    return Opened(tuple(shares[i] for i in range(len(part.keys))), codes, ledger)


def _unseal(part: Part, k: int) -> Tuple[Dict[int, bytes], Optional[List[Paths]]]:
    """The chain codes whose hash is right, and the ledger if it is sound (7.5)."""
    if not part.box:
        return {}, None
    aes = hkdf(part.ctx, part.k_curve.encode_scalar(k), prefix("ers/box"), 32)
    nonce, sealed = bytes(12), part.box
    if part.version > 1:
        nonce, sealed = part.box[:12], part.box[12:]
    plain = gcm_decrypt(aes, nonce, sealed, part.ctx)
    if plain is None:
        return {}, None
    codes = {}
    for i, position in enumerate(part.chain_codes):
        code = plain[32 * i : 32 * i + 32]
        if tagged("ers/chain-code", code) == part.keys[position].chain_code_hash:
            codes[position] = code
    if part.version == 1:
        return codes, None
    try:
        return codes, _ledger(plain[32 * len(part.chain_codes) :], len(part.keys))
    except ToolError:
        return codes, None


def _ledger(data: bytes, keys: int) -> List[Paths]:
    item = from_cbor(data)
    good = len(data) <= MAX_LEDGER and isinstance(item, list) and len(item) == keys
    need(good, "ledger", "not one list for every key")
    out: List[Paths] = []
    for entry in item:
        need(isinstance(entry, list), "ledger", "not a list of paths")
        left_out = 0
        if entry and type(entry[-1]) is int:
            left_out = entry.pop()
            need(1 <= left_out <= 1 << 53, "ledger", "a wrong number of paths left out")
        need(len(entry) <= 10_000, "ledger", "too many paths")
        for text in entry:
            parse_path(text)
        need(all(a < b for a, b in zip(entry, entry[1:])), "ledger", "the paths do not rise")
        out.append((tuple(entry), left_out))
    return out


def _assemble(
    position: int,
    key: Key,
    found: Dict[int, Opened],
    codes: Dict[int, bytes],
    ledgers: Sequence[List[Paths]],
    warn: Warn,
) -> Recovered:
    if len(found) <= key.threshold:
        raise _too_few(key, len(found))
    nodes, q = tuple(sorted(found)), key.group.q
    x = _interpolate(q, nodes[: key.threshold + 1], position, found)
    agree = x == _interpolate(q, nodes, position, found)
    need(agree, "agreement", "the nodes' shares do not agree", key.key_id)
    right = x != 0 and key.group.public(x) == key.public_key
    need(right, "public key", "the recovered key has another public key", key.key_id)
    texts = {text for ledger in ledgers for text in ledger[position][0]}
    back = Recovered(
        key,
        x,
        codes.get(position),
        nodes,
        tuple(sorted(texts, key=parse_path)) if ledgers else None,
        max((ledger[position][1] for ledger in ledgers), default=0),
    )
    if back.chain_code_lost:
        warn("the chain code of %s is in no part; the key itself is recovered" % key.key_id)
    return back


def _interpolate(q: int, nodes: Sequence[int], position: int, found: Dict[int, Opened]) -> int:
    return sum(at(q, nodes, i, 0) * found[i].shares[position] for i in nodes) % q
