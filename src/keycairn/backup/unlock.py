"""Opening a database copy with the encryptor: keyring, data keys, store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keycairn.backup.database import Opener
from keycairn.encryptors import DataKeys, EncryptorConfig, Keyring, open_keyring
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store.sqlite import SqliteStore, read_keyring
from keycairn.vault.ports import Store
from keycairn.vault.sealing import Sealer


@dataclass(frozen=True)
class SecretSource:
    """Where the master secret is; exactly one is set. Enough for a password or a key file: the
    keyring itself says which. Other encryptors need their configuration."""

    secret_file: Path | None = None
    secret_env: str | None = None
    secret_credential: str | None = None

    def __str__(self) -> str:
        if self.secret_file is not None:
            return f"file {self.secret_file}"
        if self.secret_env is not None:
            return f"environment variable {self.secret_env}"
        return f"systemd credential {self.secret_credential}"


def opener(
    source: SecretSource | EncryptorConfig,
    *,
    vault: str,
    node: int,
    clock: Clock,
    rng: Rng,
    environ: Mapping[str, str] | None = None,
    thorough: bool = True,
) -> Opener:
    """A function that opens a database copy of this node with the encryptor or secret ``source``.

    ``thorough``: every row is checked first; else large tables only when their rows are read.

    It raises E_STORE_INTEGRITY for a wrong secret (or another node's database), E_NOT_FOUND when
    there is no secret at ``source``, E_POLICY when others can read it, E_CONFLICT when the
    database was sealed with another kind of encryptor, and what the encryptor raises.
    """

    async def open_copy(path: Path) -> Store:
        data_keys = await asyncio.to_thread(
            _data_keys, path, source, vault=vault, node=node, rng=rng, environ=environ
        )
        sealer = Sealer(data_keys, vault=vault, node=node, rng=rng)
        return await SqliteStore.open(
            path,
            sealer=sealer,
            vault=vault,
            node=node,
            clock=clock,
            rng=rng,
            thorough=thorough,
        )

    return open_copy


def _data_keys(
    path: Path,
    source: SecretSource | EncryptorConfig,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Mapping[str, str] | None,
) -> DataKeys:
    raw = read_keyring(path)
    if raw is None:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the database in the bundle has no keyring: no secret can open it",
            not_lost="Nothing was written.",
            next="use an older bundle of this node",
        )
    if isinstance(source, EncryptorConfig):
        config, shown = (
            source,
            f"encryptor {source.kind} ({source.source or 'no secret of its own'})",
        )
    else:
        config, shown = _local(Keyring.decode(raw).kind, source), str(source)
    try:
        return open_keyring(config, raw, vault=vault, node=node, rng=rng, environ=environ)
    except KeycairnError as exc:
        if exc.code is not Code.STORE_INTEGRITY:
            raise
        raise KeycairnError(
            exc.code,
            f"{shown} does not open the database in the bundle: it is not the master secret of "
            f"node {node} of vault {vault}, or the bundle is not sound",
            not_lost="The bundle was not changed; nothing was written.",
            next=f"give node {node}'s own master secret with --secret-file",
        ) from exc


def _local(kind: str, source: SecretSource) -> EncryptorConfig:
    if kind not in ("password", "keyfile"):
        raise KeycairnError(
            Code.POLICY,
            f"the database was sealed with an encryptor of kind {kind}: a secret alone does not "
            "say where it is",
            not_lost="The bundle was not changed; nothing was written.",
            next="give --encryptor FILE, a TOML file with [encryptor] as in node.toml; or say "
            "who must have signed the bundle (--vault, --public-key, --config): then [encryptor] "
            "is taken from the bundle's own node.toml",
        )
    return EncryptorConfig(kind, source.secret_file, source.secret_env, source.secret_credential)
