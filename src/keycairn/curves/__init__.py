"""Groups of prime order, and the secret sharing that is done in them."""

from __future__ import annotations

from keycairn.curves.ed25519 import ED25519
from keycairn.curves.group import Group, Point
from keycairn.curves.p256 import P256
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.errors import Code, KeycairnError

GROUPS: dict[str, Group] = {g.name: g for g in (SECP256K1, P256, ED25519)}


def group(name: str) -> Group:
    """The group called ``name`` ("secp256k1", "p256", "ed25519").

    Raises:
        KeycairnError: E_MALFORMED for a curve that this version does not know.
    """
    try:
        return GROUPS[name]
    except KeyError:
        raise KeycairnError(
            Code.MALFORMED, "unknown curve", detail={"curve": str(name)[:32]}
        ) from None


__all__ = ["ED25519", "GROUPS", "P256", "SECP256K1", "Group", "Point", "group"]
