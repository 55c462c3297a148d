"""The GGM tree of leaf seeds, and which nodes open all leaves but the closed ones.

Heap order: node 1 is the root, node i has children 2i and 2i+1, and leaf k (1..N) is node
N+k-1. N need not be a power of two. A node's seed is a hash of its parent's seed, so a seed
opens its whole subtree and says nothing about any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keycairn.encoding import tag
from keycairn.ers.hashing import BYTES32, Prefix, number

_NODE = tag("ers/tree")


def _children(hasher: Prefix, i: int, seed: bytes) -> tuple[bytes, bytes]:
    field = BYTES32 + seed
    return hasher.sha(number(2 * i), field), hasher.sha(number(2 * i + 1), field)


def grow(ctx: bytes, leaves: int, root: bytes) -> list[bytes]:
    """Seeds of all nodes below ``root`` (32 bytes each); index 0 is unused and empty."""
    hasher = Prefix(_NODE, 2, ctx)
    seeds = [b""] * (2 * leaves)
    seeds[1] = root
    for i in range(1, leaves):
        seeds[2 * i], seeds[2 * i + 1] = _children(hasher, i, seeds[i])
    return seeds


def path(leaves: int, closed: Sequence[int]) -> set[int]:
    """Node numbers on the ways from the closed leaves (k in 1..N) to the root."""
    nodes: set[int] = set()
    for k in closed:
        i = leaves + k - 1
        while i and i not in nodes:
            nodes.add(i)
            i >>= 1
    return nodes


def cover(leaves: int, closed: Sequence[int]) -> list[int]:
    """Roots of the maximal subtrees without a closed leaf, by rising node number.

    These are the nodes whose seeds open all other leaves (the co-path), and the nodes whose
    Merkle values stand in for them.
    """
    hidden = path(leaves, closed)
    return [i for i in range(2, 2 * leaves) if i not in hidden and i >> 1 in hidden]


def regrow(ctx: bytes, leaves: int, copath: Mapping[int, bytes]) -> list[bytes]:
    """Seeds of all nodes in the given subtrees; empty bytes everywhere else."""
    hasher = Prefix(_NODE, 2, ctx)
    seeds = [b""] * (2 * leaves)
    for i, seed in copath.items():
        seeds[i] = seed
    for i in range(1, leaves):
        if seeds[i]:
            seeds[2 * i], seeds[2 * i + 1] = _children(hasher, i, seeds[i])
    return seeds
