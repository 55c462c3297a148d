"""The Merkle tree over the leaf commitments h_1..h_N, with the node numbers of ``tree``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keycairn.encoding import tag
from keycairn.ers.hashing import BYTES32, Prefix, number
from keycairn.ers.tree import path

_NODE = tag("ers/merkle")


def build(ctx: bytes, values: Sequence[bytes]) -> list[bytes]:
    """All node values over ``values`` = h_1..h_N; ``[1]`` is the root, ``[0]`` is unused."""
    n = len(values)
    hasher = Prefix(_NODE, 3, ctx)
    nodes = [b""] * n + list(values)
    for i in range(n - 1, 0, -1):
        nodes[i] = hasher.sha(number(i), BYTES32 + nodes[2 * i], BYTES32 + nodes[2 * i + 1])
    return nodes


def root(
    ctx: bytes, leaves: int, closed: Mapping[int, bytes], siblings: Mapping[int, bytes]
) -> bytes:
    """The root from the closed leaves' h_k (by k) and the values at the cover's nodes."""
    hasher = Prefix(_NODE, 3, ctx)
    nodes = {**siblings, **{leaves + k - 1: h for k, h in closed.items()}}
    for i in sorted(path(leaves, list(closed)), reverse=True):
        if i < leaves:
            nodes[i] = hasher.sha(number(i), BYTES32 + nodes[2 * i], BYTES32 + nodes[2 * i + 1])
    return nodes[1]
