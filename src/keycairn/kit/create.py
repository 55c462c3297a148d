"""The kit: files, fingerprints, manifest, signature, zip. The same contents give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn import __version__
from keycairn.errors import Code, KeycairnError
from keycairn.ers.files import write_new
from keycairn.kit import pyz
from keycairn.kit.contents import Contents, refuse_beside
from keycairn.kit.faults import as_keycairn_error
from keycairn.kit.offline import kitfile
from keycairn.kit.offline.meeting import holds_private_key, refused
from keycairn.kit.page import page
from keycairn.kit.steps import Fingerprint, readme


@dataclass(frozen=True)
class MadeKit:
    """A kit that was made.

    Attributes:
        data: the zip.
        fingerprint: SHA-256 of SHA256SUMS: what the printed page names.
        signer: the public key that signed the manifest (hex), or None.
    """

    data: bytes
    fingerprint: str
    tool_sha256: str
    signer: str | None

    @property
    def sha256(self) -> str:
        """Of the zip itself."""
        return hashlib.sha256(self.data).hexdigest()


def create(what: Contents, sign_key: Ed25519PrivateKey | None = None) -> MadeKit:
    """Make a kit.

    Args:
        what: from :func:`keycairn.kit.contents.contents`.
        sign_key: signs the manifest, if given.

    Raises:
        KeycairnError: E_UNAVAILABLE without the packages that draw the page.
    """
    files = {**what.files(), kitfile.TOOL: pyz.build()}
    sums = kitfile.sums(files)
    fingerprint = hashlib.sha256(sums).hexdigest()
    tool = hashlib.sha256(files[kitfile.TOOL]).hexdigest()
    prints = [
        Fingerprint("this kit (of the file SHA256SUMS)", fingerprint),
        Fingerprint(f"the tool {kitfile.TOOL}", tool),
        *(
            Fingerprint(f"the RSA key that is needed ({rsa.bits} bits)", name)
            for name, rsa in what.rsa_keys.items()
        ),
        *(
            Fingerprint(f"document {entry.document.sha256[:12]}", entry.document.sha256)
            for entry in what.entries
        ),
    ]
    files[kitfile.SUMS] = sums
    files[kitfile.README] = readme(what.label, prints, len(what.keys))
    files[kitfile.PAGE] = page(what, prints)
    for name, data in files.items():
        if holds_private_key(data):
            with as_keycairn_error():
                raise refused(f"{name} is, or may be, an RSA private key", "Nothing was written.")
    manifest = _manifest(what, files, fingerprint)
    signer = None
    extra = {kitfile.MANIFEST: manifest}
    if sign_key is not None:
        signer = sign_key.public_key().public_bytes_raw().hex()
        made = sign_key.sign(kitfile.signed_bytes(manifest)).hex()
        body = {
            "format": "keycairn-kit-signature",
            "version": 1,
            "public_key": signer,
            "signature": made,
        }
        extra[kitfile.SIGNATURE] = _json(body)
    return MadeKit(_zip({**files, **extra}), fingerprint, tool, signer)


def _json(body: Any) -> bytes:
    return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode("ascii")


def _manifest(what: Contents, files: dict[str, bytes], fingerprint: str) -> bytes:
    return _json(
        {
            "format": kitfile.FORMAT,
            "version": kitfile.VERSION,
            "made_by": f"keycairn {__version__}",
            "label": what.label,
            "fingerprint": fingerprint,
            "files": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                for name, data in files.items()
            },
        }
    )


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        # The README first: it is what people see.
        for name in sorted(files, key=lambda n: (n != kitfile.README, n)):
            pyz.add(archive, name, files[name])
    return out.getvalue()


def write(out: Path, kit: MadeKit) -> None:
    """Write the zip to a place that has no RSA private key, and read it back.

    Raises:
        KeycairnError: E_POLICY, E_CONFLICT if ``out`` exists, E_UNAVAILABLE, E_STORE_INTEGRITY if
            what was read back is another file.
    """
    refuse_beside(out.absolute().parent, "the kit would lie beside it")
    write_new(out, kit.data, 0o644)
    try:
        back = out.read_bytes()
    except OSError as exc:
        raise KeycairnError(Code.UNAVAILABLE, f"cannot read {out} back: {exc.strerror}") from exc
    if back != kit.data:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            f"{out} does not hold what was written",
            next="write the kit to another medium",
        )
