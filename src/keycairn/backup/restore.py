"""Restoring a node from its bundle: look at everything first, then write once.

:func:`plan_restore` reads and checks; it writes nothing but a sealed copy of the database in a
scratch directory, which it removes. :func:`keycairn.backup.install.execute` does what the plan
says.

Whatever database the node was on, the bundle holds a copy as one SQLite file. It becomes the node's
database, or its rows go into the server's database that the configuration names.

The six steps (docs/operations/backup-restore.md): database, encryptor, machine, addresses, files
in place, presignatures gone (there are none in a bundle; setups and nonces belong to an
incarnation, and every start draws a new one).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keycairn.backup.bundle import Bundle, check_hashes, read_bundle
from keycairn.backup.database import (
    DatabaseReport,
    Finding,
    Opener,
    as_json,
    check_plain,
    check_sealed,
    report_findings,
)
from keycairn.backup.disk import scratch_directory
from keycairn.backup.external import Checked, not_checked, refuse_failed, run_checks
from keycairn.backup.layout import Layout, Placed, make_layout
from keycairn.backup.machine import check_ports, check_target
from keycairn.backup.rewrite import check_mapping
from keycairn.backup.server import check_server, server_with_password
from keycairn.backup.unlock import opener
from keycairn.backup.verify import Unpacked, look_inside, pins
from keycairn.encoding import SecretBytes
from keycairn.encryptors import EncryptorConfig, section_config
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store import schema
from keycairn.store.database import Server
from keycairn.vault.policy import Answer


@dataclass(frozen=True)
class Step:
    """One of the six steps: what was done or found. ``answer``: ok, warn or skipped."""

    number: int
    name: str
    answer: str
    words: str

    def to_json(self) -> dict[str, Any]:
        """``{step, name, answer, words}``."""
        return {
            "step": self.number,
            "name": self.name,
            "answer": self.answer,
            "words": self.words,
        }


@dataclass(frozen=True)
class RestorePlan:
    """Everything that a restore will do, decided and checked; nothing of it done.

    Attributes:
        bundle: verified from its first to its last byte.
        sha256: of the bundle file, hex.
        into: the target directory.
        layout: where each part goes, and the new node.toml.
        report: what the database copy holds.
        opener: opens the database with the master secret, or None when it isn't here.
        server: where the rows go, with its password; None for a SQLite file.
        location: where the bundle is stored: a path, or an address in an object store.
        external: the external items, with what their checks found.
        put_back: launch files go back to where they were, too, if nothing stands there.
        steps: the first four steps, as found; the rest as planned.
        findings: what the operator should know.
    """

    bundle: Bundle
    sha256: str
    into: Path
    layout: Layout
    report: DatabaseReport
    opener: Opener | None
    server: Server | None
    identity: SecretBytes
    clock: Clock
    location: str
    encryptor: Mapping[str, str]
    external: tuple[Checked, ...]
    put_back: bool
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]
    dry_run: bool

    def to_json(self, *, done: bool = False) -> dict[str, Any]:
        """Result keys of ``node restore``; ``done`` is False for a plan or a dry run."""
        manifest = self.bundle.manifest
        config = self.into / self.layout.config_name
        start = f"keycairn node run --config {config}"
        rejoin = (
            "it rejoins by itself when all its peers answer; if one doesn't: "
            f"keycairn node rejoin --config {config}"
        )
        moved = {change.key: change.after for change in self.layout.changes}
        told = []
        if "api.listen" in moved:
            told.append(
                f"give its users the new address {moved['api.listen']}: url of node "
                f"{manifest.node} in their vault.toml"
            )
        if "links.listen" in moved:
            told.append(
                f"give its peers the new address {moved['links.listen']}: address of peer "
                f"{manifest.node} in their node.toml, then restart them"
            )
        return {
            "bundle": self.location,
            "sha256": self.sha256,
            "node": manifest.node,
            "vault": manifest.vault,
            "into": str(self.into),
            "dry_run": self.dry_run,
            "done": done,
            "steps": [step.to_json() for step in self.steps],
            "keys": self.report.keys,
            "presignatures": 0,
            "proofs_ok": as_json(self.report.proofs),
            "findings": [finding.to_json() for finding in self.findings],
            "changes": [change.to_json() for change in self.layout.changes],
            "encryptor": dict(self.encryptor),
            "database": {
                "kind": self.layout.config.database_kind,
                "url": self.layout.config.database_url,
                "password": self.layout.config.password_words(),
            },
            "external": [checked.to_json() for checked in self.external],
            "launch": [item.to_json(self.into) for item in self.layout.launch],
            "point": None if manifest.point is None else manifest.point.number,
            "next": list(
                dict.fromkeys([start, rejoin, *told, *(f.next for f in self.findings if f.next)])
            ),
        }


async def plan_restore(
    bundle: Path,
    *,
    into: Path,
    identity: SecretBytes,
    clock: Clock,
    rng: Rng,
    mapping: Mapping[str, Any] | None = None,
    node_public_key: bytes | None = None,
    node: int | None = None,
    secret_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    dry_run: bool = False,
    scratch: Path | None = None,
    location: str | None = None,
    checks: bool = True,
    put_back: bool = False,
) -> RestorePlan:
    """Check everything that a restore depends on.

    Args:
        bundle: the stored file.
        into: directory to restore to; absent, or empty.
        identity: content of the age identity file.
        clock: stamps the receipt.
        rng: for the store that is opened.
        mapping: parsed mapping file (:mod:`keycairn.backup.rewrite`), or None.
        node_public_key: the node's identity key as its peers pin it; another signer is refused.
            It may stand in the mapping instead. Without any only a dry run is possible.
        node: the player index that is expected; another node's bundle is refused.
        secret_file: the master secret, if it isn't where the configuration expects it.
        environ: process environment, for ``secret_env``.
        dry_run: report taken ports, and a server's database that can't be used, instead of
            refusing them; :func:`execute` refuses the plan.
        scratch: where the sealed database copy goes while it is looked at; the system's temporary
            directory by default.

    Raises:
        KeycairnError: E_CONFLICT (another node's bundle, target or server's database not empty,
            live node, port in use), E_NOT_FOUND (no such database, or no password for it),
            E_STORE_INTEGRITY (bundle damaged, wrong master secret), E_UNWRAP_FAILED (age
            identity), E_MALFORMED (no bundle, newer format, mapping), E_POLICY (newer schema,
            secret file readable by others, unknown signer, unfit database server), E_UNAVAILABLE
            (disk, database server, external item).
    """
    into = Path(os.path.normpath(into.absolute()))
    mapped = check_mapping(mapping or {})
    node_public_key = _pin(node_public_key, mapped.public_key)
    found = await asyncio.to_thread(read_bundle, bundle, node_public_key=node_public_key)
    manifest = found.manifest
    if node is not None and manifest.node != node:
        raise KeycairnError(
            Code.CONFLICT,
            f"this is a bundle of node {manifest.node}, not of node {node}",
            not_lost="Nothing was written.",
            next="use a bundle of this node; the node's number stands in the file's name",
        )
    sha256 = await asyncio.to_thread(check_hashes, found)
    if node_public_key is None and not dry_run:
        raise _unknown_signer(found)
    check_target(into, sha256)
    with scratch_directory(scratch, "keycairn-plan-") as directory:
        copy = directory / "node.db"
        inside = await asyncio.to_thread(look_inside, found, identity, copy)
        layout = await asyncio.to_thread(
            make_layout,
            manifest.parts,
            inside.index,
            inside.config,
            inside.config_bytes,
            home=into,
            mapped=mapped,
        )
        report = await asyncio.to_thread(check_plain, copy, manifest, pins(layout.config, manifest))
        source = _encryptor(layout, secret_file, inside.encryptor_files)
        with_secret, again = (
            opener(
                source,
                vault=manifest.vault,
                node=manifest.node,
                clock=clock,
                rng=rng,
                environ=environ,
                thorough=thorough,
            )
            for thorough in (True, False)
        )
        # Not with an unknown signer: its configuration may name a service to take our secret to.
        opened = None
        if node_public_key is not None:
            # What is unpacked to stay has the same hash: it need not be checked once more.
            opened = again if await _try_secret(copy, report, with_secret) else None
        try:
            server = await _server(
                layout,
                inside,
                into=into,
                sha256=sha256,
                environ=environ,
                scratch=directory / "files",
                pinned=node_public_key is not None,
            )
            if server is not None and opened is None:
                _require_current(report, source)
            no_server = None
        except KeycairnError as exc:
            if not dry_run:
                raise
            server, no_server = None, exc
    items = inside.index.external or ()
    if not checks or node_public_key is None:
        why = "not checked: " + ("you said so" if not checks else "the signer is not known")
        external = not_checked(items, why)
    else:
        variable = source.secret_env
        given = {k: v for k, v in (environ or os.environ).items() if k != variable}
        external = await run_checks(items, environ=given)
        if not dry_run:
            refuse_failed(external)
    ports = await asyncio.to_thread(check_ports, layout.config.listeners())
    if ports and not dry_run:
        raise KeycairnError(
            Code.CONFLICT,
            "; ".join(finding.words for finding in ports),
            not_lost="Nothing was written.",
            next=ports[0].next,
        )
    plan = RestorePlan(
        bundle=found,
        sha256=sha256,
        into=into,
        layout=layout,
        report=report,
        opener=opened,
        server=server,
        identity=identity,
        clock=clock,
        location=location or str(bundle),
        encryptor=inside.index.encryptor,
        external=tuple(external),
        put_back=put_back,
        steps=(),
        findings=(),
        dry_run=dry_run,
    )
    findings = _findings(plan, ports, pinned=node_public_key is not None, source=source)
    if no_server is not None:
        findings.insert(0, Finding("database", no_server.message, no_server.next))
    steps = _steps(plan, ports, source, no_server)
    return replace(plan, findings=tuple(findings), steps=tuple(steps))


async def _server(
    layout: Layout,
    inside: Unpacked,
    *,
    into: Path,
    sha256: str,
    environ: Mapping[str, str] | None,
    scratch: Path,
    pinned: bool,
) -> Server | None:
    """The server's database, asked and found free. Not asked for a signer who isn't known: its
    configuration may name a server to take our password to."""
    if not pinned:
        return None
    server = await asyncio.to_thread(server_with_password, layout.config, environ)
    if server is not None:
        await asyncio.to_thread(
            check_server,
            server,
            into=into,
            sha256=sha256,
            placed=layout.placed,
            files=inside.database_files,
            scratch=scratch,
        )
    return server


def _require_current(report: DatabaseReport, source: EncryptorConfig) -> None:
    if report.version != schema.SCHEMA_VERSION:
        raise KeycairnError(
            Code.NOT_FOUND,
            f"the bundle's database has schema version {report.version}, and only the master "
            f"secret can make it version {schema.SCHEMA_VERSION}; {_shown(source)} is not here",
            not_lost="Nothing was written.",
            next=f"put the master secret back ({_shown(source)}), or restore to a SQLite file "
            '(--map with database.url = "sqlite:///data/node.db")',
        )


def _encryptor(
    layout: Layout, secret_file: Path | None, files: Mapping[str, bytes]
) -> EncryptorConfig:
    # What the section names may lie in the bundle, and is not in its place yet.
    config = section_config(layout.config.encryptor(), layout.config.home)
    config = replace(config, files=files)
    return config if secret_file is None else config.with_secret_file(secret_file)


def _shown(config: EncryptorConfig) -> str:
    """The encryptor's secret in words: ``file /etc/keycairn/master.key``."""
    return config.source or f"encryptor {config.kind}"


