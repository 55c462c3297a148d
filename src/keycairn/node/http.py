"""What both HTTP listeners share: bodies, errors, the request log. No header names the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keycairn.encoding.strict import MAX_STRING, decode_json
from keycairn.errors import Code, KeycairnError
from keycairn.node.logs import exception_fields, logger
from keycairn.node.models import Model, parse
from keycairn.ports import Clock

#: Bodies above this are parsed outside the event loop, so that they don't delay other requests.
_BIG = 16 << 10
_BODY_SECONDS = 30

#: Told about every finished request: method, route template, status, seconds.
Observer = Callable[[str, str, int, float], None]


def error_response(error: KeycairnError, node: int) -> JSONResponse:
    """The documented error object with its HTTP status."""
    if error.node is None:
        error.node = node
    headers = {}
    if error.code is Code.AUTHN:
        headers["WWW-Authenticate"] = "Bearer"
    if error.code is Code.TOO_LARGE:
        headers["Connection"] = "close"  # The rest of the body is not read.
    return JSONResponse(error.to_json(), status_code=error.http_status, headers=headers)


async def read_body(
    request: Request, model: type[Model], *, max_bytes: int, max_string: int = MAX_STRING
) -> Model:
    """Read, decode and validate a JSON body; limits come before parsing (R-51).

    Raises:
        KeycairnError: E_TOO_LARGE, E_MALFORMED, E_BAD_INDEX.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise KeycairnError(Code.MALFORMED, "compressed bodies are not accepted")
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise KeycairnError(Code.MALFORMED, "the body must be application/json")
    declared = request.headers.get("content-length")
    # uvicorn has refused lengths that are not plain digits.
    if declared is not None and (len(declared) > 12 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise KeycairnError(Code.MALFORMED, "the body did not arrive in time") from None
    raw = bytes(data)

    def decode() -> Model:
        return parse(model, decode_json(raw, max_bytes=max_bytes, max_string=max_string))

    return await asyncio.to_thread(decode) if len(raw) > _BIG else decode()


def _too_large(limit: int) -> KeycairnError:
    return KeycairnError(
        Code.TOO_LARGE,
        f"body larger than {limit} bytes",
        not_lost="Nothing of it was read further or kept.",
    )


def body_schema(model: type[Model]) -> dict[str, Any]:
    """``openapi_extra`` for a route whose body is read with :func:`read_body`."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


def bearer(request: Request) -> str:
    """The bearer token of a request; E_AUTHN if there is none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise not_authenticated()
    return value


def not_authenticated() -> KeycairnError:
    """One answer for a missing, malformed or wrong credential."""
    return KeycairnError(
        Code.AUTHN,
        "the request carries no valid API key",
        next="send the header `Authorization: Bearer KEY` with a key of this node",
    )


def install_errors(app: FastAPI, node: int) -> None:
    """Turn whatever goes wrong inside ``app`` into the documented error object."""

    async def known(_request: Request, exc: Exception) -> Response:
        error = exc if isinstance(exc, KeycairnError) else _unexpected(exc)
        return error_response(error, node)

    async def invalid(_request: Request, exc: Exception) -> Response:
        fields = exc.errors() if isinstance(exc, RequestValidationError) else []
        where = ".".join(str(p) for p in fields[0]["loc"])[:64] if fields else "request"
        return error_response(KeycairnError(Code.MALFORMED, f"{where} is not acceptable"), node)

    async def routing(_request: Request, exc: Exception) -> Response:
        if getattr(exc, "status_code", 404) == 405:
            body = KeycairnError(Code.NOT_FOUND, "this path does not know that method", node=node)
            allow = getattr(exc, "headers", None)
            return JSONResponse(body.to_json(), status_code=405, headers=allow)
        return error_response(KeycairnError(Code.NOT_FOUND, "no such path"), node)

    app.add_exception_handler(KeycairnError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, known)


def _unexpected(exc: BaseException) -> KeycairnError:
    logger().error("unexpected", **exception_fields(exc))
    return KeycairnError(
        Code.UNAVAILABLE,
        "the node met an error that it did not expect",
        not_lost="Keys and shares are unchanged.",
        next="look for the event `unexpected` in this node's log and report it",
    )


class Edge:
    """Outermost ASGI layer: request log, metrics, security headers; nothing escapes it."""

    def __init__(self, app: ASGIApp, *, clock: Clock, observers: Iterable[Observer] = ()) -> None:
        self.app = app
        self._clock = clock
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = self._clock.monotonic()
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as exc:  # The inner handler has answered already; see _unexpected.
            if status == 0:
                await error_response(_unexpected(exc), 0)(scope, receive, send_on)
        finally:
            seconds = self._clock.monotonic() - began
            route = getattr(scope.get("route"), "path", "other")
            if route != "/health" or status >= 500:
                logger().info(
                    "request",
                    method=scope["method"][:8],
                    route=route,
                    status=status,
                    milliseconds=round(seconds * 1000),
                    application=scope.get("state", {}).get("application"),
                )
            for observe in self._observers:
                observe(scope["method"][:8], route, status, seconds)
