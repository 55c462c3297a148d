"""One node's management API, for its operator on the same machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from keycairn.client.transport import JsonClient
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig

#: A point's bundles are written and read back; the nodes themselves wait a little less.
_POINT_SECONDS = 660.0


class OperatorClient(JsonClient):
    """Calls a node's management listener. :meth:`of` finds address and token by node.toml."""

    @classmethod
    def of(cls, config: NodeConfig) -> OperatorClient:
        """The client for the node that runs with this configuration.

        Raises:
            KeycairnError: E_UNAVAILABLE when the node isn't running (it writes its token when it
                starts and removes it when it stops).
        """
        try:
            token = config.token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"node {config.index} is not running, or belongs to another user: "
                f"{config.token_file} cannot be read",
                next=f"keycairn node run --config {config.file}",
                node=config.index,
            ) from exc
        return cls(f"http://{config.management}", token, index=config.index)

    async def status(self) -> dict[str, Any]:
        return await self.call("GET", "/v1/status")

    async def peers(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = (await self.call("GET", "/v1/peers"))["peers"]
        return answer

    async def unban(self, peer: int) -> dict[str, Any]:
        """Lift every ban of a peer; idempotent."""
        return await self.call("POST", f"/v1/peers/{peer}/unban", {})

    async def rejoin(self, *, without_witnesses: bool = False) -> dict[str, Any]:
        """Leave quarantine in a new era."""
        return await self.call("POST", "/v1/rejoin", {"without_witnesses": without_witnesses})

    async def presignatures(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """What is made ahead for a key, or for all keys of all applications."""
        query = None if key_id is None else {"key_id": key_id}
        answer = await self.call("GET", "/v1/presignatures", query=query)
        rows: list[dict[str, Any]] = answer["presignatures"]
        return rows

    async def delete_presignatures(self, key_id: str | None = None) -> dict[str, Any]:
        """Drop it; idempotent."""
        query = None if key_id is None else {"key_id": key_id}
        return await self.call("DELETE", "/v1/presignatures", query=query)

    async def digest(self) -> str:
        return str((await self.call("GET", "/v1/digest"))["digest"])

    async def shutdown(self) -> None:
        await self.call("POST", "/v1/shutdown", {})

    async def metrics(self) -> str:
        answer: httpx.Response = await self.send("GET", "/metrics")
        return answer.text

    async def ers_key_add(
        self, spki: bytes, *, expires_us: int | None = None, legacy_2048: bool = False
    ) -> dict[str, Any]:
        body = {"rsa_spki": spki.hex(), "expires_us": expires_us, "legacy_2048": legacy_2048}
        return await self.call("POST", "/v1/ers/keys", body)

    async def ers_key_confirm(self, answers: dict[str, Any]) -> dict[str, Any]:
        return await self.call("POST", "/v1/ers/keys/confirm", {"answers": answers})

    async def ers_keys(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = (await self.call("GET", "/v1/ers/keys"))["keys"]
        return answer

    async def ers_key_attest(self, sha256: str) -> dict[str, Any]:
        return await self.call("POST", f"/v1/ers/keys/{sha256}/attest", {})

    async def ers_key_remove(self, sha256: str, *, force: bool = False) -> dict[str, Any]:
        """E_CONFLICT while some key's only document is under it, unless ``force``."""
        query = {"force": "true"} if force else None
        return await self.call("DELETE", f"/v1/ers/keys/{sha256}", query=query)

    async def ers(self) -> dict[str, Any]:
        """Counts of keys by status, ages of checks, sinks."""
        return await self.call("GET", "/v1/ers")

    async def encryptor_check(self) -> dict[str, Any]:
        return await self.call("POST", "/v1/encryptor/check", {})

    async def encryptor_rotate(self, to_config: Path | None = None) -> dict[str, Any]:
        """A new master key; ``to_config``: a file on the node's machine with its encryptor."""
        body = {} if to_config is None else {"to_config": str(to_config.absolute())}
        return await self.call("POST", "/v1/encryptor/rotate", body)

    async def backup_create(self) -> dict[str, Any]:
        """Write a bundle now; ``seconds`` is how long it took."""
        made = await self.call("POST", "/v1/backups", {})
        made["seconds"] = made.pop("milliseconds", 0) / 1000
        return made

    async def backup_status(self) -> dict[str, Any]:
        return await self.call("GET", "/v1/backups/status")

    async def backup_prune(self, *, dry_run: bool = False) -> dict[str, Any]:
        return await self.call("POST", "/v1/backups/prune", {"dry_run": dry_run})

    async def backup_register(self, location: str, *, dump: bool = False) -> dict[str, Any]:
        return await self.call("POST", "/v1/backups/register", {"location": location, "dump": dump})

    async def backup_verified(self, sha256: str) -> dict[str, Any]:
        """Note that a trial of this bundle succeeded."""
        return await self.call("POST", f"/v1/backups/{sha256}/verified", {})

    async def backup_point(self, step: str, **more: Any) -> dict[str, Any]:
        """One step of a backup point, or "lead"; :mod:`keycairn.node.points`."""
        made = await self.call(
            "POST", "/v1/backups/point", {"step": step, **more}, seconds=_POINT_SECONDS
        )
        if "milliseconds" in made:
            made["seconds"] = made.pop("milliseconds") / 1000
        return made

    async def backups(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = (await self.call("GET", "/v1/backups"))["backups"]
        return answer
