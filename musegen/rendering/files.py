"""What all renderings share: their error, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from musegen.errors import MusegenError


class RenderingError(MusegenError):
    """A score that cannot be drawn or played, or a setting that no rendering knows."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the block a path to write to, and rename that file to `path` when the block succeeds.

    A reader never sees half a file, and a failed rendering leaves the earlier file as it was.

    Args:
        path: Where the file shall be; its folder is created.

    Yields:
        A path in the same folder with the same ending, because encoders choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.tmp-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
