"""What a piece is like, in numbers: pitch, rhythm and texture, from its notes alone.

Sources:

- Wu and Yang, "The Jazz Transformer on the Front Line", ISMIR 2020 (MusDr): pitch-class entropy over windows of
  bars, grooving pattern similarity.
- Dong et al., "MusPy: A Toolkit for Symbolic Music Generation", ISMIR 2020, with Mogren, "C-RNN-GAN", 2016, and
  Dong et al., "MuseGAN", AAAI 2018, which it follows: scale consistency, polyphony, polyphony rate, groove
  consistency, empty beats and bars.

Departures from MusPy 0.5, which is otherwise equal to 1e-9:

1. `polyphony_rate` counts time with two pitches or more, as MusPy's text says; its code counts more than
   `threshold`, so that its default gives three or more. Equal to MusPy at `threshold=1`.
2. `empty_beat_rate` and `empty_bar_rate` take a beat or bar as empty when no note sounds in it. MusPy counts a
   note that ends on a line into the bar after it, and one bar more when the piece ends on a bar line.
3. `groove_consistency` has the bars of the score: none more when the piece ends on a bar line; neighbours of
   different length are left out. A position is a 24th of a quarter note: MusPy at `resolution=24`.
4. Drums count nowhere; in MusPy they count for time, beats and grooves.

Departures from MusDr:

5. Pitch-class entropy counts notes, not their durations, and its windows of bars do not overlap; windows
   without notes are left out.
6. Grooving similarity has 24 positions a quarter note, not 64 a bar; pairs of bars of different length are
   left out. At most `MAX_BARS` bars are compared.

Units: beats are quarter notes; entropies are in bits; rates are shares of 1. A feature that a piece does not
define (no notes, one bar) is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from musegen import grid
from musegen.judging.pieces import BarredNotes, barred_notes

POSITION_TICKS = grid.TICKS_PER_QUARTER // grid.POSITIONS_PER_BEAT
MAX_BARS = 1000  # of a piece, in comparisons of bars with each other
# Degrees of the major scale; the natural minor scales are the same sets of pitch classes.
_MAJOR = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1], dtype=np.float64)


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy of a histogram, bits; NaN for an empty one."""
    total = counts.sum()
    if not total:
        return float("nan")
    shares = counts[counts > 0] / total
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def pitch_class_entropy(notes: BarredNotes, bars: int | None = None) -> float:
    """Entropy of the histogram of pitch classes, bits (0 to 3.58).

    Args:
        notes: The piece.
        bars: Mean over windows of so many bars (Wu and Yang's H1 and H4); None: over the whole piece (MusPy).
    """
    window = notes.bar // bars if bars else np.zeros(len(notes), dtype=np.int64)
    return _mean([entropy(row) for row in _histograms(window, notes.pitch % 12, 12)])


def pitch_entropy(notes: BarredNotes) -> float:
    """Entropy of the histogram of pitches, bits (MusPy)."""
    return entropy(np.bincount(notes.pitch, minlength=128).astype(float))


def scale_consistency(notes: BarredNotes) -> float:
    """Largest share of notes in any major or natural minor scale (Mogren; MusPy)."""
    if not len(notes):
        return float("nan")
    histogram = np.bincount(notes.pitch % 12, minlength=12)
    return float(max(histogram @ np.roll(_MAJOR, root) for root in range(12)) / len(notes))


def pitch_range(notes: BarredNotes) -> float:
    """Highest minus lowest pitch, semitones (MusPy)."""
    return float(notes.pitch.max() - notes.pitch.min()) if len(notes) else float("nan")


def pitches_used(notes: BarredNotes) -> float:
    """Number of distinct pitches (MusPy's `n_pitches_used`)."""
    return float(len(np.unique(notes.pitch)))


def pitch_classes_per_bar(notes: BarredNotes) -> float:
    """Mean number of distinct pitch classes that begin in a bar, over bars in which any does (MuseGAN)."""
    return _mean((_histograms(notes.bar, notes.pitch % 12, 12) > 0).sum(axis=1))


def mean_interval(notes: BarredNotes) -> float:
    """Mean size of the steps between the highest notes of successive onsets, semitones."""
    if len(notes) < 2:
        return float("nan")
    top = notes.pitch[np.append(notes.onset[1:] != notes.onset[:-1], True)]  # sorted by onset, then pitch
    return _mean(np.abs(np.diff(top)))


