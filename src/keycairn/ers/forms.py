"""In which forms a private key comes out, for whom each is, and the files of a recovery.

======================= =========== =============================================================
file                    form        for
======================= =========== =============================================================
``KEY.json``            json        this tool, and people: private key in hex, and whatever of
                                    ``wif``, ``xprv`` and ``pem`` was asked for
``KEY.pem``             pem         OpenSSL and everything that reads PKCS #8
``KEY.descriptors.json`` descriptors ``importdescriptors`` of Bitcoin Core
``KEY.keystore.json``   keystore    Ethereum wallets; under a password
``KEY.children.json``   children    derived keys in use, with their addresses
======================= =========== =============================================================

Every file has mode 0600 and lies in a directory that was new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from keycairn.curves import group
from keycairn.curves.pem import private_key_pem
from keycairn.encoding import SecretBytes
from keycairn.errors import malformed
from keycairn.ers.children import Child, children
from keycairn.ers.files import fresh_directory, write_all
from keycairn.ers.keyfile import render, to_json
from keycairn.ers.keystore import keystore
from keycairn.ers.recover import RecoveredKey
from keycairn.ers.statement import KeyStatement
from keycairn.ers.wallets import descriptors, extended_key, wif
from keycairn.ports import Rng

#: All forms; ``json`` is always written.
FORMS = ("json", "pem", "wif", "xprv", "descriptors", "keystore", "children")

CHILDREN_FORMAT = "keycairn-recovered-children"
CHILDREN_VERSION = 1


def forms_of(scheme: str, curve: str, has_chain_code: bool) -> frozenset[str]:
    """The forms that a key has."""
    found = {"json"}
    if curve in ("secp256k1", "p256"):
        found.add("pem")
    if curve == "secp256k1":
        found |= {"wif", "descriptors"}
        if scheme == "ecdsa":
            found.add("keystore")
    if has_chain_code:
        found.add("children")
        if curve == "secp256k1":
            found.add("xprv")
    return frozenset(found)


def require_forms(asked: Collection[str], keys: Sequence[KeyStatement]) -> None:
    """E_MALFORMED if a form was asked for that none of the keys has."""
    have: set[str] = set()
    for key in keys:
        have |= forms_of(key.scheme, key.curve, key.chain_code_hash is not None)
    for form in asked:
        if form not in have:
            raise malformed(f"none of these keys has the form {form}")


def children_json(key: RecoveredKey, found: Sequence[Child]) -> bytes:
    """The file of a key's children."""
    s = key.statement
    g = group(s.curve)
    rows = []
    for child in found:
        row: dict[str, Any] = {
            "path": child.path,
            "public_key": child.public_key.hex(),
            "private_key": g.encode_scalar(child.private_key.reveal()).hex(),
            "addresses": child.addresses,
        }
        if s.curve == "secp256k1":
            row["wif"] = wif(child.private_key)
        rows.append(row)
    return to_json(
        {
            "format": CHILDREN_FORMAT,
            "version": CHILDREN_VERSION,
            "key_id": s.key_id,
            "curve": s.curve,
            "scheme": s.scheme,
            "public_key": s.public_key.hex(),
            "paths_left_out": key.paths_left_out,
            "children": rows,
        }
    )


def _private_descriptors(key: RecoveredKey) -> list[dict[str, Any]]:
    scheme = key.statement.scheme
    if key.chain_code is None:
        return descriptors(scheme, wif(key.private_key))
    xprv = extended_key(key.private_key, key.chain_code).xprv
    return descriptors(scheme, xprv.reveal().decode(), key.paths or ())


def _contents(
    key: RecoveredKey,
    forms: frozenset[str],
    password: SecretBytes | None,
    rng: Rng,
    warn: Callable[[str], Any],
) -> dict[str, bytes]:
    """What goes into each file, by the end of its name."""
    s = key.statement
    forms &= forms_of(s.scheme, s.curve, key.chain_code is not None)
    found = {".json": render(key, forms)}
    if "pem" in forms:
        found[".pem"] = (private_key_pem(s.curve, key.private_key.reveal()) or "").encode("ascii")
    if "descriptors" in forms:
        found[".descriptors.json"] = to_json(_private_descriptors(key))
    if "keystore" in forms and password is not None:
        found[".keystore.json"] = keystore(key.private_key, password, rng)
    if "children" in forms and key.paths and key.chain_code is not None:
        used = children(s.curve, s.scheme, key.private_key, key.chain_code, key.paths, warn)
        found[".children.json"] = children_json(key, used)
    return found


def write_keys(
    directory: Path,
    keys: Sequence[RecoveredKey],
    *,
    forms: Collection[str],
    password: SecretBytes | None,
    rng: Rng,
    warn: Callable[[str], Any] = lambda _: None,
) -> list[dict[str, Any]]:
    """Write every key to files of its own (0600) in a fresh directory: all, or none.

    Args:
        forms: of :data:`FORMS`; a key gets those of them that it has.
        password: for keystores; without it none is written.

    Returns:
        for each key: key_id, curve, public_key, generation, file, and files: a mapping from form
        to path.
    """
    chosen = frozenset(forms)
    plan: dict[Path, tuple[bytes, int]] = {}
    entries: list[dict[str, Any]] = []
    stems: set[str] = set()
    for key in keys:
        stem = _stem(key.key_id, stems)
        files = {}
        for end, data in _contents(key, chosen, password, rng, warn).items():
            path = directory / (stem + end)
            plan[path] = (data, 0o600)
            files[end.strip(".").split(".")[0]] = str(path)
        entries.append(
            {
                "key_id": key.key_id,
                "curve": key.curve,
                "public_key": key.public_key.hex(),
                "generation": key.statement.generation,
                "file": str(directory / f"{stem}.json"),
                "files": files,
            }
        )
    fresh_directory(directory)
    write_all(plan)
    return entries


def _stem(key_id: str, taken: set[str]) -> str:
    # Stems hold no dot, so that no key's file is another key's.
    first = re.sub(r"[^A-Za-z0-9_-]", "_", key_id)[:64]
    stem, number = first, 2
    while stem in taken:
        stem, number = f"{first}-{number}", number + 1
    taken.add(stem)
    return stem
