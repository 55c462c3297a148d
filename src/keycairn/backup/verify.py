"""Is this stored file a good backup? Three levels, each including the one before.

* ``manifest``: the node wrote this header, and the file has the size that it says.
* ``hashes``: the whole stored file was read back and is what was written. Needs no secret, so
  anybody who keeps copies can do it.
* ``trial``: decrypted with the age identity, unpacked, database opened; with the master secret
  every share is unsealed and compared with the certified public record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from keycairn.backup.archive import Sink
from keycairn.backup.bundle import Bundle, check_hashes, damaged, read_bundle, unpack
from keycairn.backup.collect import CONFIG, DATABASE, IDENTITY, INDEX, Index, public_half
from keycairn.backup.database import (
    DatabaseReport,
    Finding,
    Opener,
    as_json,
    check_plain,
    check_sealed,
    report_findings,
)
from keycairn.backup.disk import create_private, disk_errors, scratch_directory
from keycairn.backup.external import Checked, not_checked, run_checks
from keycairn.backup.manifest import Manifest, Part
from keycairn.backup.nodefile import MAX_CONFIG, NodeFile
from keycairn.encoding import SecretBytes
from keycairn.encryptors import EncryptorConfig, section_config
from keycairn.errors import Code, KeycairnError
from keycairn.vault.policy import Answer

#: Parts that hold what ``[encryptor]`` names, such as ``ca_file``, and ``[database] url``.
ENCRYPTOR_FILES = "files/encryptor."
DATABASE_FILES = "files/database."
LEVELS = ("manifest", "hashes", "trial")


@dataclass(frozen=True)
class VerifyReport:
    """What was found. Whatever is wrong raises; this lists what is right, and what is open.

    Attributes:
        path: the stored file.
        level: "manifest", "hashes" or "trial".
        manifest: what the bundle says of itself.
        size: bytes of the file.
        sha256: of the file, hex; None at level "manifest".
        not_checked: what this level, or a missing key or secret, left open.
        proofs: whether every share fits its certified record.
        findings: what the operator should know.
    """

    path: Path
    level: str
    manifest: Manifest
    size: int
    sha256: str | None
    not_checked: tuple[str, ...] = ()
    proofs: Answer = Answer.CANT_TELL
    findings: tuple[Finding, ...] = ()
    external: tuple[Checked, ...] = ()
    location: str = ""

    @property
    def signer_known(self) -> bool:
        """Whether the signature was checked against a key from elsewhere."""
        return UNPINNED not in self.not_checked

    def to_json(self) -> dict[str, Any]:
        """Result keys of ``backup verify``. ``verified`` is true only when all that the level
        promises was checked, the signer among it."""
        manifest = self.manifest
        return {
            "bundle": self.location or str(self.path),
            "sha256": self.sha256,
            "size": self.size,
            "keys": len(manifest.keys),
            "level": self.level,
            "verified": self.signer_known
            and self.proofs is not Answer.NO
            and all(checked.answer != "failed" for checked in self.external),
            "node": manifest.node,
            "vault": manifest.vault,
            "node_public_key": manifest.node_public_key.hex(),
            "created_us": manifest.created_us,
            "proofs_ok": as_json(self.proofs),
            "not_checked": list(self.not_checked),
            "findings": [f.to_json() for f in self.findings],
            "external": [checked.to_json() for checked in self.external],
            "point": None if manifest.point is None else manifest.point.number,
        }


UNPINNED = "who signed it: no node public key was given, the manifest's own was used"
NO_PAYLOAD = "the payload: only the header was read"
NO_IDENTITY = "what is inside: needs the age identity (level trial)"
NO_SECRET = "sealed rows and shares: need the master secret"  # noqa: S105


@dataclass
class Unpacked:
    """The small parts of a payload, in memory."""

    index: Index
    config: NodeFile
    config_bytes: bytes
    encryptor_files: Mapping[str, bytes] = field(default_factory=dict)
    database_files: Mapping[str, bytes] = field(default_factory=dict)

    def encryptor(self) -> EncryptorConfig:
        """``[encryptor]`` of the configuration, with the files that it names out of the bundle."""
        made = section_config(self.config.encryptor(), self.config.home)
        return replace(made, files=self.encryptor_files)


@dataclass
class _Sinks:
    """Keeps index and configuration, writes the database to a file, and only checks the rest."""

    database: Path | None
    kept: dict[str, BytesIO] = field(default_factory=dict)
    opened: list[Any] = field(default_factory=list)

    def __call__(self, part: Part) -> Sink | None:
        if part.name in (INDEX, CONFIG, IDENTITY) or _is_asked_for(part):
            return self.kept.setdefault(part.name, BytesIO())
        if part.name == DATABASE and self.database is not None:
            out = create_private(self.database)
            self.opened.append(out)
            return out
        return None

    def close(self) -> None:
        for out in self.opened:
            out.close()


def _is_asked_for(part: Part) -> bool:
    """A small file that ``[encryptor]`` or ``[database] url`` names: a service's certificate."""
    return part.name.startswith((ENCRYPTOR_FILES, DATABASE_FILES)) and part.size <= MAX_CONFIG


