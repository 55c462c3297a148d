"""Signing with a whole vault: who signs, what they are asked, and what their answers are worth.

No answer is taken on one node's word. What a key is (scheme, public key, holders) is what t+1
nodes said of it. Every signature is verified here, under a public key that t+1 nodes gave: for the
key itself the one they show, for a child of it (``path``) the one that came with their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keycairn.client.agree import agreed
from keycairn.client.verify import verify_signature
from keycairn.curves import SECP256K1, bip340
from keycairn.curves.derivation import parse_path
from keycairn.encoding.strict import decode_hex
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ports import Clock

if TYPE_CHECKING:
    from keycairn.client.vault import Vault

#: Most items of one request; every node refuses more.
MAX_ITEMS = 100
#: Signers that were healthy, or signed, are taken to be so for this many seconds.
_FRESH_SECONDS = 1.0
_SAME = ("signature", "public_key", "recovery_id")


@dataclass(frozen=True)
class Item:
    """One thing to sign: a digest of 32 bytes (ECDSA) or a message (Schnorr); exactly one.

    ``path`` names a child of the key, such as ``m/0/5``.
    """

    digest: bytes | None = None
    message: bytes | None = None
    path: str | None = None

    def check(self) -> None:
        """E_MALFORMED for what no node would take."""
        if (self.digest is None) == (self.message is None):
            raise malformed("give exactly one of digest and message")
        if self.digest is not None and len(self.digest) != 32:
            raise malformed(f"a digest has 32 bytes, got {len(self.digest)}")
        if self.path is not None:
            parse_path(self.path)

    @property
    def body(self) -> dict[str, str]:
        """The item as it goes to the nodes."""
        found = {"path": self.path}
        for name, value in (("digest", self.digest), ("message", self.message)):
            found[name] = None if value is None else value.hex()
        return {name: value for name, value in found.items() if value is not None}

    @property
    def child(self) -> str | None:
        """The path, if it leads away from the key itself."""
        return None if self.path in (None, "m") else self.path


@dataclass(frozen=True)
class Facts:
    """What t+1 nodes said a key is. It stays as it is, except for the holders."""

    scheme: str
    curve: str
    public_key: bytes
    threshold: int
    holders: tuple[int, ...]

    @property
    def needed(self) -> int:
        """How many nodes sign."""
        return self.threshold + 1


class Signing:
    """Makes a vault's signatures. Remembers what keys are, and which nodes were healthy a moment
    ago: both are dropped as soon as a request fails."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault = vault
        self._clock = clock
        self._facts: dict[str, Facts] = {}
        self._fresh: dict[tuple[int, ...], tuple[float, list[int]]] = {}

    async def sign(
        self,
        key_id: str,
        items: Sequence[Item],
        *,
        many: bool,
        presignature: str | None,
        taproot: bool,
        request_id: str | None,
        nodes: Sequence[int] | None,
        attempts: int,
    ) -> list[dict[str, Any]]:
        """One verified signature for each item, in order. See ``Vault.sign`` and ``sign_many``."""
        if not 1 <= len(items) <= MAX_ITEMS:
            raise malformed(f"a request signs 1 to {MAX_ITEMS} items, not {len(items)}")
        for number, item in enumerate(items):
            try:
                item.check()
            except KeycairnError as exc:
                exc.detail["item"] = number
                raise
        if presignature is not None:
            decode_hex(presignature, length=32, what="the id of a presignature")
        body: dict[str, Any] = {"presignature": presignature, "taproot": taproot or None}
        body |= {"items": [item.body for item in items]} if many else items[0].body
        request = request_id or self._vault.fresh_name()
        if presignature is not None and nodes is None:
            nodes = await self._holders(key_id, presignature)
        facts = await self._key(key_id, nodes)
        players, guessed = list(nodes or ()), False
        if nodes is None:
            players, guessed = await self._signers(facts)
        try:
            answers = await self._ask(key_id, players, body, request, 1 if guessed else attempts)
        except KeycairnError as exc:
            self._forget(key_id, facts)
            if not guessed or exc.code not in (Code.UNAVAILABLE, Code.PEER_TIMEOUT):
                raise
            # One of them has gone within the last second: choose again, by asking.
            players, _ = await self._signers(facts)
            answers = await self._ask(key_id, players, body, request, attempts, earlier=1)
        if nodes is None:
            self._fresh[facts.holders] = (self._clock.monotonic(), players)
        made = _in_order(answers, len(items), many=many)
        for number, item in enumerate(items):
            given = {i: signatures[number] for i, signatures in made.items()}
            agreed(given, _SAME)
            await self._check(key_id, facts, item, given, taproot=taproot)
        return made[min(made)]

    async def _holders(self, key_id: str, presignature: str) -> Sequence[int] | None:
        """The signer set that a presignature was made for; None if nobody has it, which the
        signers then say themselves (it may have been spent)."""
        rows, _ = await self._vault.presignatures(key_id)
        for row in (row for _, found in sorted(rows.items()) for row in found):
            if presignature in row.get("ids", ()):
                return [int(p) for p in row["players"]]
        return None

    async def _ask(
        self,
        key_id: str,
        players: Sequence[int],
        body: Mapping[str, Any],
        request: str,
        attempts: int,
        earlier: int = 0,
    ) -> dict[int, dict[str, Any]]:
        return await self._vault.run_session(
            players,
            body,
            lambda node, named: node.sign(key_id, named),
            request,
            attempts,
            one_is_enough=True,
            earlier=earlier,
        )

    async def _key(self, key_id: str, nodes: Sequence[int] | None) -> Facts:
        if key_id not in self._facts:
            view, said = await self._vault.look_at(key_id, None, nodes)
            facts = Facts(
                str(view["scheme"]),
                str(view["curve"]),
                bytes.fromhex(str(view["public_key"])),
                int(view["threshold"]),
                tuple(int(p) for p in view["players"]),
            )
            if len(said) < facts.needed and nodes is not None:
                return await self._key(key_id, None)  # Nodes that don't sign know it too.
            if len(said) < facts.needed:
                raise KeycairnError(
                    Code.UNAVAILABLE,
                    f"{len(said)} of the {facts.needed} nodes that signing needs say what this "
                    f"key is: {'; '.join(view['missing'])}",
                    not_lost="Keys and shares are unchanged.",
                    next="keycairn vault status DIR",
                    detail={"nodes": said},
                )
            self._facts[key_id] = facts
        return self._facts[key_id]

    async def _signers(self, facts: Facts) -> tuple[list[int], bool]:
        """t+1 holders, and whether that is only what was right a moment ago."""
        since, players = self._fresh.get(facts.holders, (0.0, []))
        now = self._clock.monotonic()
        if len(players) == facts.needed and now - since < _FRESH_SECONDS:
            return players, True
        players = await self._vault.healthy(facts.holders, facts.needed)
        self._fresh[facts.holders] = (now, players)
        return players, False

    def _forget(self, key_id: str, facts: Facts) -> None:
        self._facts.pop(key_id, None)
        self._fresh.pop(facts.holders, None)

    async def _check(
        self,
        key_id: str,
        facts: Facts,
        item: Item,
        given: Mapping[int, Mapping[str, Any]],
        *,
        taproot: bool,
    ) -> None:
        first = min(given)
        public = _hex(given[first], "public_key", first)
        verify_signature(
            facts.scheme,
            facts.curve,
            public,
            _hex(given[first], "signature", first),
            digest=item.digest,
            message=item.message,
        )
        if item.child is None:
            shown = facts.public_key
        elif len(given) >= facts.needed:
            return  # That many nodes gave this child's key, each by its own derivation.
        else:
            view, said = await self._vault.look_at(key_id, item.child, None)
            shown = bytes.fromhex(str(view["public_key"]))
            if len(said) < facts.needed:
                raise KeycairnError(
                    Code.UNAVAILABLE,
                    f"the signature is good, but fewer than {facts.needed} nodes say that its "
                    f"public key is the key's child at {item.child}",
                    not_lost="The nodes keep the signature: repeat with the same request id.",
                    next="keycairn vault status DIR",
                )
        if taproot:
            shown = bip340.taproot_key(SECP256K1.decode_point(shown)).point.encode()
        if public != shown:
            raise KeycairnError(
                Code.SIG_INVALID,
                "the nodes signed with another key than the one they show",
                not_lost="The signature was not returned.",
            )


def _in_order(
    answers: Mapping[int, Mapping[str, Any]], count: int, *, many: bool
) -> dict[int, list[dict[str, Any]]]:
    """Each node's signatures, as many as there were items."""
    made: dict[int, list[dict[str, Any]]] = {}
    for node, answer in answers.items():
        signatures = answer.get("signatures") if many else [dict(answer)]
        if (
            not isinstance(signatures, list)
            or len(signatures) != count
            or not all(isinstance(s, dict) for s in signatures)
        ):
            raise _odd(node, "as many signatures as it was asked for")
        made[node] = signatures
    return made


def _hex(answer: Mapping[str, Any], name: str, node: int) -> bytes:
    try:
        return decode_hex(answer.get(name), what=name)
    except KeycairnError:
        raise _odd(node, f"a {name}") from None


def _odd(node: int, what: str) -> KeycairnError:
    return KeycairnError(
        Code.UNAVAILABLE,
        f"node {node}'s answer lacks {what}",
        not_lost="Keys and shares are unchanged.",
        next="check that the URL is a keycairn node's, of this version",
        node=node,
    )
