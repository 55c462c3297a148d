"""The recovery kit: a zip, or the folder that it was unpacked to (docs/operations/recovery-kit.md).

``SHA256SUMS`` names everything that matters with its hash, in the form that ``sha256sum -c`` reads;
its own SHA-256 is the *kit's fingerprint*, printed on the page. ``manifest.json`` says what each
file is, the page and the README among them, and may be signed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from typing import Any, Dict, List, Optional, Tuple

from .addresses import addresses
from .document import MAX_JSON, REFUSED, Document
from .eddsa import is_valid
from .encoding import encode
from .errors import ToolError
from .files import read
from .meeting import holds_private_key, private_keys_in, refused

FORMAT, VERSION = "keycairn-kit", 1
MANIFEST, SIGNATURE, SUMS = "manifest.json", "manifest.sig.json", "SHA256SUMS"
README, PAGE, TOOL = "README.txt", "page.pdf", "keycairn-offline.pyz"
PUBLIC, PATHS = "public.json", "paths.json"
#: Not in SHA256SUMS: they carry the fingerprint.
OUTSIDE = (README, PAGE, SUMS)
MAX_FILES = 10_000
MAX_TOTAL = 1 << 30
MAX_MANIFEST = 8 << 20
_NAME = re.compile(r"(documents/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def damaged(message: str, file: Optional[str] = None) -> ToolError:
    """E_STORE_INTEGRITY, to be raised."""
    return ToolError(
        "E_STORE_INTEGRITY",
        message,
        not_lost="Nothing was decrypted; other copies of the kit are unaffected.",
        advice="use another copy of the kit; single documents that verify can be used without it",
        detail={"file": file},
    )


def need(condition: object, message: str, file: Optional[str] = None) -> None:
    if not condition:
        raise damaged(message, file)


def sums(files: Dict[str, bytes]) -> bytes:
    """``SHA256SUMS`` of the files that belong in it."""
    rows = []
    for name in sorted(files):
        if name not in OUTSIDE:
            rows.append("%s  %s\n" % (hashlib.sha256(files[name]).hexdigest(), name))
    return "".join(rows).encode("ascii")


class Kit:
    """An opened kit whose files are what its manifest says.

    Attributes:
        files: content by name, without the manifest.
        fingerprint: SHA-256 of SHA256SUMS, hex.
        signer: the public key (hex) whose signature over the manifest verifies, or None.
        extra: names of other files in the folder.
    """

    def __init__(
        self, files: Dict[str, bytes], manifest: bytes, signature: Optional[bytes]
    ) -> None:
        self.files = files
        self.manifest = _object(manifest, MANIFEST)
        self.extra: List[str] = []
        named = _named(self.manifest)
        need(set(named) == set(files), "the kit does not have exactly the files of its manifest")
        for name, entry in named.items():
            sha256 = hashlib.sha256(files[name]).hexdigest()
            same = entry == {"sha256": sha256, "size": len(files[name])}
            need(same, "%s is not the file that the manifest names" % name, name)
            if holds_private_key(files[name]):
                raise refused("%s in the kit is, or may be, an RSA private key" % name)
        for name in (README, PAGE, TOOL, PUBLIC, PATHS, SUMS):
            need(name in files, "the kit lacks %s" % name, name)
        need(files[SUMS] == sums(files), "SHA256SUMS does not fit the files", SUMS)
        self.fingerprint = hashlib.sha256(files[SUMS]).hexdigest()
        same = self.manifest.get("fingerprint") == self.fingerprint
        need(same, "the manifest has another fingerprint than the kit", MANIFEST)
        self.label = _label(self.manifest.get("label"))
        self.tool_sha256 = hashlib.sha256(files[TOOL]).hexdigest()
        self.signer = None if signature is None else _signer(manifest, signature)

    @property
    def documents(self) -> List[str]:
        """Names of the documents' files."""
        return sorted(name for name in self.files if name.startswith("documents/"))

    def public_keys(self) -> Dict[str, Dict[str, Any]]:
        """The entries of public.json by key id."""
        rows = _object(self.files[PUBLIC], PUBLIC).get("keys")
        need(isinstance(rows, list), "public.json has no keys", PUBLIC)
        found: Dict[str, Dict[str, Any]] = {}
        for row in rows or ():
            good = isinstance(row, dict) and isinstance(row.get("key_id"), str)
            need(good and row["key_id"] not in found, "a key of public.json is malformed", PUBLIC)
            found[row["key_id"]] = row
        return found

    def paths(self) -> Dict[str, List[Dict[str, Any]]]:
        """The children in paths.json by key id."""
        keys = _object(self.files[PATHS], PATHS).get("keys")
        need(isinstance(keys, dict), "paths.json has no keys", PATHS)
        found: Dict[str, List[Dict[str, Any]]] = {}
        for key_id, entry in (keys or {}).items():
            rows = entry.get("paths") if isinstance(entry, dict) else None
            good = isinstance(rows, list) and all(
                isinstance(row, dict) and isinstance(row.get("path"), str) for row in rows
            )
            need(good, "a key of paths.json is malformed", PATHS)
            found[key_id] = list(rows or ())
        return found


def _object(data: bytes, name: str) -> Dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise damaged("%s is not JSON" % name, name) from None
    need(isinstance(value, dict), "%s is not a JSON object" % name, name)
    return dict(value)


def _label(label: Any) -> str:
    """The label by the rules for documents': the fingerprint does not cover it."""
    good = isinstance(label, str) and len(label.encode("utf-8", "replace")) <= 256
    odd = any(low <= ord(c) <= high for c in label for low, high in REFUSED) if good else True
    need(good and not odd, "the kit's label has invisible characters, or is too long", MANIFEST)
    return str(label)


