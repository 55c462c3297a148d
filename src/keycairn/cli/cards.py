"""A node's card: what the operators of a new vault hand to each other. All of it is public.

    {"keycairn_card": 1, "vault": "treasury", "nodes": 3, "threshold": 1, "index": 2,
     "public_key": "…64 hexadecimal digits…", "address": "wss://node2.example.org:9000"}

Whoever can change a card on its way can put himself in a node's place. So operators compare the
*fingerprint of the vault*, one short value over all its cards, by voice: it is equal at all of them
if, and only if, all have the same cards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.cli.options import read_file
from keycairn.curves import ED25519
from keycairn.encoding import canonical_json
from keycairn.encoding.strict import decode_hex, decode_json
from keycairn.errors import Code, KeycairnError, malformed

VERSION = 1
_FIELDS = {"keycairn_card", "vault", "nodes", "threshold", "index", "public_key", "address"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_ADDRESS = re.compile(r"wss://[A-Za-z0-9.\-\[\]:]{1,253}:[0-9]{1,5}\Z")
_LARGEST = 4096
#: Bytes of a fingerprint: two sets of cards with the same one take 2^80 trials.
_FINGERPRINT_BYTES = 20


@dataclass(frozen=True)
class Card:
    """One node, as its peers need to know it."""

    vault: str
    nodes: int
    threshold: int
    index: int
    public_key: bytes
    address: str

    def to_json(self) -> dict[str, Any]:
        """The content of a card's file."""
        return {
            "keycairn_card": VERSION,
            "vault": self.vault,
            "nodes": self.nodes,
            "threshold": self.threshold,
            "index": self.index,
            "public_key": self.public_key.hex(),
            "address": self.address,
        }

    @property
    def fingerprint(self) -> str:
        """Of this card: 40 hexadecimal digits in groups of four."""
        return _fingerprint(b"keycairn/card/v1", self.to_json())


def vault_fingerprint(cards: Iterable[Card]) -> str:
    """Of all cards of a vault, in any order."""
    found = sorted(cards, key=lambda c: c.index)
    return _fingerprint(b"keycairn/cards/v1", [c.to_json() for c in found])


def _fingerprint(tag: bytes, value: Any) -> str:
    digest = hashlib.sha256(tag + b"\0" + canonical_json(value)).hexdigest()
    digits = digest[: 2 * _FINGERPRINT_BYTES]
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def check_card(card: Card, where: str) -> Card:
    """The card, if a vault can have such a node.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX, E_BAD_POINT.
    """
    if not _NAME.match(card.vault):
        raise malformed(f"{where}: a vault's id is 1 to 64 letters, digits, `.`, `-` or `_`")
    if not 2 <= card.nodes <= 255:
        raise malformed(f"{where}: a vault has 2 to 255 nodes")
    if not 1 <= card.threshold < card.nodes:
        raise malformed(
            f"{where}: the threshold is between 1 and {card.nodes - 1}: up to that many of the "
            f"{card.nodes} nodes may fall to an attacker, and one more than that signs"
        )
    if not 1 <= card.index <= card.nodes:
        raise KeycairnError(
            Code.BAD_INDEX, f"{where}: a node's number is between 1 and {card.nodes}"
        )
    if card.address != "incoming" and not _ADDRESS.match(card.address):
        raise malformed(
            f"{where}: an address is wss://host:port, or `incoming` for a node that nobody can dial"
        )
    ED25519.decode_point(card.public_key)
    return card


def read_card(path: Path) -> Card:
    """A card's file.

    Raises:
        KeycairnError: E_MALFORMED, E_TOO_LARGE, E_BAD_INDEX, E_BAD_POINT.
    """
    value = decode_json(read_file(path, _LARGEST))
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise malformed(f"{path} is not a node's card")
    if value["keycairn_card"] != VERSION:
        raise malformed(f"{path} is a card of another version than {VERSION}")
    numbers = [value[name] for name in ("nodes", "threshold", "index")]
    texts = [value[name] for name in ("vault", "public_key", "address")]
    if any(type(n) is not int for n in numbers) or any(type(t) is not str for t in texts):
        raise malformed(f"{path} is not a node's card")
    key = decode_hex(value["public_key"], length=32, what="public_key")
    nodes, threshold, index = numbers
    return check_card(
        Card(value["vault"], nodes, threshold, index, key, value["address"]), str(path)
    )


def agree(own: Card, peers: Mapping[str, Card]) -> list[Card]:
    """The cards of all other nodes, by index, if they and ``own`` are those of one vault.

    Args:
        peers: cards by where they were read.

    Raises:
        KeycairnError: E_CONFLICT naming the first two cards that disagree; E_MALFORMED when a
            node's card is missing.
    """
    seen: dict[int, tuple[str, Card]] = {own.index: ("this node", own)}
    for where, card in peers.items():
        for what, mine, theirs in (
            ("vault id", own.vault, card.vault),
            ("number of nodes", own.nodes, card.nodes),
            ("threshold", own.threshold, card.threshold),
        ):
            if mine != theirs:
                raise _differ(f"{where} has the {what} {theirs}, and this node has {mine}")
        if card.index in seen:
            raise _differ(f"{where} and {seen[card.index][0]} both are node {card.index}")
        for other, known in seen.values():
            if known.public_key == card.public_key:
                raise _differ(f"{where} and {other} have the same identity key")
            if known.address == card.address == "incoming":
                raise _differ(f"{where} and {other} can't reach each other: both are `incoming`")
            if known.address == card.address:
                raise _differ(f"{where} and {other} have the same address {card.address}")
        seen[card.index] = (where, card)
    missing = sorted(set(range(1, own.nodes + 1)) - set(seen))
    if missing:
        raise KeycairnError(
            Code.MALFORMED,
            f"the cards of nodes {', '.join(map(str, missing))} are missing",
            not_lost="Nothing was changed.",
            next="ask their operators for node.card, and name all cards with --peer",
            detail={"missing": missing},
        )
    return [card for index, (_, card) in sorted(seen.items()) if index != own.index]


def _differ(what: str) -> KeycairnError:
    return KeycairnError(
        Code.CONFLICT,
        f"the cards disagree: {what}",
        not_lost="Nothing was changed.",
        next="agree with the other operators on vault id, number of nodes, threshold and who is "
        "which node; whoever was wrong begins again in an empty directory",
    )
