"""Music that a model must beat, made on the spot from the training pieces.

- `markov`: an n-gram model with back-off on notewise tokens; knows style for half a beat and no longer.
- `shuffled_bars`: real bars in random order; everything is real but what goes on from bar to bar.
- `copy_machine`: training music itself, every second piece transposed; only originality can tell.
- `random_in_key`: notes of one key at random, as many and as long as in the training music.

All are canonical scores of a given number of bars, and the same for the same seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import symusic

from musegen import grid, notewise
from musegen.judging.ngram import NgramModel
from musegen.judging.pieces import Piece, arrange_bars, barred_notes, count_bars, cut_bars

LABELS = {
    "markov": "Markov model (n-gram)",
    "shuffled_bars": "Shuffled bars",
    "copy_machine": "Copy machine",
    "random_in_key": "Random notes in key",
}
# Of these orders, the one that predicts the held-out music best is taken: a model has to beat the strongest.
ORDERS = (3, 4, 5, 6)
TRANSPOSITIONS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)
LONGEST_NOTE = 8 * notewise.STEPS_PER_BEAT  # of `random_in_key`, steps
_MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
_TOKENS_A_STEP = 8  # bounds the tokens of a piece: no style strikes more notes than this at every step


@dataclasses.dataclass(frozen=True)
class Style:
    """What the baselines take over from the training music as a whole.

    Args:
        metre: Numerator and denominator that most bars have.
        density: Notes a beat.
        durations: Lengths of all notes, or of a part of them, steps.
        low: Pitch below which a twentieth of the notes lies.
        high: Pitch above which a twentieth of the notes lies.
        longest: Length that a twentieth of the notes exceeds, steps.
        voices: How many pitches sound at once at the most, but for a twentieth of the onsets.
    """

    metre: tuple[int, int]
    density: float
    durations: np.ndarray
    low: int
    high: int
    longest: int
    voices: int

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Style:
        """The style of some pieces."""
        parts = [barred_notes(piece.score) for piece in pieces]
        metres = np.concatenate(
            [np.stack([p.grid.numerators, p.grid.denominators], axis=1) for p in parts]
        )  # (bars, 2)
        kinds, counts = np.unique(metres, axis=0, return_counts=True)
        pitches = np.concatenate([p.pitch for p in parts])
        durations = np.concatenate([p.duration for p in parts]) // notewise.TICKS_PER_STEP
        beats = sum(float(p.grid.starts[-1]) for p in parts) / grid.TICKS_PER_QUARTER
        low, high = np.percentile(pitches, [5, 95]).astype(int).tolist()
        metre = kinds[np.argmax(counts)].tolist()
        levels = np.concatenate([_levels(notewise.spans(piece.score)) for piece in pieces])
        return cls(
            (metre[0], metre[1]),
            len(pitches) / beats,
            np.clip(durations, 1, LONGEST_NOTE),
            low,
            high,
            max(int(np.percentile(durations, 95)), 1),
            max(int(np.percentile(levels, 95)), 1),
        )

    @property
    def bar_steps(self) -> int:
        """Length of a bar, notewise steps."""
        return grid.bar_ticks(*self.metre) // notewise.TICKS_PER_STEP


def fit_markov(train: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> NgramModel:
    """The n-gram model of that order out of `ORDERS` that predicts the held-out music best.

    Args:
        train: Notewise ids of the training pieces.
        held_out: Notewise ids to choose the order by; without any, the order is the model's default.
    """
    if not held_out:
        return NgramModel(train)
    models = [NgramModel(train, order) for order in ORDERS]
    return min(models, key=lambda model: model.bits_per_note(held_out))


def markov_ids(model: NgramModel, style: Style, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Sample notewise tokens until so many steps have passed.

    Only tokens that the training music has are drawn, and no end of a silent pitch. An n-gram model forgets
    which notes it began, so it gets two crutches from the style: a note ends after `longest` steps, and
    none begins over `voices` others.

    Returns:
        uint16 (tokens,); the last wait may go beyond `steps`.
    """
    known = model.distribution([])  # tokens with no count share what the uniform distribution leaves
    floor = known.min()
    seen = known > floor * (1 + 1e-9)
    if not seen.any():
        seen[:] = True
    ids: list[int] = []
    sounding: dict[int, int] = {}
    now = 0
    while now < steps and len(ids) < _TOKENS_A_STEP * steps:
        probability = np.where(seen, model.distribution(ids), 0.0)
        silent = [pitch for pitch in range(128) if pitch not in sounding]
        probability[128 + np.array(silent, dtype=np.int64)] = 0.0
        if len(sounding) >= style.voices:
            probability[:128] = 0.0
        total = probability.sum()
        if total > 0:
            token = int(rng.choice(len(probability), p=probability / total))
        else:  # all voices sound, and the training music never waits
            token = 255 + notewise.STEPS_PER_BEAT
        ids.append(token)
        if token < 128:
            sounding[token] = now
        elif token < 256:
            del sounding[token - 128]
        else:
            now += token - 255
            for pitch in sorted(p for p, onset in sounding.items() if now - onset >= style.longest):
                ids.append(128 + pitch)
                del sounding[pitch]
    return np.array(ids, dtype=np.uint16)


