"""What the figures shall be: milliseconds of one party on the machine that the targets were set
for. On other machines a target counts in calls of a primitive: :data:`REFERENCE_US`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Microseconds of a constant-time multiplication on the machine that the targets were set for.
REFERENCE_US: Final = {"secp256k1": 37.0, "ed25519": 93.0}

#: Milliseconds by (what, kind, players, batch); docs/performance.md has the same table.
TARGETS: Final[Mapping[tuple[str, str, int, int], float]] = {
    ("presign", "ecdsa/secp256k1", 2, 100): 1.0,
    ("presign", "ecdsa/secp256k1", 2, 1): 3.5,
    ("presign", "ecdsa/secp256k1", 3, 100): 2.0,
    ("sign from pool", "ecdsa/secp256k1", 2, 1): 0.15,
    ("sign from pool", "schnorr/secp256k1", 2, 1): 0.15,
    ("sign from pool", "schnorr/ed25519", 2, 1): 0.45,
    ("dkg", "ecdsa/secp256k1", 3, 100): 1.5,
    ("dkg", "schnorr/ed25519", 3, 100): 1.5,
    ("setup", "secp256k1", 2, 1): 25.0,
}

#: Of the whole system, three nodes on two cores: signatures a second from the pool, by scheme.
SIGNATURES_PER_SECOND: Final = {"ecdsa": 200.0, "schnorr": 150.0}
#: Milliseconds of one of them at concurrency 1.
SYSTEM_P50_MS: Final = 15.0
#: Keys a second, made in batches and acknowledged by all three nodes.
KEYS_PER_SECOND: Final = 300.0