def _named(manifest: Dict[str, Any]) -> Dict[str, Any]:
    known = manifest.get("format") == FORMAT and manifest.get("version") == VERSION
    need(known, "not a manifest of a kit of version %d" % VERSION, MANIFEST)
    files = manifest.get("files")
    good = isinstance(files, dict) and len(files) <= MAX_FILES
    need(good and all(_NAME.fullmatch(n) for n in files or ()), "odd file names", MANIFEST)
    return dict(files or {})


def _signer(manifest: bytes, signature: bytes) -> str:
    value = _object(signature, SIGNATURE)
    try:
        public, made = bytes.fromhex(value["public_key"]), bytes.fromhex(value["signature"])
    except (KeyError, TypeError, ValueError):
        raise damaged("%s is malformed" % SIGNATURE, SIGNATURE) from None
    if not is_valid(public, signed_bytes(manifest), made):
        raise ToolError(
            "E_SIG_INVALID",
            "the signature of the kit's manifest does not verify",
            not_lost="Nothing was decrypted; other copies of the kit are unaffected.",
            advice="use another copy of the kit",
        )
    return public.hex()


def signed_bytes(manifest: bytes) -> bytes:
    """What a kit's signer signs."""
    return encode("kit/manifest", manifest)


# -- opening


def is_kit(path: str) -> bool:
    """Whether the path is a folder with a manifest, or a zip."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, MANIFEST))
    return os.path.isfile(path) and zipfile.is_zipfile(path)


def open_kit(path: str) -> Kit:
    """Read a kit and check it against its manifest.

    Raises:
        ToolError: E_STORE_INTEGRITY for a damaged kit, E_SIG_INVALID, E_POLICY if it holds a
            private key, E_NOT_FOUND, E_UNAVAILABLE, E_TOO_LARGE.
    """
    return _open_folder(path) if os.path.isdir(path) else _open_zip(path)


def _open_folder(path: str) -> Kit:
    # Whoever works in the folder may put files there, but not the private key.
    keys = private_keys_in(path)
    if os.path.isdir(os.path.join(path, "documents")):
        keys += private_keys_in(os.path.join(path, "documents"))
    if keys:
        raise refused("%s, beside the kit, is or may be an RSA private key" % keys[0])
    manifest = read(os.path.join(path, MANIFEST), MAX_MANIFEST)
    files = {}
    for name in _named(_object(manifest, MANIFEST)):
        place = os.path.join(path, *name.split("/"))
        need(os.path.isfile(place), "the kit lacks %s" % name, name)
        files[name] = read(place, MAX_JSON)
    place = os.path.join(path, SIGNATURE)
    kit = Kit(files, manifest, read(place, 1 << 16) if os.path.exists(place) else None)
    known = {MANIFEST, SIGNATURE, "documents", *files}
    kit.extra = sorted(set(os.listdir(path)) - known)
    return kit


def _open_zip(path: str) -> Kit:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            need(len(names) <= MAX_FILES + 2, "the zip has too many files")
            need(len(set(names)) == len(names), "the zip has two files of one name")
            total = sum(entry.file_size for entry in entries)
            need(total <= MAX_TOTAL, "the zip unpacks to more than 1 GiB")
            files = {}
            for entry in entries:
                need(_NAME.fullmatch(entry.filename), "the zip has files with odd names")
                with archive.open(entry) as stream:
                    data = stream.read(MAX_JSON + 1)
                need(len(data) <= MAX_JSON, "%s is too large" % entry.filename, entry.filename)
                files[entry.filename] = data
    except OSError as exc:
        raise ToolError("E_UNAVAILABLE", "cannot read %s: %s" % (path, exc.strerror)) from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as exc:
        raise damaged("the zip is damaged: %s" % exc) from None
    except Exception as exc:  # zlib.error; the module is optional in Python
        if type(exc).__module__ != "zlib":
            raise
        raise damaged("the zip is damaged: %s" % exc) from None
    need(MANIFEST in files, "there is no %s in the zip: it is no kit" % MANIFEST, MANIFEST)
    manifest, signature = files.pop(MANIFEST), files.pop(SIGNATURE, None)
    return Kit(files, manifest, signature)


# -- what the kit says of keys, against the documents


def check_public(kit: Kit, documents: List[Tuple[str, Document]]) -> None:
    """Every key of the kit's public data is in a document, and the other way round; addresses are
    their keys'; RSA keys are the documents'. E_STORE_INTEGRITY."""
    rows = kit.public_keys()
    seen = set()
    for name, document in documents:
        for key in document.keys:
            row = rows.get(key.key_id)
            need(row is not None, "public.json lacks %s" % key.key_id, PUBLIC)
            row = row or {}
            same = (row.get("curve"), row.get("scheme"), row.get("public_key")) == (
                key.curve, key.scheme, key.public_key.hex(),
            )  # fmt: skip
            need(same, "public.json has another key %s than %s" % (key.key_id, name), PUBLIC)
            right = row.get("addresses") == addresses(key.scheme, key.curve, key.public_key)
            need(right, "public.json has wrong addresses of %s" % key.key_id, PUBLIC)
            seen.add(key.key_id)
    need(seen == set(rows), "public.json has keys that no document has", PUBLIC)
    for key_id, children in kit.paths().items():
        need(key_id in rows, "paths.json has a key that public.json lacks", PATHS)
        for child in children:
            try:
                raw = bytes.fromhex(child["public_key"])
                found = addresses(rows[key_id]["scheme"], rows[key_id]["curve"], raw)
            except (KeyError, TypeError, ValueError, ToolError):
                raise damaged("paths.json has a malformed child of %s" % key_id, PATHS) from None
            right = child.get("addresses") == found
            need(right, "paths.json has wrong addresses of %s %s" % (key_id, child["path"]), PATHS)
