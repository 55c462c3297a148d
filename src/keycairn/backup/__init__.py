"""Node bundles: one file that holds all of a node but its master secret, and the way back.

* ``bundle``, ``manifest``, ``archive``, ``age``: the format (docs/bundle-format.md).
* ``collect``, ``nodefile``, ``create``: what belongs to a node, and writing it.
* ``targets``, ``objects``: where bundles are kept, and that what was written is there.
* ``external``: what a node needs and a bundle can't hold.
* ``verify``, ``database``, ``unlock``: is a stored bundle good, at three levels.
* ``restore``, ``layout``, ``rewrite``, ``machine``: the plan, everything checked.
* ``install``: a node's directory again, in one step.
* ``retention``, ``schedule``: which bundles stay, and when the next is due.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keycairn.backup.bundle import read_manifest
    from keycairn.backup.create import BundleInputs, Made, create_bundle, create_bundles, receipt
    from keycairn.backup.database import Finding, Opener
    from keycairn.backup.install import execute
    from keycairn.backup.manifest import Manifest
    from keycairn.backup.restore import RestorePlan, Step, plan_restore
    from keycairn.backup.rewrite import parse_mapping
    from keycairn.backup.targets import stored
    from keycairn.backup.unlock import SecretSource, opener
    from keycairn.backup.verify import LEVELS, VerifyReport, verify_bundle

__all__ = [
    "LEVELS",
    "BundleInputs",
    "Finding",
    "Made",
    "Manifest",
    "Opener",
    "RestorePlan",
    "SecretSource",
    "Step",
    "VerifyReport",
    "create_bundle",
    "create_bundles",
    "execute",
    "opener",
    "parse_mapping",
    "plan_restore",
    "read_manifest",
    "receipt",
    "stored",
    "verify_bundle",
]

#: Loaded when asked for: a command that only reads a configuration needs no database stack.
_MODULES = {
    "BundleInputs": "create",
    "Finding": "database",
    "LEVELS": "verify",
    "Made": "create",
    "Manifest": "manifest",
    "Opener": "database",
    "RestorePlan": "restore",
    "SecretSource": "unlock",
    "Step": "restore",
    "VerifyReport": "verify",
    "create_bundle": "create",
    "create_bundles": "create",
    "execute": "install",
    "opener": "unlock",
    "parse_mapping": "rewrite",
    "plan_restore": "restore",
    "read_manifest": "bundle",
    "receipt": "create",
    "stored": "targets",
    "verify_bundle": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
