"""`bioquant serve`: a registered model version over HTTP."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from bioquant import compose
from bioquant.endpoints import ServeConfig, check_serve
from bioquant.errors import ConfigError
from bioquant.verbs import arguments as given


def main(arguments: Sequence[str]) -> None:
    """Load the version and serve it until SIGTERM or Ctrl-C; mistakes are told before anything is loaded."""
    options = _options(arguments)
    uri, overrides = _model(options.arguments)
    settings = given.settings(overrides, (), ("serve", "tracking"))
    config: ServeConfig = compose.part("serve", ServeConfig, settings.of("serve"), options.config_dir)
    check_serve(config)
    tracking = compose.compose_one(settings.of("tracking")).tracking
    from bioquant.serving import server

    with server.listen(config) as listening:
        from bioquant import runs
        from bioquant.registry import versions
        from bioquant.serving import app
        from bioquant.serving.answerer import Answerer
        from bioquant.serving.requests import RECORDS, example

        store = runs.open_existing(replace(tracking, uri=options.uri or tracking.uri))
        version, folder = versions.fetch(store, uri)
        print(f"loading {version.name} version {version.version} …", file=sys.stderr, flush=True)
        answerer = Answerer.load(folder / "artifacts")
        made = answerer.recipe
        about = {
            "model": version.name,
            "version": str(version.version),
            "recipe": made.label,
            "recipe_sha256": made.sha256,
        }
        batch_rows = config.batch_rows or int(made.engine.batch)
        service = app.make(answerer.answer, made.task, config, batch_rows, about)
        address = server.address(listening)
        body = json.dumps({RECORDS: [example(made.task)]}, ensure_ascii=False)
        print(
            f"serving {made.label} on {address}; Ctrl-C ends it\n"
            f"try: curl {address}/invocations -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            file=sys.stderr,
            flush=True,
        )
        server.run(service, listening, config)


def _model(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The one argument that names a model, and the others. Raises ConfigError."""
    named = [argument for argument in arguments if "=" not in argument]
    if len(named) != 1:
        raise ConfigError(f"name one model to serve, as models:/NAME@ALIAS; given: {' '.join(named) or 'none'}.")
    return named[0], [argument for argument in arguments if argument not in named]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bioquant serve",
        description="A registered model version over HTTP, on this machine alone unless serve.host says otherwise.",
        epilog="Settings: serve.host, serve.port, serve.batch_rows, serve.batch_wait_ms, serve.queue_rows, "
        "serve.request_rows, serve.text_chars, serve.body_mib, serve.shutdown_s (conf/serve/default.yaml).",
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="models:/NAME@ALIAS [key=value]",
        help="the version, by alias or as models:/NAME/NUMBER; settings",
    )
    parser.add_argument("--uri", help="the tracking store; by default the one runs are logged to")
    parser.add_argument("--config-dir", help="a folder of configuration files of your own")
    return parser.parse_intermixed_args(arguments)
