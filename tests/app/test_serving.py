"""The server of the page: who is let in, and what is refused."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from dojang.app.serving import MOST_BYTES, PageServer, Reply
from dojang.base.errors import UsageError


def handle(method: str, path: str, query: dict[str, str], body: bytes) -> Reply | None:
    if path == "fails":
        raise RuntimeError("a\x1b[31m secret\nplace")
    if path == "wrong":
        raise UsageError("layer x is not there")
    return Reply(json.dumps([method, path, query, len(body)]).encode(), "application/json") if path != "no" else None


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    one = PageServer(handle)
    yield one
    one.close()


def ask(
    server: PageServer,
    path: str,
    headers: dict[str, str | None] | None = None,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request; a header of None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    given = {"Host": f"127.0.0.1:{server.port}", **(headers or {})}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    if body is not None and "Content-Length" not in given:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), content


def test_the_page_is_at_its_address(server: PageServer) -> None:
    status, headers, body = ask(server, f"/{server.token}/maps?layer=%EB%8F%84%EC%9E%A5&most=")
    assert status == 200
    assert json.loads(body) == ["GET", "maps", {"layer": "도장", "most": ""}, 0]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "dojang"  # no version of Python
    assert len(server.token) >= 32


@pytest.mark.parametrize("token", ["", "x", "%00", "a" * 32, "../", "도장"])
def test_without_the_token_there_is_nothing(server: PageServer, token: str) -> None:
    quoted = token.encode().decode("latin-1") if token.isascii() else "%EB%8F%84"
    status, _, body = ask(server, f"/{quoted}/maps")
    assert status == 404
    assert server.token.encode() not in body


@pytest.mark.parametrize(
    "host",
    ["example.com", "127.0.0.1", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example:{port}", "[::1]:{port}", None],
)
def test_other_names_of_this_machine_are_refused(server: PageServer, host: str | None) -> None:
    given = None if host is None else host.format(port=server.port)
    assert ask(server, f"/{server.token}/", {"Host": given})[0] == 403


def test_localhost_is_a_name_of_its_own(server: PageServer) -> None:
    assert ask(server, f"/{server.token}/", {"Host": f"localhost:{server.port}"})[0] == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://example.com", "https://127.0.0.1:{port}", "http://localhost:{port}", "http://127.0.0.1"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_origins_are_refused(server: PageServer, origin: str, method: str) -> None:
    said = origin.format(port=server.port)
    assert ask(server, f"/{server.token}/x", {"Origin": said}, method, b"")[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_other_pages_start_are_refused(server: PageServer, site: str) -> None:
    assert ask(server, f"/{server.token}/", {"Sec-Fetch-Site": site})[0] == 403
    assert ask(server, f"/{server.token}/", {"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_a_post_needs_its_own_origin_and_a_length(server: PageServer) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    path = f"/{server.token}/picture"
    assert ask(server, path, None, "POST", b"abc")[0] == 403
    status, _, body = ask(server, path, own, "POST", b"abc")
    assert (status, json.loads(body)[3]) == (200, 3)
    assert ask(server, path, {**own, "Content-Length": None, "Transfer-Encoding": "chunked"}, "POST")[0] == 411
    for length in ("-1", "+3", "1e3", "٣"):
        raw = length.encode().decode("latin-1")
        assert ask(server, path, {**own, "Content-Length": raw}, "POST")[0] == 411
    assert ask(server, path, {**own, "Content-Length": str(MOST_BYTES + 1)}, "POST")[0] == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"])
def test_other_methods_are_not_there(server: PageServer, method: str) -> None:
    assert ask(server, f"/{server.token}/", None, method)[0] == 501


def test_errors_are_one_line_and_the_server_lives_on(server: PageServer) -> None:
    status, headers, body = ask(server, f"/{server.token}/fails")
    assert (status, headers["Content-Type"]) == (500, "application/json")
    assert json.loads(body) == {"error": "unexpected RuntimeError: a\\x1b[31m secret place"}
    status, _, body = ask(server, f"/{server.token}/wrong")
    assert (status, json.loads(body)) == (400, {"error": "layer x is not there"})
    assert ask(server, f"/{server.token}/no")[0] == 404
    assert ask(server, f"/{server.token}/")[0] == 200


def test_two_pages_have_two_ports_and_two_tokens(server: PageServer) -> None:
    other = PageServer(handle)
    try:
        assert (other.port, other.token) != (server.port, server.token)
        assert ask(other, f"/{server.token}/")[0] == 404
        assert ask(server, f"/{server.token}/")[0] == 200
    finally:
        other.close()
    with pytest.raises(ConnectionRefusedError):
        ask(other, f"/{other.token}/")


def test_a_port_that_is_taken_is_said(server: PageServer) -> None:
    with pytest.raises(UsageError, match=rf"port {server.port} cannot be used: .*in use; leave out --port"):
        PageServer(handle, server.port)
    with pytest.raises(UsageError, match="port 99999 cannot be used"):
        PageServer(handle, 99999)


def test_only_this_machine_reaches_it(server: PageServer) -> None:
    assert urlsplit(server.url).hostname == "127.0.0.1"
    with socket.socket() as free:  # were it on all addresses, this one would be taken
        free.bind(("127.0.0.2", server.port))
