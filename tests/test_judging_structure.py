"""Structure: Museformer's similarity, its error, and structureness, by hand and against exhaustive search."""

import itertools

import numpy as np
import pytest
import symusic

from musegen.judging import structure as s
from musegen.judging.pieces import Piece, arrange_bars, barred_notes, count_bars, windows


def piece_of(*bars):
    """Barred notes of bars of (position in eighths, pitch); every note lasts an eighth, every bar four quarters."""
    score = symusic.Score(96)
    score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
    track = symusic.Track("", 0, False)
    for i, bar in enumerate(bars):
        for eighth, pitch in bar:
            track.notes.append(symusic.Note(i * 384 + eighth * 48, 48, pitch, 80))
    score.tracks.append(track)
    return barred_notes(score)


A = [(0, 60), (2, 64), (4, 67), (6, 72)]
B = [(1, 61), (3, 65), (5, 70)]
A_MOVED = [(eighth, pitch + 5) for eighth, pitch in A]


def test_similarity_by_hand():
    half = [*A[:2], (5, 50), (7, 51)]  # two of its four notes are A's: 2 shared of 6
    matrix = s.similarity_matrix(piece_of(A, A, half, B))
    assert matrix[0, 1] == 1.0 and matrix[0, 0] == 1.0
    assert matrix[0, 2] == matrix[2, 0] == pytest.approx(2 / 6)
    assert matrix[0, 3] == 0.0


def test_length_place_and_pitch_make_a_note():
    base = piece_of(A, A)
    longer = base.duration.copy()
    longer[len(A)] += 4
    assert s.similarity_matrix(type(base)(base.onset, longer, base.pitch, base.bar, base.grid))[0, 1] == 3 / 5
    assert s.similarity_matrix(piece_of(A, [(7, 60), *A[1:]]))[0, 1] == 3 / 5
    assert s.similarity_matrix(piece_of(A, [(0, 62), *A[1:]]))[0, 1] == 3 / 5


def test_a_note_in_unison_counts_once():
    assert s.similarity_matrix(piece_of([*A, A[0]], A))[0, 1] == 1.0


def test_similarity_of_real_music_equals_sets_of_notes(scores):
    for score in scores.values():
        notes = barred_notes(score)
        bars = [set() for _ in range(notes.bars)]
        for bar, *note in zip(
            notes.bar.tolist(), notes.position.tolist(), notes.duration.tolist(), notes.pitch.tolist()
        ):
            bars[bar].add(tuple(note))
        curve = s.similarity_by_lag(notes)
        for lag in (1, 2, 3, 8, 11):
            pairs = [(a, b) for a, b in zip(bars, bars[lag:]) if a | b]
            expected = np.mean([len(a & b) / len(a | b) for a, b in pairs])
            assert curve[lag - 1] == pytest.approx(expected, abs=1e-12)
        assert np.nanmax(curve) > 0.05


def test_transposed_similarity():
    notes = piece_of(A, A_MOVED, B)
    assert s.similarity_matrix(notes)[0, 1] == 0.0
    moved = s.similarity_matrix(notes, transposed=True)
    assert moved[0, 1] == moved[1, 0] == 1.0 and moved[0, 2] == 0.0


def test_lags_by_hand():
    curve = s.similarity_by_lag(piece_of(A, B, A, B), lags=5)
    assert curve[:3].tolist() == [0.0, 1.0, 0.0] and np.isnan(curve[3:]).all()


def test_pairs_of_empty_bars_are_left_out():
    matrix = s.similarity_matrix(piece_of(A, [], [], A))
    assert np.isnan(matrix[1, 2]) and matrix[0, 1] == 0.0
    curve = s.similarity_by_lag(piece_of(A, [], [], A), lags=3)
    assert curve.tolist() == [0.0, 0.0, 1.0]


def test_mean_curve_and_error():
    nan = np.nan
    mean = s.mean_curve(np.array([[0.2, 0.4, nan], [0.4, nan, nan]]))
    assert mean[:2].tolist() == pytest.approx([0.3, 0.4]) and np.isnan(mean[2])
    assert s.similarity_error(np.array([0.1, 0.5, nan]), np.array([0.3, 0.4, 0.9])) == pytest.approx(0.15)
    assert s.similarity_error(mean, mean) == 0.0
    assert np.isnan(s.similarity_error(np.array([nan]), np.array([1.0])))


