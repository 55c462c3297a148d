"""What goes into a kit: documents that verify, what is public about their keys, the path ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.children import addresses_of
from keycairn.ers.context import check_label
from keycairn.ers.document import MAX_JSON, Document
from keycairn.ers.faults import as_invalid, invalid
from keycairn.ers.files import read_file
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key, to_pem
from keycairn.ers.statement import KeyStatement
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.kit.faults import as_keycairn_error
from keycairn.kit.offline import kitfile, meeting

#: A kit is for people: this many documents are more than anybody compares by hand.
MAX_DOCUMENTS = 1_000


@dataclass(frozen=True)
class KeyFacts:
    """What is known about a key from elsewhere than a document: the vault's own record.

    Attributes:
        generation: the vault's present one; a document of an older one still recovers the key.
        paths: of children in use: path -> encoded public key.
        paths_left_out: more of them that are not listed.
    """

    key_id: str
    curve: str
    public_key: bytes
    generation: int
    paths: Mapping[str, bytes] = field(default_factory=dict)
    paths_left_out: int = 0


@dataclass(frozen=True)
class Entry:
    """A document of the kit: its file's name and bytes as they were given."""

    name: str
    data: bytes
    document: Document
    rsa: RsaPublicKey


@dataclass(frozen=True)
class Contents:
    """Everything that a kit is made from, checked.

    Attributes:
        label: the operator's words on the kit.
        entries: the documents, each verified.
        facts: by key id; empty if nothing but the documents is known.
        warnings: sentences for whoever makes the kit.
    """

    label: str
    entries: tuple[Entry, ...]
    facts: Mapping[str, KeyFacts]
    warnings: tuple[str, ...]

    @property
    def keys(self) -> dict[str, KeyStatement]:
        """By key id, in the documents' order."""
        return {key.key_id: key for entry in self.entries for key in entry.document.keys}

    @property
    def rsa_keys(self) -> dict[str, RsaPublicKey]:
        """By the SHA-256 of their SubjectPublicKeyInfo."""
        return {entry.rsa.spki_sha256: entry.rsa for entry in self.entries}

    def files(self) -> dict[str, bytes]:
        """The files that are about these contents, by name."""
        files = {f"documents/{entry.name}": entry.data for entry in self.entries}
        for name, rsa in self.rsa_keys.items():
            files[f"rsa-public-key-{name[:12]}.pem"] = to_pem(rsa.spki)
        files[kitfile.PUBLIC] = _json(self._public())
        files[kitfile.PATHS] = _json(self._paths())
        return files

    def _public(self) -> dict[str, Any]:
        rows = []
        for key_id, key in self.keys.items():
            known = self.facts.get(key_id)
            held = [entry for entry in self.entries if key_id in _ids(entry.document)]
            rows.append(
                {
                    "key_id": key_id,
                    "curve": key.curve,
                    "scheme": key.scheme,
                    "public_key": key.public_key.hex(),
                    "addresses": addresses_of(key.scheme, key.curve, key.public_key),
                    "threshold": key.threshold,
                    "holders": list(key.holders),
                    "generation": known.generation if known else key.generation,
                    "source": "vault" if known else "document",
                    "documents": [
                        {
                            "file": f"documents/{entry.name}",
                            "sha256": entry.document.sha256,
                            "rsa_spki_sha256": entry.rsa.spki_sha256,
                            "generation": _key(entry.document, key_id).generation,
                            "nodes": list(entry.document.nodes),
                        }
                        for entry in held
                    ],
                }
            )
        return {"format": "keycairn-kit-public", "version": 1, "label": self.label, "keys": rows}

    def _paths(self) -> dict[str, Any]:
        keys = {}
        for key_id, known in self.facts.items():
            key = self.keys[key_id]
            keys[key_id] = {
                "left_out": known.paths_left_out,
                "paths": [
                    {
                        "path": path,
                        "public_key": public.hex(),
                        "addresses": addresses_of(key.scheme, key.curve, public),
                    }
                    for path, public in known.paths.items()
                ],
            }
        return {"format": "keycairn-kit-paths", "version": 1, "keys": keys}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def _ids(document: Document) -> list[str]:
    return [key.key_id for key in document.keys]


def _key(document: Document, key_id: str) -> KeyStatement:
    return next(key for key in document.keys if key.key_id == key_id)


