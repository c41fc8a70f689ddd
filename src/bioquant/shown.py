"""What may be printed and kept: no character that a terminal obeys or that reorders a line, and no secret."""

import os
import re
import unicodedata
from urllib.parse import unquote, urlsplit

SECRET_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|\w*PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_?KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)
"""Environment variables whose values are shown nowhere."""

NO_SECRETS = frozenset({"true", "false", "none", "null"})
"""Values of switches with such names (HF_HUB_DISABLE_IMPLICIT_TOKEN)."""

SHORTEST_SECRET = 4
"""Characters: what is shorter stands in too many words to be taken for a secret."""

MASK = "***"

_USER_INFO = re.compile(r"(?<=://)([^:/@\s'\"]*):[^\s'\"]*@")
_QUERY = re.compile(r"(?<=[?&])((?:\w*password|token)=)[^&\s'\"]+", re.IGNORECASE)


_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""By which a line is read in another order than it is written (Unicode's bidirectional marks)."""

_LINK = re.compile(r"\]([(\[:])")

_HALF = re.compile("[\ud800-\udfff]")

_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def visible(text: str) -> str:
    """The text with what a terminal obeys or reorders escaped, and halves of characters; lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def markdown(text: str) -> str:
    """The text for one line of Markdown, which cannot become a tag, a link, a picture or code there."""
    return _LINK.sub(r"]\\\1", one_line(text).replace("<", "&lt;").replace("`", "'"))


def markdown_cell(text: str) -> str:
    """As `markdown`, for a cell of a table."""
    return markdown(text).replace("|", "\\|")


def is_broken(text: str) -> bool:
    """Whether it holds half a character, which no encoding, and so no tokenizer and no file, takes."""
    return _HALF.search(text) is not None


def one_line(text: str) -> str:
    """As `visible`, and without line breaks."""
    return visible(_BREAK.sub(" ", text))


def _is_plain(character: str) -> bool:
    odd = character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return not odd or character in "\n\t"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def without_password(uri: str) -> str:
    """An address that may be shown and kept."""
    return _QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(rf"\1:{MASK}@", uri))


def masked(text: str) -> str:
    """The text without passwords in addresses, and without the values of this process's secrets."""
    for secret in secrets().values():
        text = text.replace(secret, MASK)
    return without_password(text)


def secrets() -> dict[str, str]:
    """The secrets in the environment, by the variable's name, the longest first; passwords of addresses among them."""
    found = {name: value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    for name, value in os.environ.items():
        if "://" in value and (password := _password(value)):
            found |= {name: password}
    known = [
        (name, value)
        for name, value in found.items()
        if len(value) >= SHORTEST_SECRET and value.casefold() not in NO_SECRETS
    ]
    return dict(sorted(known, key=lambda secret: -len(secret[1])))


def _password(uri: str) -> str | None:
    """Of an address as it is sent; None where it has none, or is no address at all."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return None
    return password and unquote(password)
