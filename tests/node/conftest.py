"""A service that does nothing but remember: the HTTP edge is tested against the port."""

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI

from keycairn.curves import ED25519
from keycairn.errors import Code, KeycairnError
from keycairn.node.api import build_api
from keycairn.node.config import Application
from keycairn.node.http import Edge
from keycairn.ports.system import SystemClock
from keycairn.vault.api import DocumentResult, KeyView, Signature

KEYS = {"alice": "alice-key", "bob": "bob-key"}


def view(key_id: str) -> KeyView:
    return KeyView(
        key_id=key_id,
        scheme="schnorr",
        curve="ed25519",
        public_key=ED25519.base_mul(7).encode(),
        generation=1,
        threshold=1,
        players=(1, 2, 3),
        state="active",
        record_hash=bytes(32),
        backed_up="no",
        addresses={"solana": None},
        missing=("ers", "node_backup"),
        next=("keycairn ers create K1",),
    )


class FakeService:
    """Knows alice's K1 and bob's K2."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fail: Exception | None = None
        self.owners = {"K1": "alice", "K2": "bob"}
        self.stock = {"K1", "K2"}

    def own(self, application: str, key_id: str) -> None:
        if self.owners.get(key_id) != application:
            raise KeycairnError(Code.NOT_FOUND, f"no key {key_id}", detail={"key_id": key_id})

    async def health(self) -> dict[str, Any]:
        if self.fail:
            raise self.fail
        return {"ok": True, "reasons": []}

    async def create_keys(self, application: str, request: Any) -> list[KeyView]:
        self.calls.append((application, request))
        if self.fail:
            raise self.fail
        return [view("K1")]

    async def list_keys(self, application: str, after: str, limit: int) -> list[KeyView]:
        return [view(k) for k, owner in self.owners.items() if owner == application]

    async def show_key(self, application: str, key_id: str, path: str | None) -> KeyView:
        self.own(application, key_id)
        return view(key_id)

    async def key_paths(self, application: str, key_id: str) -> list[str]:
        self.own(application, key_id)
        return ["m/0"]

    async def sign(self, application: str, request: Any) -> list[Signature]:
        self.own(application, request.key_id)
        self.calls.append((application, request))
        if self.fail:
            raise self.fail
        made = Signature(bytes(64), None, None, bytes(32), (1, 2), bytes(32), bytes(32))
        return [made] * len(request.items)

    async def presignatures(
        self, application: str | None, key_id: str | None
    ) -> list[dict[str, Any]]:
        return [
            {
                "key_id": k,
                "players": [1, 2],
                "protocol": "dkls23",
                "count": 1,
                "target": 32,
                "low_water": 8,
                "storage": "memory",
                "ids": ["ab" * 32],
            }
            for k in self._stock(application, key_id)
        ]

    async def delete_presignatures(
        self, application: str | None, key_id: str | None
    ) -> dict[str, Any]:
        gone = self._stock(application, key_id)
        self.stock -= set(gone)
        return {"deleted": len(gone)}

    def _stock(self, application: str | None, key_id: str | None) -> list[str]:
        if application is not None and key_id is not None:
            self.own(application, key_id)
        return [
            k
            for k in sorted(self.stock)
            if application in (None, self.owners[k]) and key_id in (None, k)
        ]

    def statistics(self) -> dict[str, Any]:
        return {"presignatures_made": 7, "signatures": {"pool": 2, "full": 1}}

    async def create_document(self, application: str, request: Any) -> DocumentResult:
        self.calls.append((application, request))
        return DocumentResult(b'{"a":1}', "00" * 32, ("K1",), (1, 2, 3), "11" * 32)

    async def ers_status(self, application: str, key_id: str | None) -> list[dict[str, Any]]:
        return []

    async def coverage(self, application: str, key_id: str | None) -> list[dict[str, Any]]:
        if key_id is not None:
            self.own(application, key_id)
        return [{"key_id": "K1", "holds": "no"}]

    async def session(self, application: str, session_id: str) -> dict[str, Any]:
        raise KeycairnError(Code.NOT_FOUND, "no such session")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def build(service: FakeService) -> FastAPI:
    """The API over the fake service, with a key for alice and one for bob."""

    async def receipts() -> list[dict[str, Any]]:
        return []

    applications = [Application(n, sha256(k.encode()).digest()) for n, k in KEYS.items()]
    return build_api(
        service,  # type: ignore[arg-type]
        applications,
        node=1,
        body_bytes=1 << 20,
        receipts=receipts,
    )


@pytest.fixture
def api_schema() -> Any:
    """The OpenAPI description, for schemathesis."""
    return schemathesis.openapi.from_asgi("/openapi.json", build(FakeService()))


@pytest.fixture
async def http(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API, with alice's key."""
    transport = httpx.ASGITransport(Edge(build(service), clock=SystemClock()))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://node",
        headers={"Authorization": f"Bearer {KEYS['alice']}"},
    ) as client:
        yield client
