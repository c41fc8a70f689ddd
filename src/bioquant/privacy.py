"""`privacy.log_text=false`: prompts, texts and outputs stay in memory; on disk and in logs are ids, offsets and hashes.

A prediction loses its text as soon as it is parsed and judged (`bioquant.answering`), before it is journaled, so that
nothing after it has any to give away. What is left to look after is messages: `quoted` for values of a data file, and
`told` for what another library says.
"""

import hashlib
import logging
import sys
import threading
import warnings
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from traceback import format_tb
from types import TracebackType

from bioquant import network
from bioquant.config import PrivacyConfig, RunConfig
from bioquant.errors import BioquantError
from bioquant.records import Answer, Example, Prediction, Span
from bioquant.shown import masked, one_line, visible

OTHER = "(other)"
"""In place of a type that the model named and the task has not: the model's own word."""

DIGEST = "sha256:"

WITHHELD = "withheld: privacy.log_text=false"

LONGEST_QUOTE = 80
"""Characters of a data file's value in a message."""


class _Rule:
    """Whether this process keeps texts out of messages now: one configuration at a time decides it."""

    withholds = False


def enter(*configs: RunConfig) -> None:
    """Keep to what configurations say of the network and of texts, in this process from now on: the strictest wins."""
    if any(config.offline for config in configs):
        network.forbid()
    withhold(min((config.privacy for config in configs), key=lambda privacy: privacy.log_text))


def withhold(privacy: PrivacyConfig) -> None:
    """Keep texts out of this process's messages from now on, or no longer."""
    _Rule.withholds = not privacy.log_text
    if _Rule.withholds:
        logging.Logger.callHandlers = _call_handlers
        warnings.formatwarning = _warning
        threading.excepthook = _thread_failed
        if sys.excepthook is sys.__excepthook__:  # a worker has one of its own, which asks `told` too
            sys.excepthook = _failed


def without_text(prediction: Prediction, example: Example, labels: Collection[str]) -> Prediction:
    """The prediction with hashes in place of its texts, and offsets in place of mentions. An empty output stays empty.

    labels: of the task; the choices of the example are allowed too. The hash of an output is taken together with its
    prompt: a short answer cannot be found by trying words, but by who has the whole prompt, and so the text, already.
    """
    known = {*labels, *example.row.choices}
    return replace(
        prediction,
        prompt=digest(prediction.prompt),
        outputs=tuple(digest(prediction.prompt, output) if output.strip() else "" for output in prediction.outputs),
        answer=None if prediction.answer is None else _bare(prediction.answer, known),
        target=_bare(prediction.target, known),
    )


def digest(*texts: str) -> str:
    """`sha256:…` of the texts together."""
    return DIGEST + hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _bare(answer: Answer, known: Collection[str]) -> Answer:
    """The labels that the task has; entities by their places and types alone."""
    if isinstance(answer, str):
        return answer if answer in known else OTHER
    spans = tuple(replace(part, text="", label=_known(part.label, known)) for part in answer if isinstance(part, Span))
    return spans or tuple(_known(part, known) for part in answer if isinstance(part, str))


def _known(label: str, known: Collection[str]) -> str:
    return label if label in known else OTHER


def quoted(value: object) -> str:
    """A value of a data file as a message names it: `'aspirin'`, or how long it is where texts are withheld."""
    text = str(value)
    if _Rule.withholds:
        return f"({len(text)} characters, {WITHHELD})"
    text = one_line(text)[:LONGEST_QUOTE]
    return f"'{text}'" if isinstance(value, str) else text


def listed(names: Iterable[object]) -> str:
    """The names of a file's columns: a file without a header has its first texts there."""
    names = list(names)
    return f"({len(names)} names, {WITHHELD})" if _Rule.withholds else ", ".join(map(str, names))


def told(error: BaseException | None) -> str:
    """An error as it is logged. Ours name no text that is to be withheld; of another's only its type is told then."""
    if isinstance(error, BioquantError) or not _Rule.withholds:
        return visible(masked(str(error)))
    return f"{type(error).__name__} ({WITHHELD})"


class WithheldError(BioquantError):
    """An error of a library in whose words there may be a text. kind: its type's name."""


@contextmanager
def wordless() -> Generator[None]:
    """Let no library's error out where texts are withheld: launchers pickle what a job raises, and print it."""
    try:
        yield
    except Exception as error:
        if not _Rule.withholds or isinstance(error, BioquantError):
            raise
        bare = WithheldError(told(error))
        bare.kind = type(error).__name__
        raise bare from None


def where(error: BaseException) -> str:
    """The places in the code that an error, and what led to it, came through; no values."""
    led = error.__cause__ or error.__context__
    before = f"{where(led)}\nwhich led to\n" if led else ""
    last = f"{type(error).__name__}: {error}" if isinstance(error, BioquantError) else told(error)
    return f"{before}{''.join(format_tb(error.__traceback__))}{last}"


def is_withheld() -> bool:
    """Whether texts are to be kept out of messages."""
    return _Rule.withholds


class Lines(logging.Formatter):
    """Lines of a log, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, its traceback after it."""
        return visible(masked(super().format(record)))


def _failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of Python's own last words."""
    if _Rule.withholds:
        print(where(error), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """The same of a thread."""
    if failed.exc_value is not None:
        _failed(failed.exc_type, failed.exc_value, failed.exc_traceback)


_call = logging.Logger.callHandlers


def _call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
    """Hand a record on without words that are withheld, to whatever handler: some libraries have their own.

    After the filters of the logger, of which `models` has some that read the words.
    """
    if _Rule.withholds:
        words = record.getMessage() if record.name.startswith("bioquant") else f"({WITHHELD})"
        error = record.exc_info[1] if record.exc_info else None
        words = words if error is None else f"{words}\n{where(error)}"
        bare = {"msg": words, "args": (), "exc_info": None, "exc_text": None}
        record = logging.makeLogRecord(record.__dict__ | bare)
    _call(self, record)


def _warning(message: object, category: type[Warning], filename: str, lineno: int, _: str | None = None) -> str:
    """Python's own form, without the text."""
    return f"{filename}:{lineno}: {category.__name__}: {WITHHELD if _Rule.withholds else message}\n"