def _sounding(notes: BarredNotes) -> tuple[np.ndarray, np.ndarray]:
    """How many pitches sound, and for how many ticks: float64 (segments,) each. Unisons count once."""
    order = np.lexsort((notes.onset, notes.pitch))
    pitch, onset = notes.pitch[order], notes.onset[order]
    end = onset + notes.duration[order]
    if not len(pitch):
        return np.empty(0), np.empty(0)
    # Running maximum of ends within a pitch: offset every pitch so that one accumulate serves them all.
    offset = pitch * (int(end.max()) + 1)
    reach = np.maximum.accumulate(end + offset) - offset
    fresh = np.append(True, (pitch[1:] != pitch[:-1]) | (onset[1:] > reach[:-1]))
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(pitch)) - 1
    times = np.concatenate([onset[first], reach[last]])
    steps = np.repeat([1, -1], len(first))
    order = np.argsort(times, kind="stable")
    return np.cumsum(steps[order])[:-1].astype(float), np.diff(times[order]).astype(float)


def polyphony(notes: BarredNotes) -> float:
    """Mean number of pitches that sound at once, over the time in which any does (MusPy)."""
    level, length = _sounding(notes)
    time = length[level > 0].sum()
    return float((level * length).sum() / time) if time else float("nan")


def polyphony_rate(notes: BarredNotes) -> float:
    """Share of the time, up to the end of the last note, in which two pitches or more sound (departure 1)."""
    level, length = _sounding(notes)
    if not len(level):
        return float("nan")
    return float(length[level >= 2].sum() / (notes.onset + notes.duration).max())


def note_density(notes: BarredNotes) -> float:
    """Notes a beat, over whole bars."""
    return len(notes) * grid.TICKS_PER_QUARTER / float(notes.grid.starts[-1])


def notes_per_bar(notes: BarredNotes) -> float:
    """Notes a bar."""
    return len(notes) / notes.bars


def _empty_rate(notes: BarredNotes, lines: np.ndarray) -> float:
    """Share of the stretches between lines in which no note sounds."""
    first = np.searchsorted(lines, notes.onset, side="right") - 1
    last = np.searchsorted(lines, notes.onset + notes.duration, side="left")
    cover = np.bincount(first, minlength=len(lines) + 1) - np.bincount(last, minlength=len(lines) + 1)
    return float((np.cumsum(cover)[: len(lines) - 1] == 0).mean())


def empty_beat_rate(notes: BarredNotes) -> float:
    """Share of quarter notes, from the beginning on, in which no note sounds (departure 2)."""
    last = int((notes.onset + notes.duration).max(initial=1))
    return _empty_rate(notes, np.arange(0, last + grid.TICKS_PER_QUARTER, grid.TICKS_PER_QUARTER))


def empty_bar_rate(notes: BarredNotes) -> float:
    """Share of bars in which no note sounds (departure 2)."""
    return _empty_rate(notes, notes.grid.starts)


