"""Who gets in: the name one calls, the token, where a request comes from. Written to the socket byte by byte."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from runner.monitor.actions import Needs
from runner.monitor.server import Monitor
from runner.monitor.token import cookie_value, link_key, read_or_make, token_file
from tests.monitor.kit import CHROME, TOKEN, Answer, ask, raw, settings

BEARER = {"authorization": f"Bearer {TOKEN}"}


def everything(monitor: Monitor) -> list[tuple[str, str]]:
    """Method and path of every route of the app, with something in the place of each parameter."""
    found: list[tuple[str, str]] = []
    for route in flat(monitor.app.routes):
        path = re.sub(r"\{[^}]*\}", "1", route.path)
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


def flat(routes: list[BaseRoute]) -> list[Route]:
    found: list[Route] = []
    for route in routes:
        if isinstance(route, Route):
            found.append(route)
        else:  # a router that FastAPI has taken in as it is
            found += flat(route.original_router.routes)  # type: ignore[attr-defined]
    return found


def test_the_walk_over_the_routes_finds_all_of_them(locked: Monitor) -> None:
    found = everything(locked)
    assert ("GET", "/") in found
    assert ("GET", "/api/v1/events") in found
    assert ("GET", "/api/v1/openapi.json") in found
    assert ("POST", "/api/v1/runs/1/cancel") in found
    assert len({path for _, path in found if path.startswith("/api/")}) >= 20


def test_no_route_answers_without_the_token(locked: Monitor) -> None:
    for method, path in [*everything(locked), ("GET", "/assets/x.js"), ("GET", "/nothing"), ("DELETE", "/")]:
        answer = ask(locked, path, method)
        assert answer.status == 401, f"{method} {path}"
        assert "countdown" not in answer.text


def test_no_route_answers_to_a_name_that_is_not_ours(locked: Monitor) -> None:
    for method, path in [*everything(locked), ("GET", "/assets/x.js")]:
        answer = ask(locked, path, method, BEARER | {"host": "evil.example"})
        assert answer.status == 400, f"{method} {path}"


def test_every_route_that_changes_something_names_the_right_it_takes(locked: Monitor) -> None:
    for route in flat(locked.app.routes):
        if isinstance(route, APIRoute) and route.methods - {"GET", "HEAD"}:
            rights = [one.call.right for one in route.dependant.dependencies if isinstance(one.call, Needs)]
            assert rights in (["control"], ["control", "edit"]), route.path


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost."])
@pytest.mark.parametrize("port", ["", ":80", ":65535"])
def test_the_names_of_the_loopback_are_answered_at_any_port(monitor: Monitor, name: str, port: str) -> None:
    assert raw(monitor, "GET /api/v1/home HTTP/1.1", f"Host: {name}{port}", "Connection: close").status == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2", "0.0.0.0", "[::2]", "", " ",
     "localhost:", "localhost:80:80", "a@localhost", "localhost/", "127.0.0.1, evil.example", "[::1", "2130706433"],
)  # fmt: skip
def test_any_other_name_is_refused_and_the_way_out_is_named(monitor: Monitor, name: str) -> None:
    answer = raw(monitor, "GET /api/v1/home HTTP/1.1", f"Host: {name}", "Connection: close")
    assert answer.status == 400
    if name == "evil.example":
        assert answer.code == "host"
        assert "--allowed-host evil.example" in answer.json["detail"]


def test_no_host_and_two_hosts_are_refused(monitor: Monitor) -> None:
    assert raw(monitor, "GET / HTTP/1.1", "Connection: close").status == 400
    assert raw(monitor, "GET / HTTP/1.0").status == 400
    assert raw(monitor, "GET / HTTP/1.1", "Host: localhost", "Host: evil.example", "Connection: close").status == 400


def test_an_allowed_host_is_answered_beside_the_loopback(home: Path) -> None:
    with Monitor(settings(home, allowed_hosts=frozenset({"gpu-box"}))) as monitor:
        for name, status in (("gpu-box:8765", 200), ("GPU-Box", 200), ("localhost", 200), ("other-box", 400)):
            assert ask(monitor, "/api/v1/home", headers={"host": name}).status == status


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xff",
    ],
)
def test_a_wrong_token_is_refused(locked: Monitor, header: str) -> None:
    answer = raw(
        locked, "GET /api/v1/home HTTP/1.1", "Host: localhost", f"Authorization: {header}", "Connection: close"
    )
    assert (answer.status, answer.code) == (401, "token")


def test_the_right_token_opens_the_api_and_only_in_its_header(locked: Monitor) -> None:
    assert ask(locked, "/api/v1/home", headers=BEARER).status == 200
    assert ask(locked, f"/api/v1/home?token={TOKEN}").status == 401
    assert ask(locked, "/api/v1/home", headers={"cookie": f"runner-{locked.port}={TOKEN}"}).status == 401


def follow(monitor: Monitor, link: str) -> Answer:
    parts = urlsplit(link)
    return ask(monitor, f"{parts.path}?{parts.query}")


def cookie_of(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_link_becomes_a_cookie_that_scripts_cannot_read_and_leaves_the_address(locked: Monitor) -> None:
    answer = follow(locked, locked.link())
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert TOKEN not in answer.headers["set-cookie"]
    assert ask(locked, "/api/v1/home", headers={"cookie": cookie_of(answer)}).status == 200


def test_a_link_works_once(locked: Monitor) -> None:
    link = locked.link()
    assert follow(locked, link).status == 303
    again = follow(locked, link)
    assert again.status == 401
    assert "used before" in again.json["detail"]


def test_a_used_link_still_opens_the_page_for_the_browser_that_used_it(locked: Monitor) -> None:
    link = locked.link()
    cookie = cookie_of(follow(locked, link))
    parts = urlsplit(link)
    assert ask(locked, f"{parts.path}?{parts.query}", headers={"cookie": cookie}).status == 303


def test_a_link_of_before_the_start_or_of_another_home_is_refused(home: Path) -> None:
    early = link_key(TOKEN)
    with Monitor(settings(home, TOKEN)) as monitor:
        for key in (early, link_key("another"), "", "..", "1.2.3", "\xe9.x.y", "9" * 5000):
            assert ask(monitor, f"/?token={key.encode('latin-1').hex() if not key.isascii() else key}").status == 401


def test_a_link_never_leads_to_another_site(locked: Monitor) -> None:
    query = urlsplit(locked.link()).query
    answer = raw(locked, f"GET //evil.example/x?{query}&a=1 HTTP/1.1", "Host: localhost", "Connection: close")
    assert (answer.status, answer.headers["location"]) == (303, "/evil.example/x?a=1")


def test_a_person_without_a_link_is_told_how_to_get_one(locked: Monitor) -> None:
    answer = ask(locked, "/", headers={"accept": "text/html,*/*"})
    assert answer.status == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "`runner ui` prints a link" in answer.text


def test_the_cookie_outlives_the_monitor_but_not_the_token(home: Path) -> None:
    with Monitor(settings(home, TOKEN)) as first:
        cookie = cookie_of(follow(first, first.link()))
        port = first.port
    with Monitor(settings(home, TOKEN), port=port) as second:
        assert ask(second, "/api/v1/home", headers={"cookie": cookie}).status == 200
    with Monitor(settings(home, "another"), port=port) as third:
        assert ask(third, "/api/v1/home", headers={"cookie": cookie}).status == 401


def test_the_secret_has_32_bytes_and_is_its_owners_alone(tmp_path: Path) -> None:
    token = read_or_make(tmp_path / ".runner")
    path = token_file(tmp_path / ".runner")
    assert len(token) == 43  # base64 of 32 bytes
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert read_or_make(tmp_path / ".runner") == token
    assert path.stat().st_mode & 0o777 == 0o600


COOKIE = {"cookie": "PLACEHOLDER"}


@pytest.mark.parametrize(
    ("headers", "through"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:{port}"}, False),
        ({"origin": "http://127.0.0.1:{port}"}, True),
        ({"origin": "http://127.0.0.1:1"}, False),
        ({"origin": "http://localhost:{port}"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "MADEUP"])
def test_a_browser_changes_something_only_from_our_own_page(
    locked: Monitor, method: str, headers: dict[str, str], through: bool
) -> None:
    sent = {name: value.format(port=locked.port) for name, value in headers.items()}
    cookie = {"cookie": f"runner-{locked.port}={cookie_value(TOKEN)}"}
    answer = ask(locked, "/api/v1/runs/none-1/cancel", method, sent | cookie)
    refused = answer.status == 403 and answer.code == "cross_origin"
    assert refused is not through


def test_a_program_with_the_token_needs_no_origin_unless_it_sends_a_cookie(locked: Monitor) -> None:
    path = "/api/v1/runs/none-1/cancel"
    assert ask(locked, path, "POST", BEARER).code == "run_unknown"
    assert ask(locked, path, "POST", BEARER | {"origin": "http://evil.example"}).code == "run_unknown"
    assert ask(locked, path, "POST", BEARER | {"cookie": "a=b", "origin": "http://evil.example"}).code == "cross_origin"


def test_without_a_token_pages_of_other_origins_are_still_refused(monitor: Monitor) -> None:
    path = "/api/v1/runs/none-1/cancel"
    assert ask(monitor, path, "POST", {"origin": "http://evil.example"}).code == "cross_origin"
    assert ask(monitor, path, "POST", {"sec-fetch-site": "same-site"}).code == "cross_origin"
    assert ask(monitor, path, "POST", CHROME).code == "run_unknown"
    assert ask(monitor, path, "POST").code == "run_unknown"


def test_no_answer_allows_another_origin_to_read_it(monitor: Monitor) -> None:
    for method in ("GET", "OPTIONS"):
        answer = ask(monitor, "/api/v1/home", method, {"origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_carries_the_headers_that_fence_it_in(locked: Monitor) -> None:
    for path, headers in (
        ("/", {}),
        ("/api/v1/home", BEARER),
        ("/api/v1/runs/x", BEARER),
        ("/", BEARER | {"host": "e"}),
    ):
        answer = ask(locked, path, headers=headers)
        policy = re.sub(r"'nonce-[\w-]{22}'", "'nonce-R'", answer.headers["content-security-policy"])
        assert policy == (
            "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-R'; img-src 'self' data:; "
            "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_a_nonce_is_never_used_twice(monitor: Monitor) -> None:
    policies = {ask(monitor, "/api/v1/home").headers["content-security-policy"] for _ in range(3)}
    assert len(policies) == 3


def test_a_body_is_refused_when_it_is_large_or_of_unknown_length(monitor: Monitor) -> None:
    head = ("POST /api/v1/runs/countdown-1/stop HTTP/1.1", "Host: localhost", "Connection: close")
    assert raw(monitor, *head, "Content-Length: 1048577").code == "too_large"
    assert raw(monitor, *head, "Transfer-Encoding: chunked", body=b"0\r\n\r\n").code == "length"
    assert raw(monitor, *head, "Content-Length: -1").status == 400


def test_actions_need_the_right_to_them(home: Path) -> None:
    with Monitor(settings(home, right="view")) as monitor:
        answer = ask(monitor, "/api/v1/runs/countdown-1/cancel", "POST", CHROME)
        assert (answer.status, answer.code) == (403, "right")
        assert ask(monitor, "/api/v1/home").json["rights"] == ["view"]


@pytest.mark.parametrize(("right", "rights"), [("control", ["view", "control"]), ("edit", ["view", "control", "edit"])])
def test_each_right_includes_those_before_it(home: Path, right: str, rights: list[str]) -> None:
    assert list(settings(home, right=right).rights) == rights


def test_the_api_says_no_more_about_itself_than_its_description(monitor: Monitor) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/metrics"):
        assert ask(monitor, path).status == 404
    assert ask(monitor, "/api/v1/openapi.json").status == 200