def read_documents(paths: Sequence[Path]) -> list[bytes]:
    """The files of documents, after a look at what lies beside them.

    Raises:
        KeycairnError: E_POLICY if one is a private key, or lies beside what may be an RSA private
            key; what reading files raises.
    """
    found = []
    for path in paths:
        data = read_file(path, MAX_JSON)
        with as_keycairn_error():
            if meeting.holds_private_key(data):
                raise meeting.refused(f"{path} is a private key, given as a document")
        found.append(data)
    for directory in sorted({path.absolute().parent for path in paths}):
        refuse_beside(directory, "documents lie beside it")
    return found


def refuse_beside(directory: Path, why: str) -> None:
    """E_POLICY if what may be an RSA private key lies directly in the directory."""
    with as_keycairn_error():
        for name in meeting.private_keys_in(str(directory)):
            what = f"{directory / name} is, or may be, an RSA private key, and {why}"
            raise meeting.refused(what, "Nothing was written.")


def contents(
    documents: Sequence[bytes],
    *,
    label: str = "",
    facts: Sequence[KeyFacts] = (),
    rsa: RsaPublicKey | None = None,
) -> Contents:
    """Check everything that is to go into a kit.

    Args:
        documents: files, in either form.
        label: the operator's words; by the rules for documents' labels.
        facts: what the vault says of the keys; then of all of them.
        rsa: the RSA key that the documents must be for, if the caller knows it.

    Raises:
        KeycairnError: E_ERS_INVALID for a document that does not verify, is of other keys than
            the facts, or does not bring back every key in it; E_MALFORMED.
    """
    with as_invalid("label"):
        check_label(label)
    if not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise malformed(f"a kit holds 1 to {MAX_DOCUMENTS} documents")
    by_id = {known.key_id: known for known in facts}
    entries: dict[str, Entry] = {}
    warnings: list[str] = []
    for data in documents:
        entry = _entry(data, by_id, rsa, warnings)
        entries.setdefault(entry.name, entry)
    # Parts in several files (one per node) count together.
    nodes: dict[str, set[int]] = {}
    for entry in entries.values():
        for key in entry.document.keys:
            nodes.setdefault(key.key_id, set()).update(entry.document.nodes)
    made = Contents(label, tuple(entries.values()), by_id, ())
    for key_id, key in made.keys.items():
        _require_recoverable(made, key_id)
        if len(nodes[key_id]) < len(key.holders):
            warnings.append(
                f"{key_id} is PARTIAL {len(nodes[key_id])}/{len(key.holders)}: enough, no more"
            )
    missing = sorted(set(by_id) - set(made.keys))
    if missing:
        raise invalid("key id", f"no document holds {missing[0]}", key=missing[0])
    if not facts:
        warnings.append(
            "public keys are the documents' own: compare them with your records before you print"
        )
    return Contents(label, made.entries, by_id, tuple(warnings))


def _entry(
    data: bytes, facts: Mapping[str, KeyFacts], rsa: RsaPublicKey | None, warnings: list[str]
) -> Entry:
    document = Document.load(data)
    expected = []
    for key in document.keys:
        known = facts.get(key.key_id)
        if known is not None:
            expected.append(ExpectedKey(key.key_id, known.public_key, known.curve))
            if key.generation < known.generation:
                warnings.append(
                    f"{key.key_id}: the document is of generation {key.generation}, the key of "
                    f"{known.generation}: STALE; it still recovers the key"
                )
        elif facts:
            raise KeycairnError(
                Code.ERS_INVALID,
                f"a document holds {key.key_id}, which was not asked for",
                next="give the documents of the keys that you name, or name all of their keys",
                detail={"check": "key id", "key": key.key_id, "node": None},
            )
    verify_document(document, rsa=rsa, expected=expected)
    key_used = load_rsa_public_key(document.context.rsa_spki, allow_2048=True)
    end = "json" if data[:1] == b"{" else "cbor"
    vault = "".join(
        c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in _vault(document)
    )
    return Entry(f"ers-{vault[:64]}-{document.sha256[:12]}.{end}", data, document, key_used)


def _vault(document: Document) -> str:
    return document.context.vault


def _require_recoverable(made: Contents, key_id: str) -> None:
    """t+1 parts of one batch must hold the key: parts of different batches do not combine."""
    batches: dict[bytes, set[int]] = {}
    for entry in made.entries:
        if key_id in _ids(entry.document):
            batches.setdefault(entry.document.context.batch, set()).update(entry.document.nodes)
    key = made.keys[key_id]
    best = max(len(nodes) for nodes in batches.values())
    if best <= key.threshold:
        error = invalid(
            "parts", f"{best} parts hold this key, {key.threshold + 1} are needed", key=key_id
        )
        error.next = "give the documents of more nodes, or make a new one: keycairn ers create"
        raise error
