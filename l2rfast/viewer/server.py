"""A server of pages on this machine alone, for one who was given the address: it reads, and ends by itself."""

from __future__ import annotations

import hmac
import secrets
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import unquote

from ..errors import InputError

_STEP = 0.5  # seconds from one look at the clock to the next


class Content(NamedTuple):
    """What is sent."""

    kind: str
    data: bytes


Find = Callable[[str], Content | None]


class Server(ThreadingHTTPServer):
    """Sends what is found under a name, None where there is nothing, to requests that know a secret in the path.

    It listens on 127.0.0.1, on a port that is free. Who else is on the machine does not know the secret, and a page of
    another site, whose name was made to lead here, is refused by the Host that its browser sends.

    Args:
        find: of a path behind the secret, without a slash before it, percent-encoding undone.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, find: Find) -> None:
        self.find, self.secret, self.asked = find, secrets.token_urlsafe(24), time.monotonic()
        self.lock = Lock()  # what is asked for together is made one after the other, once
        super().__init__(("127.0.0.1", 0), _Handler)
        self.timeout = _STEP

    @property
    def address(self) -> str:
        """Of the first page."""
        return f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def serve(self, idle: float) -> None:
        """Until nothing was asked for in so many seconds."""
        self.asked = time.monotonic()
        while time.monotonic() - self.asked < idle:
            self.handle_request()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # of a connection on which nothing comes
    server_version, sys_version = "l2rfast", ""

    def do_GET(self) -> None:
        self._answer(send=True)

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def _refuse(self) -> None:
        self.close_connection = True  # what it sends is not read
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, Content("text/plain", b"GET and HEAD only\n"), send=True)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(self, *, send: bool) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self._send(HTTPStatus.FORBIDDEN, Content("text/plain", b"not by this name\n"), send=send)
            return
        secret, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        known = slash and hmac.compare_digest(secret.encode(), self.server.secret.encode())
        found = None
        if known:
            self.server.asked = time.monotonic()
            try:
                with self.server.lock:
                    found = self.server.find(unquote(name))
            except InputError as error:
                said = Content("text/plain; charset=utf-8", f"{error}\n".encode("utf-8", "replace"))
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, said, send=send)
                return
            except Exception:  # a defect, which the terminal is told of
                said = Content("text/plain", b"this could not be made: the terminal of l2rfast view says why\n")
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, said, send=send)
                raise
            finally:
                self.server.asked = time.monotonic()
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, Content("text/plain", b"not here\n"), send=send)
        else:
            self._send(HTTPStatus.OK, found, send=send)

    def _send(self, status: HTTPStatus, content: Content, *, send: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content.kind)
        self.send_header("Content-Length", str(len(content.data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if send:
            self.wfile.write(content.data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the address has the secret in it."""
