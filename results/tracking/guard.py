"""Read-only access for whoever has a secret: a layer of ASGI before MLflow's own app."""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from secrets import compare_digest
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SECRET = "SYMBENCH_UI_SECRET"
"""Environment variable of the server; unlike arguments, other users cannot read it."""
TOKEN = "token"
"""Parameter of a link that holds the secret."""
API = "/ajax-api/2.0/mlflow"
READING = {
    f"{API}/runs/search",
    f"{API}/experiments/search",
    f"{API}/experiments/search-datasets",
    f"{API}/logged-models/search",
    *(f"/ajax-api/3.0/mlflow/{path}" for path in ("datasets/search", "traces/search", "traces/metrics")),
    "/graphql",
}
"""Paths to which MLflow's pages POST in order to read. The mutations of its GraphQL only search, too."""
SAFE = {"GET", "HEAD", "OPTIONS"}
WANTS_LINK = b"401: open one of the links that `symbench ui` printed when it started\n"
READ_ONLY = b"403: `symbench ui` is read-only; `symbench sync` and its --tracking-uri write\n"
ENTER = b"<!DOCTYPE html><script>location.replace(location.pathname + location.hash)</script>\n"
"""A page of ours that leads on: after a redirection by status, a link in a file or a chat would come without cookie."""


def cookie(secret: str) -> str:
    """The cookie as a browser sends it. Its name differs among servers, as browsers send cookies to any port."""
    return f"symbench-{secret[:8]}={secret}"


class Guard:
    """Wrapper of an ASGI app that passes reading requests with the secret.

    The secret is in the link that a person opens, and from then on in a cookie.
    """

    def __init__(self, app: App, secret: str) -> None:
        self.app, self.secret = app, secret

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with one line."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == "/" and self._is_link(scope["query_string"]):
            scope["query_string"] = b""  # or the log of the server shows it
            kept = f"{cookie(self.secret)}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, HTTPStatus.OK, ENTER, (b"set-cookie", kept.encode()))
        elif not self._has_cookie(scope["headers"]):
            await _answer(send, HTTPStatus.UNAUTHORIZED, WANTS_LINK)
        elif scope["method"] not in SAFE and scope["path"] not in READING:
            await _answer(send, HTTPStatus.FORBIDDEN, READ_ONLY)
        else:
            await self.app(scope, receive, send)

    def _is_link(self, query: bytes) -> bool:
        tokens = parse_qs(query).get(TOKEN.encode(), [b""])
        return compare_digest(tokens[0], self.secret.encode())

    def _has_cookie(self, headers: list[tuple[bytes, bytes]]) -> bool:
        cookies = (part.strip() for name, value in headers if name == b"cookie" for part in value.split(b";"))
        return any(compare_digest(one, cookie(self.secret).encode()) for one in cookies)


async def _answer(send: Send, status: HTTPStatus, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    kind = b"text/html" if body == ENTER else b"text/plain; charset=utf-8"
    private = [(b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer")]
    start = {"type": "http.response.start", "status": status.value}
    await send({**start, "headers": [(b"content-type", kind), *private, *headers]})
    await send({"type": "http.response.body", "body": body})
