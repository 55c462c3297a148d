"""Two live processes of one node: how a peer notices, and how they learn it for certain.

A peer notes the incarnations of a node in the order in which it first heard them. If one that was
heard before another speaks *after* it, both were alive. The peer shows the older one the newer
one's witness; the older, if its own database does not contain that, signs :class:`Alive` and is
quarantined; shown to the newer, that is proof, since nobody else can sign it. A peer alone can
forge none of it.
"""

from __future__ import annotations

from collections import defaultdict

from keycairn.encoding import encode as transcript
from keycairn.encoding import tag
from keycairn.protocols.form import Signer
from keycairn.protocols.wire import Message
from keycairn.vault.fence.witness import Witness

_ALIVE = tag("fence/alive")
#: Incarnations of one node that are remembered.
_REMEMBERED = 64


class Alive(Message, frozen=True):
    """An incarnation's word that it lives although ``newer``, which it doesn't know, spoke.

    Attributes:
        incarnation: who says it (32 bytes).
        newer: the other one's witness.
        signature: of the node's identity key over all of it, 64 bytes.
    """

    vault: str
    node: int
    incarnation: bytes
    newer: Witness
    signature: bytes = b""


def _statement(alive: Alive) -> bytes:
    return transcript(
        _ALIVE,
        alive.vault,
        alive.node,
        alive.incarnation,
        alive.newer.incarnation,
        alive.newer.head,
        alive.newer.signature,
    )


def sign_alive(vault: str, node: int, incarnation: bytes, newer: Witness, signer: Signer) -> Alive:
    """This node's word that ``incarnation`` is alive beside the one that said ``newer``."""
    unsigned = Alive(vault, node, incarnation, newer)
    return Alive(vault, node, incarnation, newer, signer.sign(_statement(unsigned)))


def is_alive(alive: Alive, *, vault: str, node: int, signer: Signer) -> bool:
    """Whether it is ``node``'s own word. The witness in it is checked elsewhere."""
    return (
        alive.vault == vault
        and alive.node == node
        and len(alive.incarnation) == 32
        and alive.incarnation != alive.newer.incarnation
        and signer.verify(node, _statement(alive), alive.signature)
    )


class Sightings:
    """Incarnations of peers, in the order in which this process first heard of them."""

    def __init__(self) -> None:
        self._order: dict[int, list[bytes]] = defaultdict(list)
        self._twins: dict[int, int] = {}

    def heard(self, peer: int, incarnation: bytes, era: int) -> bool:
        """Note that ``incarnation`` of ``peer`` spoke, in person or by its witness.

        Returns:
            True if it was heard before another one that has spoken since: both are alive.
        """
        order = self._order[peer]
        if incarnation not in order:
            order.append(incarnation)
            del order[:-_REMEMBERED]
            return False
        if order[-1] == incarnation:
            return False
        self._twins[peer] = era
        return True

    def twin(self, peer: int) -> bool:
        """Whether two live processes of ``peer`` were noticed, and no rejoin since."""
        return peer in self._twins

    def accuse(self, peer: int, era: int) -> None:
        """``peer`` itself said so."""
        self._twins[peer] = era

    def rejoined(self, peer: int, era: int) -> None:
        """``peer`` began ``era``: its operator has decided which one goes on."""
        if self._twins.get(peer, era) < era:
            del self._twins[peer]
