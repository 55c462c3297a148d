"""The operator's API of one node: a listener of its own, on this machine only.

The token is drawn at every start and written to ``management.token`` (mode 0600) beside the
database: whoever can read that file operates the node already. It is not an API key, and API keys
are nothing here.
"""

# No `from __future__ import annotations`: FastAPI must see the local dependency types below.
import asyncio
import hmac
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import JSONResponse, Response

from keycairn import __version__
from keycairn.encoding.strict import decode_hex
from keycairn.errors import Code, KeycairnError
from keycairn.node.http import bearer, body_schema, install_errors, not_authenticated, read_body
from keycairn.node.metrics import Metrics
from keycairn.node.models import (
    AnswersBody,
    EmptyBody,
    ErsKeyBody,
    PointBody,
    PruneBody,
    RegisterBody,
    RejoinBody,
    RotateBody,
)
from keycairn.node.points import Points
from keycairn.node.schedule import Scheduler
from keycairn.node.space import low_space
from keycairn.node.views import bundle_json, ers_key_json, plain
from keycairn.vault.api import Service
from keycairn.vault.ports import BundleRow

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PLAYER = re.compile(r"[1-9][0-9]{0,2}\Z")
_BODY = 1 << 20


class Backups(Protocol):
    """Makes and lists this node's bundles."""

    async def create(self) -> dict[str, Any]:
        """Write a bundle to the first target, read it back, keep the receipt; result keys of
        ``backup create``."""
        ...

    async def list(self) -> Sequence[BundleRow]: ...

    async def prune(self, *, dry_run: bool) -> dict[str, Any]: ...

    async def register(self, location: str, *, dump: bool) -> dict[str, Any]: ...

    async def verified(self, sha256: str) -> dict[str, Any]: ...

    async def status(self) -> dict[str, Any]: ...

    async def findings(self) -> Sequence[dict[str, Any]]: ...

    @property
    def schedule(self) -> Scheduler: ...

    @property
    def points(self) -> Points: ...


class Emergency(Protocol):
    """Looks after this node's recovery documents."""

    async def findings(self) -> Sequence[dict[str, Any]]: ...

    async def state(self) -> dict[str, Any]:
        """What metrics say (:class:`keycairn.node.ers_watch.ErsWatch`)."""
        ...


class Encryption(Protocol):
    """Looks after this node's encryptor."""

    async def check(self) -> dict[str, Any]:
        """Result keys of ``encryptor check``."""
        ...

    async def rotate(self, to_config: Path | None = None) -> dict[str, Any]:
        """Result keys of ``encryptor rotate``."""
        ...


