"""``keycairn kit verify``: the manifest, and every document by the library's verifier.

The offline tool inside the kit does the same with its own verifier; two programs agree, or one of
them has a fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.kit import pyz
from keycairn.kit.faults import as_keycairn_error
from keycairn.kit.offline import document as plain
from keycairn.kit.offline import kitfile


def verify_kit(
    path: Path,
    *,
    fingerprint: str | None = None,
    signer: str | None = None,
    rsa: RsaPublicKey | None = None,
    expected: Mapping[str, ExpectedKey] | None = None,
) -> dict[str, Any]:
    """Verify a kit: the zip, or the folder that it was unpacked to.

    Args:
        fingerprint: of the kit, hex, from the printed page.
        signer: public key (hex) that must have signed the manifest.
        rsa, expected: what the caller knows of the RSA key and the keys.

    Returns:
        valid, fingerprint, label, signer, files, tool_sha256, tool (whether this version of
        keycairn packs the same tool), documents, not_checked.

    Raises:
        KeycairnError: E_STORE_INTEGRITY, E_SIG_INVALID, E_ERS_INVALID, E_POLICY, E_NOT_FOUND.
    """
    with as_keycairn_error():
        if not kitfile.is_kit(str(path)):
            raise KeycairnError(Code.NOT_FOUND, f"{path} is no kit: neither a zip nor its folder")
        kit = kitfile.open_kit(str(path))
        kitfile.check_public(kit, [(name, plain.load(kit.files[name])) for name in kit.documents])
    if fingerprint is not None and kit.fingerprint != "".join(fingerprint.lower().split()):
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            f"the kit has another fingerprint: {kit.fingerprint}",
            next="use the kit that belongs to your printed page",
        )
    if signer is not None and kit.signer != signer.lower():
        raise KeycairnError(Code.SIG_INVALID, "the kit is not signed by the signer that was named")
    wanted = dict(expected or {})
    rows = []
    questions: list[str] = []
    for name in kit.documents:
        document = Document.load(kit.files[name])
        ids = {key.key_id for key in document.keys}
        known = [wanted.pop(key_id) for key_id in sorted(ids & set(wanted))]
        report = verify_document(document, rsa=rsa, expected=known).to_json()
        questions += [q for q in report.pop("not_checked") if q not in questions]
        rows.append({"file": name, **report})
    if wanted:
        raise KeycairnError(
            Code.ERS_INVALID,
            "no document holds a key that was asked for",
            detail={"check": "key id", "key": sorted(wanted)[0], "node": None},
        )
    if fingerprint is None and signer is None:
        questions.insert(0, "fingerprint of the kit: compare it with your printed page")
    return {
        "valid": True,
        "fingerprint": kit.fingerprint,
        "label": kit.label,
        "signer": kit.signer,
        "files": len(kit.files),
        "tool_sha256": kit.tool_sha256,
        "tool": "this version's"
        if kit.tool_sha256 == hashlib.sha256(pyz.build()).hexdigest()
        else "of another version: compare its hash with your printed page",
        "documents": rows,
        "not_checked": questions,
    }
