"""What every request passes before anything else looks at it, static files and the event stream too.

In this order: the Host is one of ours (a page elsewhere can't reach us through a name of its own), the caller has the
token, and what changes something comes from our own page or from no page at all. Safe methods are listed, not unsafe
ones. Nothing here looks at what a browser says it is.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.monitor.settings import Settings
from runner.monitor.token import Links, cookie_value, equal

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY = 1 << 20
COOKIE_SECONDS = 30 * 24 * 3600

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)

HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def content_security_policy(nonce: str) -> str:
    """Scripts from here only, styles from here or with the nonce, no connection to anywhere else."""
    return (
        "default-src 'none'; script-src 'self'; "
        f"style-src 'self' 'nonce-{nonce}'; "
        "img-src 'self' data:; connect-src 'self'; font-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._links = Links(settings.token) if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the monitor does not speak {scope['type']}")
        scope["nonce"] = nonce = secrets.token_urlsafe(16)
        answer = self._refuse(scope) or self._app
        await answer(scope, receive, _with_headers(send, nonce))

    def _refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        return self._wrong_host(headers) or self._no_token(scope, headers) or self._wrong_origin(scope, headers)

    def _wrong_host(self, headers: Headers) -> Response | None:
        given = headers.getlist("host")
        found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if found and found[1].lower().rstrip(".") in self._settings.hosts:
            return None
        name = found[1] if found else "NAME"
        return refusal(400, "host", f"The monitor isn't called that. `runner ui --allowed-host {name}` lets it be.")

    def _no_token(self, scope: Scope, headers: Headers) -> Response | None:
        token, links = self._settings.token, self._links
        if token is None or links is None or _bearer(headers, token):
            return None
        key = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")
        known = equal(_cookies(headers).get(cookie_name(scope), ""), cookie_value(token))
        if key is not None and scope["method"] == "GET" and (known or links.redeem(key)):
            return _swapped(scope, cookie_value(token))
        if known and key is None:
            return None
        return _who_are_you(headers, used=key is not None)

    def _wrong_origin(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["method"] in SAFE:
            return None
        if not self._own_page_or_none(headers):
            return refusal(
                403, "cross_origin", "This came from a page of another origin; the monitor does not take it."
            )
        if "transfer-encoding" in headers:
            return refusal(411, "length", "A body needs a Content-Length here.")
        if int(headers.get("content-length", "0")) > MAX_BODY:
            return refusal(413, "too_large", f"A body may have {MAX_BODY} bytes.")
        return None

    def _own_page_or_none(self, headers: Headers) -> bool:
        token = self._settings.token
        if token is not None and "cookie" not in headers and _bearer(headers, token):
            return True
        if (site := headers.get("sec-fetch-site")) is not None:
            return site in ("same-origin", "none")
        if (origin := headers.get("origin")) is not None:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and parts.netloc.lower() == headers["host"].lower()
        return token is None or _bearer(headers, token)


def cookie_name(scope: Scope) -> str:
    """Cookies of one host are shared by all its ports; each monitor has a name of its own."""
    return f"runner-{(scope.get('server') or ('', 0))[1]}"


def refusal(status: int, code: str, detail: str) -> Response:
    """An error as the whole API gives them."""
    return JSONResponse({"code": code, "detail": detail}, status)


def _bearer(headers: Headers, token: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and equal(given.strip(), token)


def _cookies(headers: Headers) -> Mapping[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _swapped(scope: Scope, cookie: str) -> Response:
    """The key leaves the address, where it would be seen and kept, and a cookie that no script can read takes over."""
    query = [(name, value) for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name != "token"]
    path = "/" + scope["path"].lstrip("/\\")
    response = RedirectResponse(path + (f"?{urlencode(query)}" if query else ""), 303)
    response.set_cookie(cookie_name(scope), cookie, max_age=COOKIE_SECONDS, path="/", httponly=True, samesite="strict")
    return response


def _who_are_you(headers: Headers, used: bool) -> Response:
    text = "This link was used before, or is too old." if used else "The monitor needs its token."
    text += (
        " `runner ui` prints a link that works once; programs send `Authorization: Bearer` with .runner/monitor.token."
    )
    if "text/html" in headers.get("accept", ""):
        return HTMLResponse(page("The monitor does not know you", text), 401)
    response = refusal(401, "token", text)
    response.headers["www-authenticate"] = "Bearer"
    return response


def page(title: str, text: str) -> str:
    """A page without any of ours: for what is said before, or in place of, the real ones. Texts are the program's."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return f"{head}<h1>{title}</h1><p>{text}</p></html>"


def _with_headers(send: Send, nonce: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["content-security-policy"] = content_security_policy(nonce)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending
