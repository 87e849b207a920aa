"""Putting given and written notes together without touching what was given, and the likelihood of each note."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import symusic

from musegen.tokenizer import MusicTokenizer


def splice(
    given: symusic.Score, written: symusic.Score, start: int, stop: int, *, replace: bool = True
) -> symusic.Score:
    """A score of what was given, and of the notes written from tick `start` to `stop`, exclusive.

    Args:
        given: Canonical; its notes that begin outside the span come back as they are, with their tracks, names and
            velocities. Its tempos, metres and keys are kept.
        written: Canonical; its notes that begin inside the span are taken, and its metres and tempos after the end of
            what was given.
        start: First tick of the span.
        stop: Tick after its last.
        replace: Leave out the notes that `given` has inside the span.
    """
    out = given.copy()
    for track in out.tracks:
        if replace:
            track.notes = type(track.notes)([n for n in track.notes if not start <= n.start < stop])
    for track in written.tracks:
        own = [n for n in track.notes if start <= n.start < stop]
        if not own:
            continue
        home = next((t for t in out.tracks if (t.program, t.is_drum) == (track.program, track.is_drum)), None)
        if home is None:
            home = symusic.Track(track.name, track.program, track.is_drum)
            home.notes = type(track.notes)(own)
            out.tracks.append(home)
        else:
            home.notes = type(track.notes)([*home.notes, *own])
            home.notes.sort()
    out.tracks = type(out.tracks)([track for track in out.tracks if len(track.notes)])
    for name in ("time_signatures", "tempos"):
        own, others = getattr(out, name), getattr(written, name)
        last = max((event.time for event in own), default=-1)
        new = [event for event in others if event.time >= start and event.time > last]
        setattr(out, name, type(own)([*own, *new]))
    return out


def only_programs(score: symusic.Score, programs: Collection[int]) -> symusic.Score:
    """A copy with the tracks of some programs; -1 is drums."""
    out = score.copy()
    kept = [track for track in score.tracks if (-1 if track.is_drum else track.program) in programs]
    out.tracks = type(score.tracks)(kept)
    return out


def note_log_probs(
    tokenizer: MusicTokenizer,
    ids: Sequence[int],
    log_probs: Sequence[float],
    programs: Collection[int] | None = None,
) -> np.ndarray:
    """Nats of each note that ids write.

    An id that completes several notes is shared out evenly among them; what completes none (a bar line, a position,
    a pitch whose duration is to come) counts with the next note. So the notes, and what comes after the last, sum to
    the whole.

    Args:
        tokenizer: Of the ids.
        ids: As they were drawn.
        log_probs: Of each id, nats.
        programs: Count only notes of these; None for all.

    Returns:
        float64 (notes,), in the order in which they were written.
    """
    names = tokenizer._base_names
    out: list[float] = []
    pending, program = 0.0, None
    for token, nats in zip(ids, log_probs):
        completed = []
        for base in tokenizer.expansions[token]:
            name = names[base]
            if name.startswith("Program_"):
                program = int(name.partition("_")[2])
            elif name.startswith("Duration_"):
                completed.append(program)
        if not completed:
            pending += nats
            continue
        share = (pending + nats) / len(completed)
        pending = 0.0
        out += [share for p in completed if programs is None or p in programs]
    return np.array(out)
