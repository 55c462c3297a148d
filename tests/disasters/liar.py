"""``keycairn node run`` of a node that lies: its parts of ERS documents have unrecoverable leaves.

    python liar.py BAD GRIND node run --config FILE

The first BAD leaves of each part are encryptions of other seeds. With GRIND ("1") it varies its box
until all of them stay closed: then the part verifies, and only recovery meets them.
"""

from __future__ import annotations

import sys
from typing import Any

from keycairn.ers import prove
from keycairn.ers.challenge import closed_leaves
from keycairn.ers.prove import Prover


def lie(bad: int, grind: bool) -> None:
    """Replace the honest prover's ciphertexts, and its one challenge, in this process."""
    honest, challenge, run = Prover.ciphertext, prove.challenge, Prover.run
    at_work: list[Prover] = []

    def ciphertext(self: Prover, k: int, a: bytes, coins: bytes) -> bytes:
        return honest(self, k, a if k > bad else bytes(32), coins)

    def search(ctx: bytes, box: bytes, *rest: Any) -> bytes:
        prover, wanted, tries = at_work[-1], set(range(1, bad + 1)), 0
        while True:
            e = challenge(ctx, prover.box, *rest)
            if not grind or wanted <= set(closed_leaves(e, prover.context.params)):
                return e
            tries += 1
            prover.box = box[:-8] + tries.to_bytes(8, "big")

    def remembered(self: Prover) -> Any:
        at_work.append(self)
        return run(self)

    Prover.ciphertext = ciphertext  # type: ignore[method-assign]
    Prover.run = remembered  # type: ignore[method-assign]
    prove.challenge = search


if __name__ == "__main__":
    lie(int(sys.argv[1]), sys.argv[2] == "1")
    from keycairn.cli import main

    sys.argv[1:] = sys.argv[3:]
    main()
