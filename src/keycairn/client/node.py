"""One node's API for applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from keycairn.client.transport import JsonClient


class NodeClient(JsonClient):
    """Calls one node with one application's key. Results are the JSON objects of docs/errors.md
    and docs/operations/cli.md; nothing is checked against other nodes here (see ``Vault``)."""

    async def health(self, seconds: float = 2.0) -> dict[str, Any]:
        """``ok`` and reasons; a node that is up but can't finish a round answers too."""
        return await self.call("GET", "/health", seconds=seconds, accept=frozenset({503}))

    async def create_keys(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """``POST /v1/keys``."""
        return _list(await self.call("POST", "/v1/keys", body), "keys")

    async def list_keys(self) -> list[dict[str, Any]]:
        """All keys of this application, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = await self.call("GET", "/v1/keys", query={"after": after, "limit": 1000})
            found += _list(page, "keys")
            after = page.get("after") or ""
            if not after:
                return found

    async def show_key(self, key_id: str, path: str | None = None) -> dict[str, Any]:
        """``GET /v1/keys/{id}``."""
        query = None if path is None else {"path": path}
        return await self.call("GET", f"/v1/keys/{quote(key_id, safe='')}", query=query)

    async def key_paths(self, key_id: str) -> list[str]:
        """``GET /v1/keys/{id}/paths``."""
        body = await self.call("GET", f"/v1/keys/{quote(key_id, safe='')}/paths")
        paths = body.get("paths")
        return [str(path) for path in paths] if isinstance(paths, list) else []

    async def sign(self, key_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /v1/keys/{id}/sign``."""
        return await self.call("POST", f"/v1/keys/{quote(key_id, safe='')}/sign", body)

    async def presignatures(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """``GET /v1/presignatures``, or of one key."""
        return _list(await self.call("GET", _stock(key_id)), "presignatures")

    async def delete_presignatures(self, key_id: str | None = None) -> dict[str, Any]:
        """``DELETE /v1/presignatures``, or of one key."""
        return await self.call("DELETE", _stock(key_id))

    async def create_document(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /v1/ers``."""
        return await self.call("POST", "/v1/ers", body)

    async def ers_status(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """``GET /v1/ers``."""
        query = None if key_id is None else {"key_id": key_id}
        return _list(await self.call("GET", "/v1/ers", query=query), "keys")

    async def coverage(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """``GET /v1/coverage``, or of one key."""
        path = "/v1/coverage"
        if key_id is not None:
            path = f"/v1/keys/{quote(key_id, safe='')}/coverage"
        return _list(await self.call("GET", path), "keys")

    async def backups(self) -> list[dict[str, Any]]:
        """``GET /v1/backups``."""
        return _list(await self.call("GET", "/v1/backups"), "backups")

    async def session(self, session_id: str) -> dict[str, Any]:
        """``GET /v1/sessions/{id}``."""
        return await self.call("GET", f"/v1/sessions/{quote(session_id, safe='')}")


def _stock(key_id: str | None) -> str:
    if key_id is None:
        return "/v1/presignatures"
    return f"/v1/keys/{quote(key_id, safe='')}/presignatures"


def _list(answer: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = answer.get(key)
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
