"""The files of a tar archive, read in memory and never unpacked to disk."""

import io
import tarfile
from collections.abc import Iterator

from bioquant.errors import DataError


def members(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of each regular file. Raises DataError where the archive is broken."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None  # a link may lead nowhere
                if content is not None:
                    yield member.name, content.read()
    except tarfile.TarError as error:
        raise DataError(
            f"{name}: no tar archive ({error}); the file looks truncated or changed: fetch it again"
        ) from error
