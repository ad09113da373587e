"""A server for one page, on this machine alone: a random token in every address, requests of other pages refused.

What it is guarded against: other machines (it listens on the loopback address only), other users of this machine and
other pages in the same browser (they do not know the token), pages that reach it by a name of their own (DNS rebinding:
the `Host` header must name this address), and forms and scripts of other pages (`Origin` and `Sec-Fetch-Site` must be
its own). The token is in the path, so that two pages at once do not share cookies; `Referrer-Policy` keeps it from
leaving.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast, final
from urllib.parse import parse_qs, unquote, urlsplit

from dojang.app.sentences import Sentence, sentence_of
from dojang.base.errors import DojangError, UsageError
from dojang.base.showing import one_line

MOST_BYTES = 256 << 20
"""Largest body of a request: the largest picture that is read."""

SECONDS = 60.0
"""So long a connection may be silent."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back: a body, its type, and for pages a content policy of their own."""

    body: bytes
    type: str = "application/octet-stream"
    status: int = 200
    policy: str = ""


Handle = Callable[[str, str, dict[str, str], bytes], Reply | None]
"""`handle(method, path, query, body)`: the reply, or None where nothing has this path."""


@final
class PageServer:
    """Serves one page until it is closed. `url` is its address, which holds the token."""

    def __init__(self, handle: Handle, port: int = 0) -> None:
        """Listens on `port`, 0 for any that is free. Raises `UsageError` where that is taken or not allowed."""
        self.token = secrets.token_urlsafe(24)
        try:
            self._server = _Server(("127.0.0.1", port), _handler(handle, self.token))
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise UsageError(f"port {port} cannot be used: {said}; leave out --port to take one that is free") from None
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="dojang-page", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when the server is closed; an interrupt comes through."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stops listening; requests that are under way are finished."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False  # else on some systems two programs could listen on one port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


def _handler(handle: Handle, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS

        def version_string(self) -> str:
            """Without the version of Python."""
            return "dojang"

        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def _reply(self, method: str) -> None:
            try:
                reply = self._answer(method)
            except DojangError as error:
                reply = _refusal(400, one_line(str(error)), sentence_of(error))
            except (TimeoutError, BrokenPipeError, ConnectionError):
                raise
            except MemoryError:
                reply = _refusal(507, "not enough memory", Sentence("noMemory", "not enough memory"))
            except Exception as error:
                reply = _refusal(500, f"unexpected {type(error).__name__}: {one_line(str(error))}")
            if reply.status >= 400:
                self.close_connection = True  # the body of what is refused is not read
            self.send_response(reply.status)
            headers = {**HEADERS, "Content-Type": reply.type, "Content-Length": str(len(reply.body))}
            if reply.policy:
                headers["Content-Security-Policy"] = reply.policy
            if self.close_connection:
                headers["Connection"] = "close"
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                self.wfile.write(reply.body)

        def _answer(self, method: str) -> Reply:
            port = cast(Any, self.server.server_address)[1]
            hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
            host = self.headers.get_all("Host") or []
            if len(host) != 1 or host[0].lower() not in hosts:
                return _refusal(403, "this page is reached by its own address only")
            origin = self.headers.get("Origin")
            if origin is not None and origin.lower() != f"http://{host[0].lower()}":
                return _refusal(403, "requests of other pages are refused")
            if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
                return _refusal(403, "requests of other pages are refused")
            if method == "POST" and origin is None:
                return _refusal(403, "requests without an origin are refused")
            parts = urlsplit(self.path)
            _, given, *rest = f"{parts.path}//".split("/", 2)
            if not secrets.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                return _refusal(404, "there is nothing here; the address that dojang printed has a token in it")
            body = self._body() if method == "POST" else b""
            if isinstance(body, Reply):
                return body
            query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
            return handle(method, unquote("/".join(rest)).rstrip("/"), query, body) or _refusal(404, "no such path")

        def _body(self) -> bytes | Reply:
            said = self.headers.get("Content-Length", "")
            if not (said.isascii() and said.isdigit()) or self.headers.get("Transfer-Encoding"):
                return _refusal(411, "the length of the body is missing")
            if int(said) > MOST_BYTES:
                english = f"more than {MOST_BYTES >> 20} MiB; choose a smaller picture"
                return _refusal(413, english, Sentence("pictureTooLarge", english, {"n": MOST_BYTES >> 20}))
            return self.rfile.read(int(said))

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed of requests: addresses hold the token."""

    return Handler


def _refusal(status: int, message: str, sentence: Sentence | None = None) -> Reply:
    words = {} if sentence is None else {"words": sentence.to_dict()}
    return Reply(json_bytes({"error": message, **words}), "application/json", status)


def json_bytes(value: Any) -> bytes:
    """JSON as UTF-8. Raises ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
