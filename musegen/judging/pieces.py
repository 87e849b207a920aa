"""What is judged: pieces, cut to one length in bars, and their notes by bar.

Units: ticks of `musegen.grid.TICKS_PER_QUARTER`; bars count from 0 in code and from 1 in what a person reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import symusic

from musegen import grid
from musegen.errors import ScoreError
from musegen.scores import SUFFIXES, load_score

# A piece that is shorter than this share of a window says nothing about music of the window's length.
MIN_WINDOW_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Piece:
    """One piece of music to be judged or to be compared with.

    Args:
        name: By which the report names it; unique in its group.
        work: The work that it is a movement of, for real music: what is resampled as a whole. For a generated
            sample, its own name.
        score: A canonical score.
    """

    name: str
    work: str
    score: symusic.Score


@dataclasses.dataclass(frozen=True)
class BarredNotes:
    """The pitched notes of a piece and the bars they begin in.

    Args:
        onset: int64 (notes,), ticks from the beginning of the piece; sorted by onset, then pitch.
        duration: int64 (notes,), ticks.
        pitch: int64 (notes,), MIDI numbers.
        bar: int64 (notes,), bar of the onset, from 0.
        grid: The bars.
    """

    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    bar: np.ndarray
    grid: grid.BarGrid

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def bars(self) -> int:
        """How many bars the piece has."""
        return len(self.grid)

    @property
    def position(self) -> np.ndarray:
        """Onsets from the bar line: int64 (notes,), ticks."""
        return self.onset - self.grid.starts[self.bar]

    @property
    def bar_lengths(self) -> np.ndarray:
        """int64 (bars,), ticks."""
        return np.diff(self.grid.starts)


def barred_notes(score: symusic.Score) -> BarredNotes:
    """The notes of a canonical score by bar, drums left out."""
    notes = grid.note_array(score)
    notes = notes[notes["program"] != grid.DRUMS]
    bars = grid.bar_grid(score)
    onset = notes["onset"].astype(np.int64)
    return BarredNotes(
        onset,
        notes["duration"].astype(np.int64),
        notes["pitch"].astype(np.int64),
        bars.index(onset),
        bars,
    )


def count_bars(score: symusic.Score) -> int:
    """Bars up to the one in which the last note ends."""
    return len(grid.bar_grid(score))


def cut_bars(score: symusic.Score, first: int, count: int) -> symusic.Score:
    """Some bars of a piece as a piece of its own.

    Args:
        score: A canonical score.
        first: The first bar, from 0.
        count: How many bars; fewer come out where the piece ends before.

    Returns:
        A canonical score with the notes that begin in these bars, none lasting longer than the last of them.
    """
    bars = grid.bar_grid(score)
    last = min(first + count, len(bars))
    return arrange_bars(score, list(range(first, last)), trim_to_bar=False)


def arrange_bars(score: symusic.Score, order: Sequence[int], *, trim_to_bar: bool = True) -> symusic.Score:
    """Bars of a piece in another order, each with its metre.

    Args:
        score: A canonical score.
        order: Bars from 0, in the order wanted.
        trim_to_bar: End every note with its bar; False ends notes at the end of the piece only.

    Returns:
        A canonical score at the tempo in force at the first of these bars.
    """
    bars = grid.bar_grid(score)
    order = np.asarray(order, dtype=np.int64)
    lengths = np.diff(bars.starts)
    starts = np.concatenate([[0], np.cumsum(lengths[order])])
    place = np.full(len(bars), -1, dtype=np.int64)  # where each bar of the source goes
    place[order] = np.arange(len(order))
    out = symusic.Score(grid.TICKS_PER_QUARTER)
    for track in score.tracks:
        soa = track.notes.numpy()
        onset = soa["time"].astype(np.int64)
        bar = bars.index(onset)
        kept = place[bar] >= 0
        onset, bar = onset[kept], bar[kept]
        if not len(onset):
            continue
        moved = starts[place[bar]] + onset - bars.starts[bar]
        limit = starts[place[bar] + 1] if trim_to_bar else starts[-1]
        duration = np.minimum(soa["duration"][kept], limit - moved)
        part = symusic.Track(track.name, track.program, track.is_drum)
        part.notes = symusic.Note.from_numpy(
            moved.astype(np.int32), duration.astype(np.int32), soa["pitch"][kept], soa["velocity"][kept]
        )
        part.notes.sort()
        out.tracks.append(part)
    previous = None
    for start, source in zip(starts.tolist(), order.tolist()):
        metre = (int(bars.numerators[source]), int(bars.denominators[source]))
        if metre != previous:
            out.time_signatures.append(symusic.TimeSignature(start, *metre))
        previous = metre
    before = [t.qpm for t in score.tempos if t.time <= bars.starts[order[0]]] if len(order) else []
    out.tempos.append(symusic.Tempo(0, before[-1] if before else 120.0))
    return out


def windows(piece: Piece, bars: int, limit: int) -> list[Piece]:
    """Excerpts of one length that do not overlap; the first begins at bar 1.

    Args:
        piece: A real piece.
        bars: Length of an excerpt.
        limit: At most so many, spread evenly over the piece.

    Returns:
        Excerpts named `NAME:bars FIRST-LAST`, counted from 1. A piece shorter than one excerpt gives itself,
        unless it is shorter than `MIN_WINDOW_SHARE` of it: then none.
    """
    total = count_bars(piece.score)
    if total < bars * MIN_WINDOW_SHARE:
        return []
    starts = np.arange(max(total // bars, 1)) * bars
    if len(starts) > limit:
        starts = starts[np.linspace(0, len(starts) - 1, limit).round().astype(int)]
    cut = []
    for start in starts.tolist():
        score = cut_bars(piece.score, start, bars)
        if any(len(track.notes) and not track.is_drum for track in score.tracks):
            name = f"{piece.name}:bars {start + 1}-{min(start + bars, total)}"
            cut.append(Piece(name, piece.work, score))
    return cut


def score_paths(folder: Path) -> list[Path]:
    """The score files in a folder and below, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_folder(folder: str | Path) -> tuple[list[Piece], list[ScoreError]]:
    """All scores in a folder, as samples to be judged.

    Args:
        folder: With all folders below it, in the order of names; what begins with a dot is left out.

    Returns:
        The pieces, each its own work, named by their paths in the folder without the ending, and the refusals of those
        that could not be read.

    Raises:
        ScoreError: `missing`, if it is no folder or holds nothing readable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScoreError(str(folder), "missing", "no such folder")
    pieces, refused = [], []
    names: set[str] = set()
    for path in score_paths(folder):
        relative = path.relative_to(folder)
        name = relative.with_suffix("").as_posix()
        name = relative.as_posix() if name in names else name  # a.mid and a.xml
        names.add(name)
        try:
            pieces.append(Piece(name, name, load_score(path).score))
        except ScoreError as error:
            refused.append(error)
    if not pieces:
        detail = f"none of its {len(refused)} scores can be read" if refused else "no score file in it"
        raise ScoreError(str(folder), "missing", detail)
    return pieces, refused
