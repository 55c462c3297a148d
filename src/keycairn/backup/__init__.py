"""Node bundles: one file that holds all of a node but its master secret, and the way back.

* ``bundle``, ``manifest``, ``archive``, ``age``: the format (docs/bundle-format.md).
* ``collect``, ``nodefile``, ``create``: what belongs to a node, and writing it.
* ``verify``, ``database``: is a stored bundle good, at three levels.
"""

from keycairn.backup.bundle import read_manifest
from keycairn.backup.create import BundleInputs, create_bundle, receipt
from keycairn.backup.database import Finding, Opener
from keycairn.backup.manifest import Manifest
from keycairn.backup.verify import LEVELS, VerifyReport, verify_bundle

__all__ = [
    "LEVELS",
    "BundleInputs",
    "Finding",
    "Manifest",
    "Opener",
    "VerifyReport",
    "create_bundle",
    "read_manifest",
    "receipt",
    "verify_bundle",
]
