"""The HTTP interface: /predict, /health, /metadata, /metrics, /openapi.json."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import time
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddleseg_segformer import __version__
from paddleseg_segformer.errors import did_you_mean
from paddleseg_segformer.serving.answers import PredictQuery
from paddleseg_segformer.serving.metadata import describe_service
from paddleseg_segformer.serving.service import Service, Timings
from paddleseg_segformer.serving.settings import Refusal
from paddleseg_segformer.serving.uploads import FIELD, FORM

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # nginx's status; for the log and the metrics, nobody reads the answer
STATE_PATHS = ("/ready", "/health", "/health/live")
UNKNOWN_KEY = {"WWW-Authenticate": "Bearer"}
PATHS = ("/predict", *STATE_PATHS, "/metadata", "/metrics", "/openapi.json")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BINARY = {"schema": {"type": "string", "format": "binary"}}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: BINARY["schema"]},
                }
            },
            "image/*": BINARY,
        },
    }
}
ERRORS = {
    400: "no image in the body",
    401: "no key, or an unknown one, where the service has keys",
    408: "the upload was too slow",
    413: "too many bytes or pixels",
    415: "neither a form nor an image",
    422: "a damaged image, one that the model does not take, or a wrong parameter",
    503: "busy, starting or stopping; Retry-After says when to try again",
}


def make_app(service: Service) -> FastAPI:
    """Return the application; it starts no thread: `service.start` does."""
    app = FastAPI(
        title="paddleseg_segformer",
        summary="Semantic segmentation of images",
        version=__version__,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        openapi_extra=UPLOAD,
        response_class=Response,
        responses={status: {"description": text} for status, text in ERRORS.items()},
    )
    for path in ("/health", "/ready"):
        app.add_api_route(path, health, methods=["GET"])
    app.add_api_route("/health/live", live, methods=["GET"])
    app.add_api_route("/metadata", metadata, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"], response_class=Response)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _internal_error)
    if service.settings.api_keys:
        app.add_middleware(KnownKeys, keys=service.settings.api_keys)
    app.add_middleware(KnownHosts, allowed=service.settings.allowed_hosts)
    app.add_middleware(Observed, service=service)
    return app


async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Predict the class of each pixel of an image.

    Send it as a file in the form field `image`, or as the body with Content-Type image/*.
    """
    service: Service = request.app.state.service
    timings: Timings = request.state.timings
    answer, outcome = await service.predict(request, query, timings)
    headers = {"X-Engine": service.engine, "X-Batch-Size": str(outcome.batch_size)}
    return Response(answer.content, media_type=answer.media_type, headers=headers)


async def health(request: Request, response: Response) -> dict[str, str]:
    """Return whether images are predicted: 200 ready; 503 starting, stopping or failed."""
    status = request.app.state.service.status
    response.status_code = 200 if status == "ready" else 503
    return {"status": status}


async def live(request: Request, response: Response) -> dict[str, str]:
    """Return whether the service works or starts: 503 means that it should be replaced."""
    status = request.app.state.service.status
    response.status_code = 503 if status == "failed" else 200
    return {"status": status}


async def metadata(request: Request) -> dict[str, Any]:
    """Return the classes, accepted images, the model's files, backend and versions."""
    service: Service = request.app.state.service
    return describe_service(service.predictor, service.settings)


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' format."""
    registry = request.app.state.service.metrics.registry
    return Response(generate_latest(registry), media_type=METRICS_TYPE)


class KnownKeys:
    """Refuses requests without one of the keys, but for those that ask about the service's state.

    A key stands in a header, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    """

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a request, if its key is known."""
        if scope["type"] == "http" and scope["path"] not in STATE_PATHS:
            headers = Headers(scope=scope)
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            found = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            # compared in a time that does not tell how much of a key is right
            if not any(hmac.compare_digest(found.encode(), key) for key in self.keys):
                answer = _error(401, "a key is needed, as Authorization: Bearer KEY", UNKNOWN_KEY)
                return await answer(scope, receive, send)
        await self.app(scope, receive, send)


class KnownHosts:
    """Refuses requests under foreign names (DNS rebinding), and those of other sites' pages.

    Addresses, `localhost` and this machine's name are known always.
    """

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self.app = app
        self.allowed = {"localhost", socket.gethostname().lower(), *map(str.lower, allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a request, unless its Host or Origin is foreign."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if host and not self._is_known(f"//{host}"):
                answer = _error(421, "unknown Host; a name has to be given as --allowed_hosts NAME")
                return await answer(scope, receive, send)
            if origin and not self._is_same(origin, host) and not self._is_allowed(origin):
                answer = _error(403, "pages of other sites may not send requests here")
                return await answer(scope, receive, send)
        await self.app(scope, receive, send)

    @staticmethod
    def _is_same(origin: str, host: str) -> bool:
        try:
            return urlsplit(origin).netloc == host
        except ValueError:  # no URL
            return False

    def _is_allowed(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        return "*" in self.allowed or name in self.allowed

    def _is_known(self, url: str) -> bool:
        try:
            ipaddress.ip_address(urlsplit(url).hostname or "")
        except ValueError:
            return self._is_allowed(url)
        return True


class Observed:
    """Counts each request, adds timings to its answer, and logs it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        timings, start, status = Timings(), time.monotonic(), 500
        scope.setdefault("state", {})["timings"] = timings

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                if timings:
                    steps = _milliseconds(timings).encode()
                    message["headers"].append((b"server-timing", steps))
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            timings["total"] = time.monotonic() - start
            self._note(scope, status, timings)

    def _note(self, scope: Scope, status: int, timings: Timings) -> None:
        path = scope["path"] if scope["path"] in PATHS else "other"
        counters = self.service.metrics
        counters.requests.labels(path, str(status)).inc()
        if path == "/predict":
            for step, seconds in timings.items():
                counters.seconds.labels(step).observe(seconds)
        if self.service.settings.is_logged:
            method = scope["method"] if scope["method"].isalpha() else "?"
            logger.info("%s %s %d %s", method, path, status, _milliseconds(timings))


def _milliseconds(timings: Timings) -> str:
    return ", ".join(f"{step};dur={1000 * seconds:.1f}" for step, seconds in timings.items())


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.message, error.headers)


async def _wrong_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _error(422, "; ".join(map(_line, error.errors())))


def _line(error: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence."""
    name = ".".join(str(part) for part in error["loc"][1:])[:40]
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}.{did_you_mean(name, PredictQuery.model_fields)}"
    found = f", found {str(error['input'])[:40]!r}" if name else ""
    return f"{name or 'parameters'}: {error['msg'].removeprefix('Value error, ')}{found}"


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code in (404, 405):
        return _error(error.status_code, f"{error.detail}. Known: {', '.join(PATHS)}", headers)
    return _error(error.status_code, " ".join(str(error.detail).split()), headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _internal_error(request: Request, error: Exception) -> Response:
    """Answer what went wrong inside without saying what; the server's log has the traceback."""
    return _error(500, "internal error; the log of the service says more.")
