"""A bundle never holds recovery documents together with the RSA private key that opens them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from keycairn.backup.disk import disk_errors
from keycairn.errors import Code, KeycairnError
from keycairn.ers.beside import MAX_KEY_FILE, private_key_in, spki_in
from keycairn.ers.document import looks_like_document

_ROLES = ("include", "ers")


def refuse_key_beside_documents(files: Mapping[Path, tuple[str, str]]) -> None:
    """Refuse a set of files that holds both.

    Args:
        files: path to (role, dotted key of node.toml that names it); only what the operator
            lists and what lies in the ERS store is looked into.

    Raises:
        KeycairnError: E_POLICY, naming the private key; E_UNAVAILABLE.
    """
    documents: list[Path] = []
    keys: list[tuple[Path, str, str | None]] = []
    for path, (role, named) in files.items():
        if role not in _ROLES:
            continue
        with disk_errors(f"{path} can't be read"):
            with path.open("rb") as stream:
                head = stream.read(64)
            if looks_like_document(head):
                documents.append(path)
            elif path.stat().st_size <= MAX_KEY_FILE:
                beside = path.with_name(path.name + ".pub")
                public = beside.read_bytes() if beside.is_file() else None
                found, spki = private_key_in(path.read_bytes(), public)
                if found:
                    keys.append((path, named, spki))
    for path, named, spki in keys:
        for document in documents:
            with disk_errors(f"{document} can't be read"):
                data = document.read_bytes()
            if spki is None or spki_in(data, spki):
                raise KeycairnError(
                    Code.POLICY,
                    f"{path} is an RSA private key that may open {document.name}; no bundle holds "
                    "both",
                    not_lost="No bundle was written; older bundles are untouched.",
                    next=f"move {path} to a medium of its own, or take it out of {named}",
                    detail={"file": str(path), "key": named},
                )