def _pin(given: bytes | None, mapped: bytes | None) -> bytes | None:
    if given is not None and mapped is not None and given != mapped:
        raise KeycairnError(
            Code.CONFLICT,
            "mapping file: player.public_key is not the key that the vault's own files name",
            not_lost="Nothing was written.",
            next="find out which is the node's: its peers' node.toml have it as public_key",
        )
    return given or mapped


def _unknown_signer(bundle: Bundle) -> KeycairnError:
    manifest = bundle.manifest
    return KeycairnError(
        Code.POLICY,
        f"nothing here says who signed this bundle. It says that it is node {manifest.node}'s of "
        f"vault {manifest.vault}, with the key {manifest.node_public_key.hex()}; anybody can write "
        "that, and a forged configuration would be run",
        not_lost="Nothing was written.",
        next=f"compare with public_key of peer {manifest.node} in the node.toml of any other node; "
        "then repeat with --public-key and that value, with --vault FILE, or with --peer-config "
        "and the node.toml of a peer. A --dry-run needs none",
        detail={"node": manifest.node, "public_key": manifest.node_public_key.hex()},
    )


async def _try_secret(copy: Path, report: DatabaseReport, opened: Opener) -> bool:
    """Check the copy if the secret is here; a wrong secret raises, a missing one gives False."""
    try:
        await check_sealed(copy, report, opened)
    except KeycairnError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
        return False
    return True


