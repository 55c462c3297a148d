"""What goes over the wire, and what comes out, from fixed randomness: version 2 of the protocol.

The values were made with the first implementation, in plain integers; those of the messages again
for version 2, with its challenge put together by hand. A change of speed must not change them;
whoever changes the protocol on purpose raises its version and makes new ones.
"""

from __future__ import annotations

import hashlib

import pytest

from keycairn.protocols import wire
from protocols.dkls23.vault import Vault, sha


def session(signers: tuple[int, ...], count: int) -> tuple[str, str]:
    """SHA-256 of all messages of a presigning session, and of one signature made with it."""
    vault = Vault(3, len(signers) - 1, signers, seed="fixed")
    outcomes = vault.presign(count)
    sent = hashlib.sha256()
    for i in signers:
        for message in outcomes[i].sent:
            sent.update(wire.encode(message.broadcast))
            for j in sorted(message.direct):
                sent.update(wire.encode(message.direct[j]))
    mine = {i: outcomes[i].result[-1] for i in signers}
    signed = vault.sign(mine, sha("fixed"), 5)
    return sent.hexdigest(), signed[signers[0]].result.compact().hex()


@pytest.mark.parametrize(
    ("signers", "count", "messages", "signature"),
    [
        (
            (1, 2),
            1,
            "cdc45c7517892c47621df1cc3e3206fa5b4e731f26a1637af97e0c14c4890cac",
            "ff277c3e8f02212020d09ece25d178b078de40038b520dca5829360e38cb64f2"
            "66df603b639241eec1366f39ed597c8179c66a4c8e5ca1cd1dd214fc2063e626",
        ),
        (
            (1, 2),
            17,
            "af7b1531016514949a208546a893d39fae0fdb151ef0d431b87ac6a04ea678a6",
            "ed08857b750260399cbb6923a71fc490006098ed33ecd47785487658ee038ac9"
            "1ab7cce6d14bf3f5e9aa76e35e4009de41cd4f045e2c67d0925c3bec21d3c532",
        ),
        (
            (1, 2, 3),
            2,
            "9c85b526c66509b83fac88253bdf5650580be39150009b56f8ee4f4d1c55455d",
            "cfa753990f255ee3a0ed43aebc8251da907c5262ac5d37bb13892a9982a533d8"
            "474c5679725f16017518d08b1f39a503e454ffc02ed5eacedf1c12fa1d671d7c",
        ),
    ],
)
def test_the_messages_of_a_seed_never_change(
    signers: tuple[int, ...], count: int, messages: str, signature: str
) -> None:
    assert session(signers, count) == (messages, signature)
