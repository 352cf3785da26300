"""The app: routes, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from runner import api
from runner.monitor import actions, bundle, lab, live, rollouts, runs
from runner.monitor.guard import Guard, refusal
from runner.monitor.settings import Settings
from runner.spec.errors import JobError
from runner.store.errors import DatabaseUnfit, StoreError, StoreUnavailable, UnknownRun
from runner.store.schema import DatabaseError

CODES = {403: "right", 404: "unknown", 405: "method", 409: "not_now", 413: "too_large", 422: "parameter", 503: "busy"}


def build(settings: Settings, *, dist: Path = bundle.DIST) -> tuple[ASGIApp, FastAPI]:
    """The guarded app to serve, and what is behind the guard."""
    app = FastAPI(
        title="grpo-runner monitor",
        version="1",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.live = live.Live(settings)
    app.state.labs = lab.Labs()
    app.state.dist = dist
    for part in (runs, rollouts, actions, lab, live, bundle):
        app.include_router(part.router)
    _handle_errors(app)
    return Guard(app, settings), app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.live.start()
    yield
    app.state.live.close()
    app.state.labs.close()


def _handle_errors(app: FastAPI) -> None:
    """Each kind of error and what it is to a person in front of a page."""

    @app.exception_handler(StoreError)
    def of_store(request: Request, error: StoreError) -> Response:
        match error:
            case UnknownRun():
                return refusal(404, "run_unknown", f"{error}. It may have been deleted.")
            case DatabaseUnfit(code=code):
                return refusal(503, f"database_{code}", str(error))
            case StoreUnavailable():
                return refusal(503, "busy", str(error))
            case _:
                return refusal(409, "not_now", str(error))

    @app.exception_handler(DatabaseError)
    def of_database(request: Request, error: Exception) -> Response:
        if "interrupted" in str(error):
            return refusal(503, "too_slow", "This took too long; ask for less at once.")
        return refusal(
            503, "database_unreadable", f"The database can't be read: {error}. `runner db rebuild` restores it."
        )

    @app.exception_handler(api.EnvironmentUnfit)
    @app.exception_handler(JobError)
    def of_work(request: Request, error: Exception) -> Response:
        return refusal(409, "not_now", str(error))

    @app.exception_handler(HTTPException)
    def of_http(request: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, CODES.get(error.status_code, "http"), error.detail)

    @app.exception_handler(RequestValidationError)
    def of_parameters(request: Request, error: RequestValidationError) -> Response:
        told = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return refusal(422, "parameter", "; ".join(told))
