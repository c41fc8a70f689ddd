"""The service over HTTP. Takes what `mlflow models serve` takes, so that a client need not know which one answers.

Texts are logged nowhere: there is no access log, and no message holds one.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bioquant.config import TaskConfig
from bioquant.endpoints import ServeConfig
from bioquant.errors import BioquantError, RequestError
from bioquant.records import Row
from bioquant.serving.answers import FIELD, answers
from bioquant.serving.batches import Answer, Batches, CrashError
from bioquant.serving.requests import RECORDS, TooLargeError, example, fields_of, row

SPLIT = "dataframe_split"
"""The other form of rows that MLflow's server takes for a data frame."""

log = logging.getLogger(__name__)

JSON = "application/json"


class UnsupportedTypeError(RequestError):
    """A body that is not announced as JSON."""

    status = 415


def make(
    answer_rows: Answer, task: TaskConfig, config: ServeConfig, batch_rows: int, about: Mapping[str, str]
) -> FastAPI:
    """The application around what answers rows. about: what is served, for `GET /`."""
    batches = Batches(answer_rows, rows=batch_rows, wait_s=config.batch_wait_ms / 1000, queue_rows=config.queue_rows)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        running = asyncio.create_task(batches.run())
        yield
        batches.close()
        await running

    async def invocations(request: Request) -> JSONResponse:
        rows = _rows(await _body(request, config), task, config)
        return JSONResponse({"predictions": answers(await batches.submit(rows), task.kind)})

    async def served() -> JSONResponse:
        return JSONResponse({**about, **_usage(task)})

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_api_route("/invocations", invocations, methods=["POST"])
    app.add_api_route("/", served)
    _add_health(app, batches)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _add_health(app: FastAPI, batches: Batches) -> None:
    """Whether the service works, and whether it has room: what a supervisor and a load balancer ask."""

    async def health() -> JSONResponse:
        if batches.failed:
            return _error(503, f"the last batch failed ({batches.failed}): see the log, and start the service anew.")
        return JSONResponse({"status": "healthy", "waiting_rows": batches.num_waiting})

    async def ready() -> JSONResponse:
        return JSONResponse({"status": "ready"}) if batches.is_open else _error(503, "no room for a request now.")

    app.add_api_route("/health", health)
    app.add_api_route("/ping", health)
    app.add_api_route("/ready", ready)


async def _body(request: Request, config: ServeConfig) -> bytes:
    """The whole body. Raises TooLargeError without reading what is beyond the limit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise UnsupportedTypeError(
            f"the body's type is '{kind[:40]}': send JSON, with the header Content-Type: {JSON}."
        )
    most = int(config.body_mib * 2**20)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(config)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(config)
    return bytes(body)


def _too_large(config: ServeConfig) -> TooLargeError:
    return TooLargeError(
        f"the body is larger than {config.body_mib:g} MiB (serve.body_mib): send fewer rows at a time."
    )


def _rows(body: bytes, task: TaskConfig, config: ServeConfig) -> list[Row]:
    """The rows of a request. Raises RequestError."""
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number, or a nesting, beyond all measure
        raise RequestError("the body is not JSON in UTF-8.") from error
    records = _records(cast(dict[str, Any], value)) if isinstance(value, dict) else None
    if not isinstance(records, list) or not records:
        shown = json.dumps({RECORDS: [example(task)]}, ensure_ascii=False)
        raise RequestError(f"the body has no list of rows under '{RECORDS}': for example {shown}")
    listed = cast(list[object], records)
    if len(listed) > config.request_rows:
        raise TooLargeError(
            f"the request has {len(listed)} rows; this service takes {config.request_rows} at a time "
            "(serve.request_rows)."
        )
    return [row(values, task, number, text_chars=config.text_chars) for number, values in enumerate(listed)]


def _records(body: dict[str, Any]) -> object:
    """The rows, each by field; a table of columns and data, as pandas writes a frame, is turned into such."""
    table = body.get(SPLIT)
    if not isinstance(table, dict):
        return body.get(RECORDS)
    columns, data = (cast(dict[str, object], table).get(part) for part in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(data, list):
        return None
    named = [str(column) for column in cast(list[object], columns)]
    lines = cast(list[object], data)
    return [
        dict(zip(named, cast(list[object], line), strict=False)) if isinstance(line, list) else line for line in lines
    ]


def _usage(task: TaskConfig) -> dict[str, Any]:
    return {
        "fields": [{"name": field.name, "required": field.required} for field in fields_of(task)],
        "answer": FIELD[task.kind],
        "example": {RECORDS: [example(task)]},
    }


async def _refused(_: Request, error: Exception) -> JSONResponse:
    refused = cast(RequestError, error)
    return _error(refused.status, str(refused))


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """What this package raises on purpose names no text."""
    if not isinstance(error, CrashError):  # of which the log says more already
        log.error("a batch failed: %s", error)
    return _error(500, str(error))


async def _http(_: Request, error: Exception) -> JSONResponse:
    found = cast(HTTPException, error)
    hint = "ask GET / what is served here." if found.status_code == 404 else ""
    return _error(found.status_code, f"{found.detail}: {hint}" if hint else str(found.detail))


def _error(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": message}, status, headers)


HANDLERS = {RequestError: _refused, BioquantError: _failed, HTTPException: _http}
