"""The process around the service: its socket, its signals, its end."""

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from bioquant.endpoints import ServeConfig
from bioquant.errors import ConfigError


def listen(config: ServeConfig) -> socket.socket:
    """The socket, taken before a model is loaded: a port that is in use is told at once. Raises ConfigError."""
    try:
        return socket.create_server((config.host, config.port), family=_family(config.host))
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise ConfigError(
            f"serve.host={config.host} serve.port={config.port} cannot be listened on ({reason}): choose another "
            "serve.port, or 0 for any that is free."
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address(listening: socket.socket) -> str:
    """The URL that clients use on this machine."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: FastAPI, listening: socket.socket, config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what has been asked, and return."""
    for ends in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ends, _nothing)  # uvicorn raises the signal again once it has ended
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=config.shutdown_s, lifespan="on"
        )
    )
    server.run(sockets=[listening])


def _nothing(_: int, __: FrameType | None) -> None:
    pass
