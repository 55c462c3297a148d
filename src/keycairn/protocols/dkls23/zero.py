"""Zero-shares: values of all signers that sum to zero, from the pairs' common seeds.

Each pair (i, j) with i < j derives one scalar; i adds it and j subtracts it. To anybody who lacks
one honest pair's seed, the honest signers' shares are uniform subject to their sum.
"""

from __future__ import annotations

from collections.abc import Mapping

from keycairn.curves import Group
from keycairn.encoding import Tag, to_scalar
from keycairn.protocols.setup import PairSetup


def zero_share(
    group: Group,
    t: Tag,
    session: bytes,
    me: int,
    setups: Mapping[int, PairSetup],
    peers: tuple[int, ...],
    label: int | str,
) -> int:
    """Player ``me``'s share of zero among ``peers`` and itself.

    Args:
        session: 32 bytes that cover the set of signers; with ``label`` unique for every share.

    Raises:
        Abort: E_UNAVAILABLE if a setup has ended or is damaged.
    """
    total = 0
    for j in peers:
        low, high = min(me, j), max(me, j)
        pair = to_scalar(group.q, t, setups[j].state().zeta, session, low, high, label)
        total += pair if me == low else -pair
    return total % group.q
