"""Zero-shares: values of all signers that sum to zero, from the pairs' common seeds.

Each pair (i, j) with i < j derives one scalar; i adds it and j subtracts it. To anybody who lacks
one honest pair's seed, the honest signers' shares are uniform subject to their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keycairn.curves import Group
from keycairn.encoding import Tag, to_scalar
from keycairn.protocols.setup import PairSetup


def zero_shares(
    group: Group,
    t: Tag,
    session: bytes,
    me: int,
    setups: Mapping[int, PairSetup],
    peers: tuple[int, ...],
    labels: Sequence[int | str],
) -> list[int]:
    """Player ``me``'s shares of zero among ``peers`` and itself, one for every label.

    Args:
        session: 32 bytes that cover the set of signers; with a label unique for every share.

    Raises:
        Abort: E_UNAVAILABLE if a setup has ended or is damaged.
    """
    totals = [0] * len(labels)
    for j in peers:
        low, high = min(me, j), max(me, j)
        sign = 1 if me == low else -1
        zeta = setups[j].state().zeta
        for k, label in enumerate(labels):
            totals[k] += sign * to_scalar(group.q, t, zeta, session, low, high, label)
    return [total % group.q for total in totals]