def filed_documents(plan: RestorePlan) -> dict[str, Placed]:
    """ERS documents in the bundle by the hash of their content, whatever their names say."""
    filed = [p for p in plan.layout.placed if p.part.name.startswith("ers/")]
    return {p.part.sha256.hex(): p for p in filed}


def _findings(
    plan: RestorePlan, ports: list[Finding], *, pinned: bool, source: EncryptorConfig
) -> list[Finding]:
    found = [*ports, *report_findings(plan.report)]
    if not pinned:
        found.append(
            Finding(
                "signer",
                "no node public key was given: the bundle is whole, but only the peers' pin of "
                f"{plan.bundle.manifest.node_public_key.hex()} can tell that it is this node's",
                "compare with [[peers]] public_key in a peer's node.toml",
            )
        )
    if plan.opener is None and pinned:
        found.append(
            Finding(
                "master secret",
                f"{_shown(source)} is not here, so no share was proved and no receipt was written",
                f"put the master secret back ({_shown(source)}), then keycairn backup create",
            )
        )
    filed = filed_documents(plan)
    for row in plan.report.documents:
        if row.sha256 in filed:
            continue
        found.append(
            Finding(
                "ers document",
                f"document {row.sha256} is listed in the database but not in the bundle; it does "
                "not count until it is fetched from a peer and verified",
                "keycairn ers status",
            )
        )
    for checked in plan.external:
        if checked.answer != "ok":
            found.append(
                Finding(
                    "external item",
                    f"{checked.item.name} ({checked.item.where}): {checked.words}",
                    checked.item.how,
                )
            )
    for item in plan.layout.launch:
        if not item.there and not plan.put_back:
            found.append(
                Finding(
                    "launch file",
                    f"{item.original} is not on this machine; restored as {item.to}",
                    f"install -D {plan.into / item.to} {item.original}",
                )
            )
    return found


