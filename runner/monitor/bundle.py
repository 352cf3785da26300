"""The built pages: `pages/dist/`, made by Vite from `pages/src/` and checked in, so that nobody needs Node.

The page with the app gets the nonce of its answer in place of NONCE. Files under `assets/` have a hash in their name
and never change.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from runner.monitor.guard import page

DIST = Path(__file__).parent / "pages" / "dist"
NONCE = "__CSP_NONCE__"
FOREVER = "private, max-age=31536000, immutable"

KINDS = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".json": "application/json",
}

NOT_BUILT = (
    "The pages of the monitor are not built: runner/monitor/pages/dist/index.html is missing. In a checkout, "
    "<code>npm ci &amp;&amp; npm run build</code> in runner/monitor/pages makes them; a wheel has them. "
    "The API answers all the same, under <code>/api/v1/</code>."
)

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request) -> Response:
    """The page with the app."""
    path = dist(request) / "index.html"
    if not path.is_file():
        return HTMLResponse(page("The pages are not built", NOT_BUILT), 503)
    return HTMLResponse(path.read_text(encoding="utf-8").replace(NONCE, request.scope["nonce"]))


@router.api_route("/{path:path}", methods=["GET", "HEAD"])
def file(request: Request, path: str) -> Response:
    """A file of the bundle, by its name in it."""
    folder = dist(request).resolve()
    found = (folder / path).resolve() if "\0" not in path else folder
    if not found.is_relative_to(folder) or not found.is_file() or found.suffix not in KINDS:
        raise HTTPException(404, "There is nothing here.")
    caching = FOREVER if found.parent == folder / "assets" else "no-cache"
    return FileResponse(found, media_type=KINDS[found.suffix], headers={"cache-control": caching})


def dist(request: Request) -> Path:
    chosen: Path = request.app.state.dist
    return chosen
