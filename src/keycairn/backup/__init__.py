"""Node bundles: one file that holds all of a node but its master secret, and the way back.

* ``bundle``, ``manifest``, ``archive``, ``age``: the format (docs/bundle-format.md).
* ``collect``, ``nodefile``, ``create``: what belongs to a node, and writing it.
* ``verify``, ``database``, ``unlock``: is a stored bundle good, at three levels.
* ``restore``, ``layout``, ``rewrite``, ``machine``: the plan, everything checked.
* ``install``: a node's directory again, in one step.
"""

from keycairn.backup.bundle import read_manifest
from keycairn.backup.create import BundleInputs, create_bundle, receipt
from keycairn.backup.database import Finding, Opener
from keycairn.backup.install import execute
from keycairn.backup.manifest import Manifest
from keycairn.backup.restore import RestorePlan, Step, plan_restore
from keycairn.backup.rewrite import parse_mapping
from keycairn.backup.unlock import SecretSource, opener
from keycairn.backup.verify import LEVELS, VerifyReport, verify_bundle

__all__ = [
    "LEVELS",
    "BundleInputs",
    "Finding",
    "Manifest",
    "Opener",
    "RestorePlan",
    "SecretSource",
    "Step",
    "VerifyReport",
    "create_bundle",
    "execute",
    "opener",
    "parse_mapping",
    "plan_restore",
    "read_manifest",
    "receipt",
    "verify_bundle",
]
