"""The applications' HTTP API of one node.

Every path but /health and /openapi.json needs ``Authorization: Bearer KEY``. A key belongs to one
application, and other applications' keys do not exist for it: the answer is the same as for a key
that nobody has.
"""

# No `from __future__ import annotations`: FastAPI must see the local dependency types below.
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import JSONResponse

from keycairn import __version__
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import Application
from keycairn.node.http import bearer, body_schema, install_errors, not_authenticated, read_body
from keycairn.node.models import CreateDocumentBody, CreateKeysBody, SignBody, child_path
from keycairn.node.views import document_json, key_json, plain, signatures_json
from keycairn.vault.api import Service

_KEY_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
#: Receipts of this node's bundles, for ``GET /v1/backups``.
Receipts = Callable[[], Awaitable[Sequence[dict[str, Any]]]]
T = TypeVar("T")


class ApiKeys:
    """Who an API key belongs to. Only SHA-256 values are kept (R-56)."""

    def __init__(self, applications: Sequence[Application]) -> None:
        self._applications = tuple(applications)

    def application(self, key: str) -> str:
        """The application of ``key``; E_AUTHN if there is none.

        All entries are compared, each in constant time: the time does not tell how much of an
        entry a wrong key matches. (It tells, by nanoseconds, which entry a *right* key is; whoever
        holds the key knows that. docs/protocols/timing.md)
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for entry in self._applications:
            if hmac.compare_digest(entry.key_sha256, digest):
                found = entry.name
        if found is None:
            raise not_authenticated()
        return found


def build_api(
    service: Service,
    applications: Sequence[Application],
    *,
    node: int,
    body_bytes: int,
    receipts: Receipts,
) -> FastAPI:
    """The FastAPI application for one node.

    Args:
        service: does the work.
        applications: who may call.
        node: this node's index, named in errors.
        body_bytes: largest body that is read.
        receipts: gives the receipts of this node's bundles.
    """
    app = FastAPI(
        title="keycairn node",
        version=__version__,
        description="Threshold keys: the same request goes to every node that takes part.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    keys = ApiKeys(applications)
    install_errors(app, node)

    async def caller(request: Request) -> str:
        name = keys.application(bearer(request))
        request.scope.setdefault("state", {})["application"] = name
        return name

    who = Annotated[str, Depends(caller)]
    path_query = Annotated[str | None, Query(min_length=1, max_length=1024)]

    @app.get("/health", summary="Whether this node can finish a round with t+1 players")
    async def health() -> JSONResponse:
        state = plain(await service.health())
        return JSONResponse(state, status_code=200 if state.get("ok") else 503)

    @app.post("/v1/keys", summary="Create keys", openapi_extra=body_schema(CreateKeysBody))
    async def create_keys(request: Request, application: who) -> JSONResponse:
        body = await read_body(request, CreateKeysBody, max_bytes=body_bytes)
        views = await service.create_keys(application, body.request())
        return JSONResponse({"keys": [key_json(v) for v in views]})

    @app.get("/v1/keys", summary="List keys in order of key id")
    async def list_keys(
        application: who,
        after: Annotated[str, Query(max_length=128)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        if after and not _KEY_ID.match(after):
            raise KeycairnError(Code.MALFORMED, "after must be a key id")
        views = await service.list_keys(application, after, limit)
        more = views[-1].key_id if len(views) == limit else None
        return JSONResponse({"keys": [key_json(v) for v in views], "after": more})

    @app.get("/v1/keys/{key_id}", summary="Show a key and, once backed up, its addresses")
    async def show_key(key_id: str, application: who, path: path_query = None) -> JSONResponse:
        if path is not None:
            child_path(path)
        view = await of_key(key_id, lambda: service.show_key(application, key_id, path))
        return JSONResponse(key_json(view))

    @app.get("/v1/keys/{key_id}/paths", summary="The derivation paths in use that are known here")
    async def key_paths(key_id: str, application: who) -> JSONResponse:
        found = await of_key(key_id, lambda: service.key_paths(application, key_id))
        return JSONResponse({"key_id": key_id, "paths": list(found)})

    @app.post(
        "/v1/keys/{key_id}/sign",
        summary="Sign a digest or a message, or up to 100 of them",
        openapi_extra=body_schema(SignBody),
    )
    async def sign(key_id: str, request: Request, application: who) -> JSONResponse:
        # The one field that may be longer than other texts is the message itself.
        body = await read_body(request, SignBody, max_bytes=body_bytes, max_string=body_bytes)
        order = body.request(key_id)
        result = await of_key(key_id, lambda: service.sign(application, order))
        return JSONResponse(signatures_json(result, many=body.items is not None))

    @app.get("/v1/keys/{key_id}/presignatures", summary="What is made ahead for this key")
    async def key_presignatures(key_id: str, application: who) -> JSONResponse:
        rows = await of_key(key_id, lambda: service.presignatures(application, key_id))
        return JSONResponse({"presignatures": plain(list(rows))})

    @app.get("/v1/presignatures", summary="What is made ahead for all keys")
    async def presignatures(application: who) -> JSONResponse:
        rows = await service.presignatures(application, None)
        return JSONResponse({"presignatures": plain(list(rows))})

    @app.delete("/v1/keys/{key_id}/presignatures", summary="Drop what is made ahead for this key")
    async def delete_key_presignatures(key_id: str, application: who) -> JSONResponse:
        done = await of_key(key_id, lambda: service.delete_presignatures(application, key_id))
        return JSONResponse(plain(done))

    @app.delete("/v1/presignatures", summary="Drop what is made ahead for all keys")
    async def delete_presignatures(application: who) -> JSONResponse:
        return JSONResponse(plain(await service.delete_presignatures(application, None)))

    @app.get("/v1/keys/{key_id}/coverage", summary="How this key is backed up")
    async def key_coverage(key_id: str, application: who) -> JSONResponse:
        rows = await of_key(key_id, lambda: service.coverage(application, key_id))
        return JSONResponse({"keys": plain(list(rows))})

    @app.get("/v1/coverage", summary="How all keys are backed up")
    async def coverage(application: who) -> JSONResponse:
        return JSONResponse({"keys": plain(list(await service.coverage(application, None)))})

    @app.post(
        "/v1/ers",
        summary="Make an emergency recovery document",
        openapi_extra=body_schema(CreateDocumentBody),
    )
    async def create_document(request: Request, application: who) -> JSONResponse:
        body = await read_body(request, CreateDocumentBody, max_bytes=body_bytes)
        return JSONResponse(
            document_json(await service.create_document(application, body.request()))
        )

    @app.get("/v1/ers", summary="Which keys have recovery documents here")
    async def ers_status(
        application: who, key_id: Annotated[str | None, Query(max_length=128)] = None
    ) -> JSONResponse:
        rows = (
            await service.ers_status(application, None)
            if key_id is None
            else await of_key(key_id, lambda: service.ers_status(application, key_id))
        )
        return JSONResponse({"keys": plain(list(rows))})

    @app.get("/v1/backups", summary="Receipts of this node's bundles")
    async def backups(application: who) -> JSONResponse:
        return JSONResponse({"backups": list(await receipts())})

    @app.get("/v1/sessions/{session_id}", summary="State of a session")
    async def session(session_id: str, application: who) -> JSONResponse:
        if not _SESSION_ID.match(session_id):
            raise KeycairnError(Code.NOT_FOUND, "no such session")
        return JSONResponse(plain(await service.session(application, session_id)))

    return app


async def of_key(key_id: str, call: Callable[[], Awaitable[T]]) -> T:
    """Run a call about one key; a key that is missing and one that is foreign look the same."""
    if _KEY_ID.match(key_id):
        try:
            return await call()
        except KeycairnError as exc:
            # A peer that lacks the key is no news about this node's own.
            if exc.code is not Code.NOT_FOUND or "reported_by" in exc.detail:
                raise
    raise KeycairnError(
        Code.NOT_FOUND,
        "this application has no such key",
        next="keycairn key list; if other nodes know it, keycairn doctor",
    )