def _external_step(plan: RestorePlan) -> list[Step]:
    if not plan.external:
        return []
    answers = [checked.answer for checked in plan.external]
    answer = "warn" if "failed" in answers else "skipped" if "not_checked" in answers else "ok"
    words = "; ".join(f"{c.item.name} ({c.item.where}): {c.words}" for c in plan.external)
    return [Step(2, "external items", answer, words)]


def _database_step(plan: RestorePlan, no_server: KeycairnError | None) -> Step:
    manifest, config = plan.bundle.manifest, plan.layout.config
    words = (
        f"bundle of node {manifest.node}, vault {manifest.vault}: signature, all hashes and "
        f"{plan.report.keys} keys checked"
    )
    answer, server = "ok", config.server()
    if no_server is not None:
        answer, words = "warn", f"{words}; {server} can't be used: {no_server.message}"
    elif plan.server is not None:
        words += f"; {server} answers and is free"
    elif server is not None:
        answer, words = "skipped", f"{words}; {server} was not asked: the signer is not known"
    return Step(1, "database", answer, words)


def _in_place_step(plan: RestorePlan) -> Step:
    config = plan.layout.config
    words = f"{len(plan.layout.placed)} files in {plan.into}, in one step"
    server = config.server()
    if server is not None:
        words = (
            f"the database's rows into {server}, in one transaction; then "
            f"{len(plan.layout.placed) - 1} files in {plan.into}, in one step"
        )
    return Step(5, "in place", "ok", words)


def _addresses_step(plan: RestorePlan) -> Step:
    moved, name = len(plan.layout.changes), plan.layout.config_name
    words = f"{moved} values of {name} change" if moved else f"{name} stays as it was"
    password = plan.layout.config.password_words()
    if password:
        words += (
            "; the database's password is expected in "
            f"{password['source'].removeprefix('password_')} {password['where']}"
        )
    return Step(4, "addresses and credentials", "ok", words)


def _steps(
    plan: RestorePlan,
    ports: list[Finding],
    source: EncryptorConfig,
    no_server: KeycairnError | None,
) -> list[Step]:
    manifest, report = plan.bundle.manifest, plan.report
    proved = {
        Answer.YES: ("ok", f"{_shown(source)} opens it; every share fits its certified record"),
        Answer.NO: (
            "warn",
            f"{_shown(source)} opens it; not every share could be proved, see findings",
        ),
        Answer.CANT_TELL: (
            "skipped",
            f"{_shown(source)} is not here, or the signer is not known: no share was proved",
        ),
    }[report.proofs]
    return [
        _database_step(plan, no_server),
        Step(2, "encryptor", *proved),
        *_external_step(plan),
        Step(
            3,
            "machine",
            "warn" if ports else "ok",
            f"made by keycairn {manifest.keycairn}; target is free, "
            + ("ports are in use" if ports else "ports are free"),
        ),
        _addresses_step(plan),
        _in_place_step(plan),
        Step(
            6,
            "presignatures",
            "ok",
            "none: a bundle holds no presignature, nonce or setup; the node rejoins at its next "
            "start, as a new incarnation of a new era",
        ),
    ]