def groove_patterns(notes: BarredNotes) -> tuple[np.ndarray, np.ndarray]:
    """Where in its bar anything begins.

    Returns:
        bool (bars, positions of the longest bar), and the positions of each bar: int64 (bars,).
    """
    bars = min(notes.bars, MAX_BARS)
    lengths = notes.bar_lengths[:bars] // POSITION_TICKS
    patterns = np.zeros((bars, int(lengths.max())), dtype=bool)
    kept = notes.bar < bars
    patterns[notes.bar[kept], notes.position[kept] // POSITION_TICKS] = True
    return patterns, lengths


def groove_consistency(notes: BarredNotes) -> float:
    """Mean share of positions in which the onset patterns of neighbouring bars agree (departure 3)."""
    patterns, lengths = groove_patterns(notes)
    alike = lengths[1:] == lengths[:-1]
    if not alike.any():
        return float("nan")
    different = (patterns[1:] != patterns[:-1]).sum(axis=1)[alike]
    return float(1 - different.sum() / lengths[1:][alike].sum())


def grooving_similarity(notes: BarredNotes) -> float:
    """Mean share of positions in which the onset patterns of any two bars agree (departure 6)."""
    patterns, lengths = groove_patterns(notes)
    bits = patterns.astype(np.float32)
    both = bits @ bits.T  # (bars, bars)
    ones = bits.sum(axis=1)
    agree = 1 - (ones[:, None] + ones[None] - 2 * both) / lengths[:, None]
    pairs = np.triu(lengths[:, None] == lengths[None], k=1)
    return _mean(agree[pairs])


def mean_duration(notes: BarredNotes) -> float:
    """Mean length of a note, beats."""
    return _mean(notes.duration / grid.TICKS_PER_QUARTER)


def duration_entropy(notes: BarredNotes) -> float:
    """Entropy of the histogram of note lengths, in 24ths of a beat, bits."""
    return entropy(np.bincount(np.maximum(notes.duration // POSITION_TICKS, 1)).astype(float))


def off_beat_rate(notes: BarredNotes) -> float:
    """Share of onsets, several notes at once being one, that lie on no quarter note of their bar."""
    _, first = np.unique(notes.onset, return_index=True)
    return _mean(notes.position[first] % grid.TICKS_PER_QUARTER != 0)


def _histograms(window: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """A histogram of the values in each window that has any: float64 (windows with notes, size)."""
    _, rows = np.unique(window, return_inverse=True)
    count = int(rows.max(initial=-1)) + 1
    return np.bincount(rows * size + values, minlength=count * size).reshape(count, size).astype(float)


def _mean(values) -> float:
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()) if len(values) else float("nan")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One number that describes a piece.

    Args:
        name: Key in `results.json`.
        label: For people.
        unit: Likewise.
        high: What a piece is like that has more of it than real music.
        low: Likewise, less.
        measure: From the notes to the number, NaN where it is not defined.
        tolerance: A difference that nobody would hear: no band is narrower. Most real music has no empty bar at
            all, and a model must not be faulted for its first.
    """

    name: str
    label: str
    unit: str
    high: str
    low: str
    measure: Callable[[BarredNotes], float]
    tolerance: float = 0.0


def _bar_entropy(notes: BarredNotes) -> float:
    return pitch_class_entropy(notes, bars=1)


def _phrase_entropy(notes: BarredNotes) -> float:
    return pitch_class_entropy(notes, bars=4)


FEATURES: tuple[Feature, ...] = (
    Feature("pitch_class_entropy", "pitch-class entropy", "bits", "wanders through too many keys",
            "stays on too few notes of the scale", pitch_class_entropy),
    Feature("pitch_class_entropy_1", "pitch-class entropy, 1 bar", "bits",
            "uses too many notes of the scale in a bar", "uses too few notes of the scale in a bar", _bar_entropy),
    Feature("pitch_class_entropy_4", "pitch-class entropy, 4 bars", "bits",
            "wanders through too many keys within a phrase", "stays on too few notes within a phrase",
            _phrase_entropy),
    Feature("pitch_entropy", "pitch entropy", "bits", "spreads over too many pitches", "keeps to too few pitches",
            pitch_entropy),
    Feature("scale_consistency", "scale consistency", "share of notes", "leaves its key too little",
            "plays too many notes outside one key", scale_consistency),
    Feature("pitch_range", "pitch range", "semitones", "ranges too wide", "ranges too narrow", pitch_range),
    Feature("pitches_used", "pitches used", "pitches", "uses too many pitches", "uses too few pitches", pitches_used),
    Feature("pitch_classes_per_bar", "pitch classes a bar", "classes", "changes harmony too much in a bar",
            "has too little harmony in a bar", pitch_classes_per_bar),
    Feature("mean_interval", "melodic interval", "semitones", "leaps too much on top", "moves too little on top",
            mean_interval),
    Feature("polyphony", "polyphony", "pitches at once", "sounds too thick", "sounds too thin", polyphony),
    Feature("polyphony_rate", "polyphony rate", "share of time", "has too few passages for one voice",
            "has too many passages for one voice", polyphony_rate),
    Feature("note_density", "note density", "notes a beat", "plays too many notes", "plays too few notes",
            note_density),
    Feature("notes_per_bar", "notes a bar", "notes", "fills its bars too much", "fills its bars too little",
            notes_per_bar),
    Feature("empty_beat_rate", "empty beats", "share of beats", "pauses too much", "pauses too little",
            empty_beat_rate, tolerance=0.02),
    Feature("empty_bar_rate", "empty bars", "share of bars", "leaves too many bars empty", "leaves too few bars empty",
            empty_bar_rate, tolerance=0.02),
    Feature("groove_consistency", "groove consistency, neighbouring bars", "share of positions",
            "keeps one rhythm from bar to bar", "changes its rhythm too much from bar to bar", groove_consistency),
    Feature("grooving_similarity", "grooving similarity, all bars", "share of positions",
            "has too uniform a rhythm", "has too irregular a rhythm", grooving_similarity),
    Feature("mean_duration", "note length", "beats", "holds its notes too long", "plays its notes too short",
            mean_duration),
    Feature("duration_entropy", "note-length entropy", "bits", "mixes too many note lengths",
            "has too few note lengths", duration_entropy),
    Feature("off_beat_rate", "onsets off the beat", "share of onsets", "plays too much off the beat",
            "plays too much on the beat", off_beat_rate),
)  # fmt: skip


def measure(score) -> dict[str, float]:
    """All features of a canonical score, by name.

    Args:
        score: A `symusic.Score`.
    """
    notes = barred_notes(score)
    return {feature.name: feature.measure(notes) for feature in FEATURES}
