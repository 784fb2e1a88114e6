"""Limits of the service, and the error of a request beyond them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields

from paddleseg_segformer.errors import UserError, one_line


@dataclass(frozen=True)
class ServingSettings:
    """Limits of the service.

    Args:
        max_batch: The most images that are predicted together; by default the predictor's
            `window_batch`.
        max_wait_ms: How long a first image waits for others to join it.
        max_queue: The most requests in progress, from their first byte to their answer.
        max_bytes: The largest image file.
        max_pixels: The largest image, as its file claims, and after the size rules; images of a
            batch do not exceed it together either.
        timeout_s: From the end of the upload to the answer.
        upload_timeout_s: For the upload.
        grace_s: To finish requests in progress when the service is stopped.
        decode_threads: Threads that decode images and encode answers.
        max_connections: The most open connections.
        is_logged: Log a line for each request.
        allowed_hosts: Names that clients may call the service by, beside addresses, `localhost` and
            this machine's name; `*` for any. Pages of these hosts may send requests too.
        api_keys: Requests need one of them, but for those that ask whether the service is ready.
        ssl_certfile: Certificates for TLS, the service's own first (PEM); without it there is none.
        ssl_keyfile: The private key (PEM), where it is not in that file.

    Raises:
        UserError: a number that is not above 0 (the wait may be 0), or no certificate with its key.
    """

    max_batch: int | None = None
    max_wait_ms: float = 5.0
    max_queue: int = 64
    max_bytes: int = 20 << 20
    max_pixels: int = 1 << 22
    timeout_s: float = 60.0
    upload_timeout_s: float = 15.0
    grace_s: float = 30.0
    decode_threads: int = 2
    max_connections: int = 512
    is_logged: bool = False
    allowed_hosts: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is bool or not isinstance(value, int | float):
                continue
            if value < 0 or (value == 0 and field.name not in MAY_BE_0):
                raise UserError(f"--{field.name}: found {value}, expected a number above 0.")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise UserError("--ssl_keyfile has no effect without --ssl_certfile. Add it.")
        if self.ssl_certfile:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
            except OSError as error:  # ssl's errors are of this kind
                raise UserError(
                    f"--ssl_certfile {self.ssl_certfile}, --ssl_keyfile {self.ssl_keyfile}: cannot "
                    f"be used ({one_line(error)}). Expected PEM files of a certificate and its key."
                ) from None


def read_api_keys(path: str) -> tuple[str, ...]:
    """Return the keys in a file, a key a line.

    Raises:
        UserError: no such file, no key in it, or one that is short or cannot stand in a header.
    """
    try:
        with open(path, encoding="utf-8") as file:  # perhaps a pipe, or a device without an end
            lines = file.read(MAX_KEYS).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_keys {path}: cannot be read ({error}).") from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys or any(not re.fullmatch(f"[!-~]{{{MIN_KEY},}}", key) for key in keys):
        raise UserError(
            f"--api_keys {path}: expected a key a line, of {MIN_KEY} or more printable ASCII "
            "characters without blanks, such as of `openssl rand -hex 32`."
        )
    return keys


MIN_KEY = 16  # characters
MAX_KEYS = 1 << 20  # characters that are read
MAY_BE_0 = ("max_wait_ms", "grace_s")


class Refusal(Exception):
    """A request answered with an error.

    Args:
        status: HTTP status.
        message: One line for the client: what was found, what is expected; no paths of the server.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = " ".join(message.split())
        self.headers = dict(headers or {})