def markov(model: NgramModel, style: Style, bars: int, rng: np.random.Generator) -> symusic.Score:
    """A piece by the n-gram model."""
    score = notewise.decode(markov_ids(model, style, bars * style.bar_steps, rng), metre=style.metre)
    return cut_bars(score, 0, bars)


def shuffled_bars(piece: Piece, bars: int, rng: np.random.Generator) -> symusic.Score:
    """An excerpt of a piece with its bars in random order."""
    return arrange_bars(piece.score, rng.permutation(_excerpt(piece, bars, rng)))


def copy_machine(piece: Piece, bars: int, rng: np.random.Generator, semitones: int = 0) -> symusic.Score:
    """An excerpt of a piece as it stands, or transposed by octaves and semitones that keep it playable."""
    excerpt = _excerpt(piece, bars, rng)
    score = cut_bars(piece.score, int(excerpt[0]), len(excerpt))
    return score.shift_pitch(_playable(score, semitones)) if semitones else score


def random_in_key(style: Style, bars: int, rng: np.random.Generator) -> symusic.Score:
    """Notes of a random major key: pitch and 16th of the onset uniform, length as in the training music."""
    sixteenth = notewise.STEPS_PER_BEAT // 4
    steps = bars * style.bar_steps
    count = max(int(rng.poisson(style.density * steps / notewise.STEPS_PER_BEAT)), 1)
    tonic = int(rng.integers(12))
    scale = [p for p in range(style.low, style.high + 1) if (p - tonic) % 12 in _MAJOR]
    pitch = rng.choice(scale or [style.low], size=count).astype(np.int32)
    onset = (rng.integers(steps // sixteenth, size=count) * sixteenth).astype(np.int32)
    duration = np.minimum(rng.choice(style.durations, size=count), steps - onset).astype(np.int32)
    score = symusic.Score(grid.TICKS_PER_QUARTER)
    score.time_signatures.append(symusic.TimeSignature(0, *style.metre))
    score.tempos.append(symusic.Tempo(0, 120.0))
    track = symusic.Track("", 0, False)
    track.notes = symusic.Note.from_numpy(
        onset * notewise.TICKS_PER_STEP, duration * notewise.TICKS_PER_STEP, pitch.astype(np.int8),
        np.full(count, 80, dtype=np.int8),
    )  # fmt: skip
    track.notes.sort()
    score.tracks.append(track)
    return score


def make_baselines(
    train: Sequence[Piece], model: NgramModel, *, count: int, bars: int, seed: int = 0
) -> dict[str, list[Piece]]:
    """Some pieces of each baseline.

    Args:
        train: The training pieces, at least one with notes.
        model: From `fit_markov`.
        count: Pieces of each.
        bars: Their length.
        seed: The same seed gives the same pieces.

    Returns:
        The keys of `LABELS`; the pieces of `copy_machine` and `shuffled_bars` name what they come from as
        their `work`.
    """
    rngs = dict(zip(LABELS, np.random.default_rng([seed, 1]).spawn(len(LABELS))))
    style = Style.of(train)
    sources = [piece for piece in train if count_bars(piece.score) >= bars] or list(train)
    made: dict[str, list[Piece]] = {name: [] for name in LABELS}
    for i in range(count):

        def add(name: str, score: symusic.Score, work: str = "", i=i) -> None:
            made[name].append(Piece(f"{name}-{i + 1}", work or f"{name}-{i + 1}", score))

        add("markov", markov(model, style, bars, rngs["markov"]))
        rng = rngs["shuffled_bars"]
        source = sources[int(rng.integers(len(sources)))]
        add("shuffled_bars", shuffled_bars(source, bars, rng), source.work)
        rng = rngs["copy_machine"]
        source = sources[int(rng.integers(len(sources)))]
        semitones = int(rng.choice(TRANSPOSITIONS)) if i % 2 else 0
        add("copy_machine", copy_machine(source, bars, rng, semitones), source.work)
        add("random_in_key", random_in_key(style, bars, rngs["random_in_key"]))
    return made


def _levels(notes: np.ndarray) -> np.ndarray:
    """How many pitches sound at each onset, those that begin there included: int64 (onsets,)."""
    times = np.unique(notes["onset"])
    begun = np.searchsorted(notes["onset"], times, side="right")  # sorted by onset
    return begun - np.searchsorted(np.sort(notes["end"]), times, side="right")


def _excerpt(piece: Piece, bars: int, rng: np.random.Generator) -> np.ndarray:
    """Successive bars out of the piece."""
    total = count_bars(piece.score)
    first = int(rng.integers(max(total - bars, 0) + 1))
    return np.arange(first, min(first + bars, total))


def _playable(score: symusic.Score, semitones: int) -> int:
    """The transposition, or an octave off it, that leaves no pitch out of 0 to 127."""
    pitches = barred_notes(score).pitch
    if not len(pitches):
        return 0
    low, high = int(pitches.min()), int(pitches.max())
    for shift in (semitones, semitones - 12, semitones + 12):
        if low + shift >= 0 and high + shift <= 127:
            return shift
    return 0
