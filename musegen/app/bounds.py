"""What one person may ask of the page, so that nobody can take it from the others."""

from __future__ import annotations

import dataclasses

from musegen.canonical import ScoreLimits


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of each request; what lies beyond is refused in words.

    Args:
        upload_bytes: Of a score that is given.
        upload_notes: Likewise.
        upload_bars: Likewise.
        bars: New bars to write.
        opening_bars: Of a given score that are kept and gone on from.
        gap_bars: Bars of a given score that are written anew.
        tokens: Ids that a model draws for one piece.
        compose_seconds: For writing; what is there by then is shown.
        draw_seconds: For the pictures and the sound of one piece.
        read_seconds: For reading an upload.
        judge_seconds: That a person waits for the judgement.
        sound_seconds: Of the sound, which fades out then.
        pages: Of sheet music that are shown; the files hold all.
        at_once: Pieces written at the same time, by all people together.
        queue: People who may wait.
        stored_bytes: Of all uploads that lie on disk at the same time.
        kept_seconds: How long an upload lies on disk at the most.
    """

    upload_bytes: int = 5 * 1024**2
    upload_notes: int = 20_000
    upload_bars: int = 400
    bars: int = 64
    opening_bars: int = 64
    gap_bars: int = 16
    tokens: int = 8192
    compose_seconds: float = 120.0
    draw_seconds: float = 60.0
    read_seconds: float = 20.0
    judge_seconds: float = 120.0
    sound_seconds: float = 240.0
    pages: int = 6
    at_once: int = 2
    queue: int = 16
    stored_bytes: int = 200 * 1024**2
    kept_seconds: int = 300

    @property
    def score_limits(self) -> ScoreLimits:
        """What an upload may hold."""
        return ScoreLimits(
            file_bytes=self.upload_bytes,
            notes=self.upload_notes,
            bars=self.upload_bars,
            tracks=64,
            tempos=2000,
            metres=1000,
            events=200_000,
            beats=8 * self.upload_bars,
        )
