"""Pages of which origins may call.

CORS hides the answer from a page of another origin. It does not keep the request from being served: a POST of
`text/plain`, or one without a body, is sent without a preflight, and it would create the run. So what a browser says of
where a request comes from is checked before the request is.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runstream_gateway.errors import ApiError, one_line
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.settings import Cors

_FOREIGN = frozenset(("cross-site", "same-site"))
_SHOWN = 200


class Origins:
    """Refuses (403) what comes from pages of origins that `http.cors` does not admit.

    Clients that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and are not affected. The CORS middleware
    answers preflights, so they are not refused here.

    Args:
        app: what comes next.
        cors: the pages that may call.
    """

    def __init__(self, app: ASGIApp, cors: Cors) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it. Of a refused one nothing is read."""
        if scope["type"] == "http" and scope["method"] != "OPTIONS":
            try:
                check_origin(Headers(scope=scope), self._cors)
            except ApiError as error:
                await _refuse(error, send)
                return
        await self._app(scope, receive, send)


def check_origin(headers: Headers, cors: Cors) -> None:
    """Look whether the page that makes a request may call, if a page does.

    Args:
        headers: of the request.
        cors: the pages that may call, beside those of the gateway itself.

    Raises:
        ApiError: 403, pages of that origin may not call.
    """
    origins = headers.getlist("origin")
    for origin in origins:
        if not (_is_own(origin, headers) or _is_admitted(origin, cors)):
            raise ApiError(403, one_line(f"http.cors: pages of {origin[:_SHOWN]!r} may not call here"))
    # A browser sends no origin with what a page only embeds (`no-cors`). Links lead here from anywhere.
    is_embedded = headers.get("sec-fetch-site") in _FOREIGN and headers.get("sec-fetch-mode") != "navigate"
    if not origins and is_embedded and "*" not in cors.allow_origins:
        raise ApiError(403, "http.cors: pages of other origins may not embed what is here")


def _is_own(origin: str, headers: Headers) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def _is_admitted(origin: str, cors: Cors) -> bool:
    by_pattern = cors.allow_origin_regex is not None and re.fullmatch(cors.allow_origin_regex, origin)
    return "*" in cors.allow_origins or origin in cors.allow_origins or bool(by_pattern)


async def _refuse(error: ApiError, send: Send) -> None:
    body = dumps({"detail": error.detail})
    length = str(len(body)).encode()
    # The body is not read, so the connection serves nothing else.
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