def test_fitness_by_hand():
    """Four bars A B A B, exact: a segment of two bars repeats once, and gains 2 of a path of 4 over half the piece."""
    matrix = s.chroma_similarity(piece_of(A, B, A, B))
    scape = s.fitness(matrix, 2)
    assert scape[1, 0] == pytest.approx(0.5)  # score 2 / 4, coverage 2 / 4
    assert scape[1, 1] == 0.0  # B A stands once
    assert scape[0, 0] == pytest.approx(2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    found = s.structureness(piece_of(A, B, A, B))
    assert found["short"] == pytest.approx(0.5)
    assert np.isnan(found["middle"]) and np.isnan(found["long"])


def brute_fitness(matrix, start, m):
    """The best set of non-overlapping repetitions by trying all of them."""
    bars = len(matrix)
    scaled = np.where(matrix >= s.THRESHOLD, (matrix - s.THRESHOLD) / (1 - s.THRESHOLD), s.PENALTY)
    gains = {j: sum(scaled[start + k, j + k] for k in range(m)) for j in range(bars - m + 1) if abs(j - start) >= m}
    best = (0.0, 0)
    for count in range(1, bars // m + 1):
        for chosen in itertools.combinations(sorted(gains), count):
            if all(b - a >= m for a, b in itertools.pairwise(chosen)):
                best = max(best, (sum(gains[j] for j in chosen), count))
    score, coverage = best[0] / ((best[1] + 1) * m), best[1] * m / bars
    return 2 * score * coverage / (score + coverage) if score + coverage else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_fitness_equals_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    half = rng.random((9, 9)) ** 0.4
    matrix = (half + half.T) / 2
    np.fill_diagonal(matrix, 1.0)
    scape = s.fitness(matrix, 4)
    for m in range(1, 5):
        for start in range(9 - m + 1):
            assert scape[m - 1, start] == pytest.approx(brute_fitness(matrix, start, m), abs=1e-12), (m, start)


def test_bar_profiles_hold_all_the_time_that_sounds():
    notes = piece_of(A, B)
    profiles = s.bar_profiles(notes)
    assert profiles.shape == (2, 8 * 12)
    assert profiles.sum() == notes.duration.sum()
    assert profiles[0].reshape(8, 12)[2, 64 % 12] == 48
    long = type(notes)(notes.onset[:1], np.array([700]), notes.pitch[:1], notes.bar[:1], notes.grid)
    assert s.bar_profiles(long).sum() == 700 and s.bar_profiles(long)[1].sum() == 700 - 384


def test_chroma_similarity_under_transposition():
    notes = piece_of(A, A_MOVED)
    assert s.chroma_similarity(notes)[0, 1] < 0.99
    assert s.chroma_similarity(notes, transposed=True)[0, 1] == pytest.approx(1.0)


def test_shuffling_real_bars_costs_structure(scores):
    """What repetition of passages there is goes when bars are shuffled; single bars are as alike as before."""
    rng = np.random.default_rng(1)
    real, shuffled = [], []
    for name, score in scores.items():
        for excerpt in windows(Piece(name, name, score), 24, 4):
            mixed = arrange_bars(excerpt.score, rng.permutation(count_bars(excerpt.score)))
            real.append(s.structureness(barred_notes(excerpt.score)))
            shuffled.append(s.structureness(barred_notes(mixed)))
    for length in ("middle", "long"):
        before, after = (np.mean([found[length] for found in group]) for group in (real, shuffled))
        assert before > 2 * after, length


def test_long_pieces_are_bounded():
    notes = piece_of(*[A, B] * 520)
    assert s.similarity_matrix(notes).shape == (s.MAX_BARS, s.MAX_BARS)
    assert s.chroma_similarity(notes).shape == (s.MAX_BARS, s.MAX_BARS)


def test_no_notes():
    notes = piece_of([])
    assert np.isnan(s.similarity_by_lag(notes)).all()
    assert all(np.isnan(value) for value in s.structureness(notes).values())
