"""Libraries that talk, and that reach into the process: kept quiet, and what they changed put back."""

import logging
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def contained(library: str) -> Generator[None]:
    """Whatever is imported, loaded and run here prints nothing, leaves the process's settings alone and holds no model.

    gptqmodel prints a banner, makes the root logger write to stderr, and sets the hub's cache, the order of the GPUs
    and torch's allocator by environment variables; optimum reads every attribute of a model, deprecated ones too.
    compressed-tensors shows progress bars that have no switch.

    library: the package that is imported here.
    """
    root = logging.getLogger()
    handlers, level, environment = list(root.handlers), root.level, dict(os.environ)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            _let_go(library)
            root.handlers[:] = handlers
            root.setLevel(level)
            _restore(environment)
    if "logbar" in logging.Logger.manager.loggerDict:  # gptqmodel's own, which writes to stdout
        logging.getLogger("logbar").setLevel(logging.ERROR)


def _let_go(library: str) -> None:
    """Of an import that failed gptqmodel keeps the error, and an error keeps the frames that it passed and those that
    called them: the first model that was loaded in one of these would stay in memory as long as the process.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == library:
            for value in vars(module).values():
                if isinstance(value, BaseException):
                    value.__traceback__ = value.__context__ = None


def _restore(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