def look_inside(bundle: Bundle, identity: SecretBytes, database: Path | None) -> Unpacked:
    """Decrypt and check the whole payload, keeping index and configuration in memory.

    Args:
        bundle: with its header checked.
        identity: content of an age identity file.
        database: new file for the database copy, or None to write nothing at all.

    Raises:
        KeycairnError: as :func:`~keycairn.backup.bundle.unpack`; E_STORE_INTEGRITY when the
            index doesn't fit the manifest, or the configuration is another node's.
    """
    sinks = _Sinks(database)
    with disk_errors("the trial copy can't be written"):
        try:
            unpack(bundle, identity, sinks)
        finally:
            sinks.close()
    manifest = bundle.manifest
    names = [part.name for part in manifest.parts]
    if not {INDEX, CONFIG, DATABASE, IDENTITY} <= set(names):
        damaged("a part that every bundle has is missing")
    index = Index.from_bytes(sinks.kept[INDEX].getvalue())
    if set(index.origins) != set(names) - {INDEX}:
        damaged("its index lists other parts than its manifest")
    raw = sinks.kept[CONFIG].getvalue()
    if len(raw) > MAX_CONFIG:
        damaged("its configuration is too large")
    config = NodeFile.parse(raw, Path(index.home))
    if (config.vault, config.index) != (manifest.vault, manifest.node):
        damaged("its configuration belongs to another node")
    if public_half(sinks.kept[IDENTITY].getvalue()) != manifest.node_public_key:
        damaged("it was signed with another key than the identity key inside")
    for_encryptor, for_database = (
        {
            name.removeprefix(prefix): kept.getvalue()
            for name, kept in sinks.kept.items()
            if name.startswith(prefix)
        }
        for prefix in (ENCRYPTOR_FILES, DATABASE_FILES)
    )
    return Unpacked(index, config, raw, for_encryptor, for_database)


def pins(config: NodeFile, manifest: Manifest) -> Mapping[int, bytes]:
    """Identity keys of all players, as the bundle's own configuration pins them."""
    return {**config.peers, manifest.node: manifest.node_public_key}


async def verify_bundle(
    path: Path,
    *,
    node_public_key: bytes | None = None,
    identity: SecretBytes | None = None,
    opener: Opener | None = None,
    unlock: Callable[[Unpacked], Opener] | None = None,
    level: str = "hashes",
    scratch: Path | None = None,
    location: str = "",
    checks: bool = True,
) -> VerifyReport:
    """Verify a stored bundle, reading nothing but the stored file.

    Args:
        path: the file.
        node_public_key: the node's Ed25519 identity key, 32 bytes, from elsewhere; without it
            nobody can tell who made the bundle, and the report says so.
        identity: content of an age identity file; level "trial" needs it.
        opener: opens the database copy with the master secret
            (:func:`keycairn.backup.unlock.opener`); optional.
        unlock: instead, makes the opener of what is inside: an encryptor may be known from the
            bundle's own configuration only. Without ``node_public_key`` it is not called: that
            configuration may name a service to take our secret to.
        level: "manifest", "hashes" or "trial".
        scratch: directory for the trial's database copy, which is removed afterwards; the
            system's temporary directory by default. The copy is sealed as the database is.

    Raises:
        KeycairnError: E_MALFORMED, E_STORE_INTEGRITY, E_CONFLICT (another node's), E_UNWRAP_FAILED
            (age identity), E_UNAVAILABLE.
    """
    if level not in LEVELS:
        raise KeycairnError(Code.MALFORMED, f"level must be one of {', '.join(LEVELS)}")
    if level == "trial" and identity is None:
        raise KeycairnError(
            Code.MALFORMED,
            "a trial needs the age identity that decrypts the bundle",
            next="give --identity FILE, or use --level hashes",
        )
    bundle = await asyncio.to_thread(read_bundle, path, node_public_key=node_public_key)
    size = bundle.payload_offset + bundle.manifest.payload_size
    open_points = [UNPINNED] if node_public_key is None else []
    if level == "manifest":
        points = (*open_points, NO_PAYLOAD)
        return VerifyReport(path, level, bundle.manifest, size, None, points, location=location)
    sha256 = await asyncio.to_thread(check_hashes, bundle)
    if level == "hashes" or identity is None:
        points = (*open_points, NO_IDENTITY)
        manifest = bundle.manifest
        return VerifyReport(path, level, manifest, size, sha256, points, location=location)
    with scratch_directory(scratch, "keycairn-trial-") as directory:
        if node_public_key is None:
            unlock = None
        report, index = await trial(bundle, identity, opener, unlock, directory)
    if opener is None and unlock is None:
        open_points.append(NO_SECRET)
    items = index.external or ()
    if checks and node_public_key is not None:
        external = await run_checks(items, environ=os.environ)
    else:
        external = not_checked(items, "not checked: the signer is not known, or you said so")
    findings = report_findings(report)
    findings += [
        Finding("external item", f"{c.item.name} ({c.item.where}): {c.words}", c.item.how)
        for c in external
        if c.answer == "failed"
    ]
    open_points += [
        f"external item {c.item.name}: {c.words}" for c in external if c.answer == "not_checked"
    ]
    return VerifyReport(
        path,
        level,
        bundle.manifest,
        size,
        sha256,
        tuple(open_points),
        report.proofs,
        tuple(findings),
        tuple(external),
        location,
    )


async def trial(
    bundle: Bundle,
    identity: SecretBytes,
    opener: Opener | None,
    unlock: Callable[[Unpacked], Opener] | None,
    directory: Path,
) -> tuple[DatabaseReport, Index]:
    """Unpack the database into ``directory`` and look into it (:mod:`keycairn.backup.database`)."""
    copy = directory / "node.db"
    inside = await asyncio.to_thread(look_inside, bundle, identity, copy)
    found = pins(inside.config, bundle.manifest)
    report = await asyncio.to_thread(check_plain, copy, bundle.manifest, found)
    if opener is None and unlock is not None:
        opener = unlock(inside)
    if opener is not None:
        await check_sealed(copy, report, opener)
    return report, inside.index
