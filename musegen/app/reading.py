"""What runs in worker processes: reading a file of unknown origin, drawing and playing a piece.

Native code does both (parsers, an engraver, encoders); a fault in it ends the worker and not the page. Scores travel
as MIDI bytes, which read back as the same notes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from musegen.app.bounds import Bounds
from musegen.errors import ScoreError, WorkerError
from musegen.workers import WorkerLimits, WorkerPool

READ, DRAW = "read", "draw"
_MP3_RATE = 32_000


def work(task: tuple) -> Any:
    """One task: `(READ, name, bytes, bounds)` or `(DRAW, midi, title, folder, bounds)`."""
    kind, *rest = task
    return {READ: _read, DRAW: _draw}[kind](*rest)


def prepare() -> None:
    """Import what is heavy before the clock of a first task runs."""
    import soundfile  # noqa: F401
    import verovio  # noqa: F401

    from musegen import rendering, scores  # noqa: F401


class Hands:
    """Worker processes that read and draw.

    Args:
        bounds: Of each task.
    """

    def __init__(self, bounds: Bounds):
        self.bounds = bounds
        # One bound of seconds a pool: reading is to be quicker than drawing.
        self._reader, self._drawers = (
            WorkerPool(work, workers=count, limits=WorkerLimits(seconds=seconds), initializer=prepare)
            for count, seconds in ((1, bounds.read_seconds), (2, bounds.draw_seconds))
        )

    def read(self, name: str, data: bytes) -> dict[str, Any]:
        """A given file as `midi` (canonical), `title`, `composer`.

        Raises:
            ScoreError: If it is no score that can be used.
        """
        try:
            return self._reader.run((READ, name, data, self.bounds))
        except WorkerError as error:
            raise ScoreError(name, error.reason, error.detail) from None

    def draw(self, midi: bytes, title: str) -> dict[str, Any]:
        """A piece as `musicxml`, `pages` (SVG), `more` pages that are left out, `sound` (MP3).

        Raises:
            RenderingError: If it has no notes.
            WorkerError: If it cannot be drawn in time.
        """
        # Made and removed here: a worker that is ended at its bound removes nothing.
        with tempfile.TemporaryDirectory(prefix="musegen-page-", ignore_cleanup_errors=True) as folder:
            return self._drawers.run((DRAW, midi, title, folder, self.bounds))

    def close(self) -> None:
        """End the processes."""
        self._reader.close()
        self._drawers.close()


def _read(name: str, data: bytes, bounds: Bounds) -> dict[str, Any]:
    from musegen.scores import midi_bytes, read_score

    loaded = read_score(data, name, bounds.score_limits, isolate=False)
    about = {key: str(loaded.about.get(key) or "")[:80] for key in ("title", "composer")}
    return {"midi": midi_bytes(loaded.score), **about}


def _draw(midi: bytes, title: str, folder: str, bounds: Bounds) -> dict[str, Any]:
    import symusic

    from musegen.rendering import engrave, render_audio, score_to_musicxml
    from musegen.scores import parse_midi

    score = parse_midi(midi, "the piece").score
    score.markers = symusic.Score.from_midi(midi).markers  # a file of our own, in the same ticks
    document = score_to_musicxml(score, title=title)
    pages = engrave(document, Path(folder) / "sheet.svg", max_pages=bounds.pages + 1)
    sound = Path(folder) / "sound.mp3"
    render_audio(score, sound, sample_rate=_MP3_RATE, max_seconds=bounds.sound_seconds)
    return {
        "musicxml": document,
        "pages": [page.read_bytes() for page in pages[: bounds.pages]],
        "more": len(pages) > bounds.pages,
        "sound": sound.read_bytes(),
    }
