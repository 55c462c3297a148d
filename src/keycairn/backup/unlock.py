"""Opening a database copy with the master secret: keyring, data key, store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keycairn.backup.database import Opener
from keycairn.encoding import SecretBytes
from keycairn.encryptors import EncryptorConfig, Keyring, read_secret, unlock
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store.sqlite import SqliteStore, read_keyring
from keycairn.vault.ports import Store
from keycairn.vault.sealing import Sealer


@dataclass(frozen=True)
class SecretSource:
    """Where the master secret is; exactly one is set."""

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
    source: SecretSource,
    *,
    vault: str,
    node: int,
    clock: Clock,
    rng: Rng,
    environ: Mapping[str, str] | None = None,
) -> Opener:
    """A function that opens a database copy of this node with the secret at ``source``.

    It raises E_STORE_INTEGRITY for a wrong secret (or another node's database), E_NOT_FOUND when
    there is no secret at ``source``, E_POLICY when others can read it. The database's own keyring
    says whether the secret is a password or a key file.
    """

    async def open_copy(path: Path) -> Store:
        data_key = await asyncio.to_thread(
            _data_key, path, source, vault=vault, node=node, environ=environ
        )
        sealer = Sealer(data_key, vault=vault, node=node, rng=rng)
        return await SqliteStore.open(
            path, sealer=sealer, vault=vault, node=node, clock=clock, rng=rng
        )

    return open_copy


def _data_key(
    path: Path,
    source: SecretSource,
    *,
    vault: str,
    node: int,
    environ: Mapping[str, str] | None,
) -> SecretBytes:
    raw = read_keyring(path)
    if raw is None:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the database in the bundle has no keyring: no secret can open it",
            not_lost="Nothing was written.",
            next="use an older bundle of this node",
        )
    keyring = Keyring.decode(raw)
    config = EncryptorConfig(
        keyring.kind, source.secret_file, source.secret_env, source.secret_credential
    )
    secret = read_secret(config, environ=environ)
    try:
        return unlock(keyring, secret, vault=vault, node=node)
    except KeycairnError as exc:
        if exc.code is not Code.STORE_INTEGRITY:
            raise
        raise KeycairnError(
            exc.code,
            f"{source} does not open the database in the bundle: it is not the master secret of "
            f"node {node} of vault {vault}, or the bundle is not sound",
            not_lost="The bundle was not changed; nothing was written.",
            next=f"give node {node}'s own master secret with --secret-file",
        ) from exc
