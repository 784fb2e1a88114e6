"""The image in a request's body: whole or as a part of a form, within limits on bytes and time."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

import anyio
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from paddleseg_segformer.serving.settings import Refusal

FIELD = "image"
FORM = "multipart/form-data"
FORM_BYTES = 1 << 16  # what a form may hold besides the image
RAW = ("application/octet-stream", "application/x-npy")
CURL = f"curl -F {FIELD}=@street.jpg URL"


class _InMemoryParser(MultiPartParser):
    spool_max_size = sys.maxsize  # the body is bounded, and in memory already


async def read_upload(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return the image file in a request.

    Raises:
        Refusal: a body of another kind, too large, too slow, or without an image.
        ClientDisconnect: the client has gone.
    """
    is_form = _is_form(request)
    limit = max_bytes + (FORM_BYTES if is_form else 0)
    try:
        with anyio.fail_after(timeout_s):
            body = await _read_body(request, limit, max_bytes)
    except TimeoutError:
        raise Refusal(
            408, f"the upload took more than {timeout_s:g} s.", {"Connection": "close"}
        ) from None
    content = await _image_part(request, body) if is_form else body
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    if not content:
        raise Refusal(400, "image: found 0 bytes, expected an image file.")
    return content


def _is_form(request: Request) -> bool:
    """Tell a form from an image as the whole body."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "Content-Encoding: expected none; images are compressed already.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return True
    if kind.startswith("image/") or kind in RAW:
        return False
    raise Refusal(
        415,
        f"Content-Type: found {kind[:100]!r}, expected {FORM} with a file in the field '{FIELD}', "
        f"or an image as the body with image/*. Try: {CURL}",
    )


async def _read_body(request: Request, limit: int, max_bytes: int) -> bytes:
    """Return the body, of at most `limit` bytes; its Content-Length is checked first."""
    claimed = request.headers.get("content-length", "0")
    if not claimed.isdecimal() or int(claimed) > limit:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(max_bytes)
    return bytes(body)


async def _image_part(request: Request, body: bytes) -> bytes:
    """Return the one file of a form.

    Raises:
        Refusal: no form, no file in it, or several.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemoryParser(request.headers, stream(), max_files=4, max_fields=16)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # the latter from Starlette below 1.0
        raise Refusal(400, f"the form cannot be read: {error}") from None
    try:
        found = form.getlist(FIELD)
        if len(found) == 1 and isinstance(found[0], UploadFile):
            return await found[0].read()
        names = ", ".join(repr(name[:40]) for name in form) or "none"
        raise Refusal(
            400,
            f"expected one file in the field '{FIELD}', found {len(found)} values in it; "
            f"fields: {names}. Try: {CURL}",
        )
    finally:
        await form.close()


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, f"image: more than {max_bytes} bytes. Send a smaller file.")