def build_management(
    service: Service,
    *,
    node: int,
    token: str,
    backups: Backups,
    metrics: Metrics,
    shutdown: Callable[[], None],
    encryption: Encryption | None = None,
    ers: Emergency | None = None,
    places: Sequence[Path] = (),
) -> FastAPI:
    """The FastAPI application for one node's operator.

    Args:
        service: does the work.
        node: this node's index.
        token: of the operator.
        backups: makes and lists bundles.
        metrics: are rendered.
        shutdown: stops the node.
        encryption: looks after the encryptor; None: its routes are not there.
        ers: looks after recovery documents; None: nothing is said of them.
        places: directories that need free space.
    """

    async def operator(request: Request) -> None:
        if not hmac.compare_digest(bearer(request).encode(), token.encode()):
            raise not_authenticated()

    app = FastAPI(
        title="keycairn node management",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_url=None,
        dependencies=[Depends(operator)],
    )
    install_errors(app, node)
    key_query = Annotated[str | None, Query(min_length=1, max_length=128)]
    spki_hash = Annotated[str, Depends(_spki_hash)]

    @app.get("/v1/status")
    async def status() -> JSONResponse:
        state = await service.status()
        low = await asyncio.to_thread(low_space, places)
        kept = [*await backups.findings(), *(await ers.findings() if ers is not None else ())]
        return JSONResponse(plain({**state, "findings": [*state["findings"], *low, *kept]}))

    @app.post("/v1/rejoin", openapi_extra=body_schema(RejoinBody))
    async def rejoin(request: Request) -> JSONResponse:
        body = await read_body(request, RejoinBody, max_bytes=_BODY)
        made = await service.rejoin(without_witnesses=body.without_witnesses)
        return JSONResponse(plain(made))

    @app.get("/v1/peers")
    async def peers() -> JSONResponse:
        return JSONResponse({"peers": plain(list(await service.peers()))})

    @app.post("/v1/peers/{index}/unban", openapi_extra=body_schema(EmptyBody))
    async def unban(index: Annotated[int, Depends(_player)], request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        return JSONResponse(plain(await service.unban(index)))

    @app.get("/v1/digest")
    async def digest() -> JSONResponse:
        return JSONResponse({"digest": (await service.state_digest()).hex()})

    @app.get("/v1/presignatures")
    async def presignatures(key_id: key_query = None) -> JSONResponse:
        rows = await service.presignatures(None, key_id)
        return JSONResponse({"presignatures": plain(list(rows))})

    @app.delete("/v1/presignatures")
    async def delete_presignatures(key_id: key_query = None) -> JSONResponse:
        return JSONResponse(plain(await service.delete_presignatures(None, key_id)))

    @app.post("/v1/shutdown", openapi_extra=body_schema(EmptyBody))
    async def stop(request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        shutdown()
        return JSONResponse({"stopping": True})

    @app.get("/v1/ers/keys")
    async def ers_keys() -> JSONResponse:
        views = await service.ers_key_list()
        return JSONResponse({"keys": [ers_key_json(v, node) for v in views]})

    @app.post("/v1/ers/keys", openapi_extra=body_schema(ErsKeyBody))
    async def ers_key_add(request: Request) -> JSONResponse:
        body = await read_body(request, ErsKeyBody, max_bytes=_BODY)
        spki = decode_hex(body.rsa_spki, what="rsa_spki")
        return JSONResponse(
            plain(await service.ers_key_add(spki, body.expires_us, body.legacy_2048))
        )

    @app.post("/v1/ers/keys/confirm", openapi_extra=body_schema(AnswersBody))
    async def ers_key_confirm(request: Request) -> JSONResponse:
        body = await read_body(request, AnswersBody, max_bytes=_BODY)
        return JSONResponse(ers_key_json(await service.ers_key_confirm(body.answers), node))

    @app.post("/v1/ers/keys/{sha256}/attest", openapi_extra=body_schema(EmptyBody))
    async def ers_key_attest(sha256: spki_hash, request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        return JSONResponse(plain(await service.ers_key_attest(sha256)))

    @app.get("/v1/ers")
    async def ers_state() -> JSONResponse:
        return JSONResponse(plain({} if ers is None else await ers.state()))

    @app.delete("/v1/ers/keys/{sha256}")
    async def ers_key_remove(sha256: spki_hash, force: bool = False) -> JSONResponse:
        await service.ers_key_remove(sha256, force)
        return JSONResponse({"removed": sha256, "nodes": [node]})

    @app.post("/v1/backups", openapi_extra=body_schema(EmptyBody))
    async def backup_create(request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        return JSONResponse(plain(await backups.create()))

    @app.get("/v1/backups")
    async def backup_list() -> JSONResponse:
        rows = await backups.list()
        return JSONResponse({"backups": [bundle_json(r, operator=True) for r in rows]})

    @app.get("/v1/backups/status")
    async def backup_status() -> JSONResponse:
        return JSONResponse(plain(await backups.status()))

    @app.post("/v1/backups/prune", openapi_extra=body_schema(PruneBody))
    async def backup_prune(request: Request) -> JSONResponse:
        body = await read_body(request, PruneBody, max_bytes=_BODY)
        return JSONResponse(plain(await backups.prune(dry_run=body.dry_run)))

    @app.post("/v1/backups/register", openapi_extra=body_schema(RegisterBody))
    async def backup_register(request: Request) -> JSONResponse:
        body = await read_body(request, RegisterBody, max_bytes=_BODY)
        return JSONResponse(plain(await backups.register(body.location, dump=body.dump)))

    @app.post("/v1/backups/{sha256}/verified", openapi_extra=body_schema(EmptyBody))
    async def backup_verified(sha256: spki_hash, request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        return JSONResponse(plain(await backups.verified(sha256)))

    @app.post("/v1/backups/point", openapi_extra=body_schema(PointBody))
    async def backup_point(request: Request) -> JSONResponse:
        body = await read_body(request, PointBody, max_bytes=_BODY)
        made = await backups.points.step(
            body.step,
            number=body.number,
            id=None if body.id is None else bytes.fromhex(body.id),
            seconds=body.seconds,
        )
        return JSONResponse(plain(made))

    if encryption is not None:
        _encryptor_routes(app, encryption)

    @app.get("/metrics")
    async def metrics_text() -> Response:
        metrics.backups(await backups.schedule.state())
        if ers is not None:
            metrics.ers(await ers.state())
        body, kind = metrics.render(
            await service.health(),
            await service.peers(),
            await service.presignatures(None, None),
            service.statistics(),
        )
        return Response(body, headers={"content-type": kind})

    return app


def _encryptor_routes(app: FastAPI, encryption: Encryption) -> None:
    @app.post("/v1/encryptor/check", openapi_extra=body_schema(EmptyBody))
    async def check(request: Request) -> JSONResponse:
        await read_body(request, EmptyBody, max_bytes=_BODY)
        return JSONResponse(await encryption.check())

    @app.post("/v1/encryptor/rotate", openapi_extra=body_schema(RotateBody))
    async def rotate(request: Request) -> JSONResponse:
        body = await read_body(request, RotateBody, max_bytes=_BODY)
        # A file on this machine, which must be its owner's alone: no address comes in by the API.
        target = None if body.to_config is None else Path(body.to_config)
        return JSONResponse(await encryption.rotate(target))


async def _player(index: str) -> int:
    if not _PLAYER.match(index):
        raise KeycairnError(Code.BAD_INDEX, "a player is a number from 1 to 255")
    return int(index)


async def _spki_hash(sha256: str) -> str:
    if not _SHA256.match(sha256):
        raise KeycairnError(Code.NOT_FOUND, "no such key on this node's allow-list")
    return sha256
