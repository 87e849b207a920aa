"""Scores with their notes changed, for tests of what must be recognised."""

import numpy as np
import symusic

from musegen import grid as g


def changed(score, change):
    """A copy whose notes are what `change` makes of (onset, duration, pitch) of each track."""
    out = symusic.Score(g.TICKS_PER_QUARTER)
    for track in score.tracks:
        soa = track.notes.numpy()
        onset, duration, pitch = change(*(soa[n].astype(np.int64) for n in ("time", "duration", "pitch")))
        copy = symusic.Track("", 0, False)
        copy.notes = symusic.Note.from_numpy(
            onset.astype(np.int32), duration.astype(np.int32), pitch.astype(np.int8), np.full(len(onset), 64, np.int8)
        )
        copy.notes.sort()
        out.tracks.append(copy)
    return out
