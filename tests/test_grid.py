"""The grid: bars of awkward scores, snapping against plain arithmetic, shifts put back."""

import numpy as np
import pytest
import symusic

from musegen import grid as g


def bars(*rows):
    """Source bars from (length, numerator, denominator), laid end to end."""
    out, start = [], 0.0
    for length, numerator, denominator in rows:
        out.append(g.SourceBar(start, float(length), numerator, denominator))
        start += length
    return out


@pytest.mark.parametrize(
    ("length", "metre", "expected"),
    [
        (384, (4, 4), [(4, 4)]),
        (384, (2, 2), [(4, 4)]),  # the same bar, on a grid that holds 32nds
        (576, (3, 2), [(6, 4)]),
        (288, (6, 8), [(6, 8)]),
        (96, (4, 4), [(1, 4)]),  # a short bar gets the metre it has
        (48, (6, 8), [(1, 8)]),
        (240, (6, 8), [(5, 8)]),
        (168, (2, 4), [(7, 16)]),
        (160, (2, 4), [(2, 4)]),  # no whole 16ths: a fault, rounded up to a bar
        (384 * 3 + 96, (4, 4), [(4, 4), (4, 4), (4, 4), (1, 4)]),  # a cadenza
        (384, (33, 32), [(4, 4)]),
    ],
)
def test_fit_bar(length, metre, expected):
    assert g.fit_bar(length, *metre) == expected


def test_pick_up_becomes_a_whole_bar_with_silence_before():
    laid = g.lay_bars(bars((96, 4, 4), (384, 4, 4), (384, 4, 4)))
    assert laid.grid.starts.tolist() == [0, 384, 768, 1152]
    assert laid.move(np.array([0.0, 96.0, 480.0])).tolist() == [288.0, 384.0, 768.0]


def test_bar_cut_in_two_at_a_repeat_is_one_bar():
    laid = g.lay_bars(bars((288, 4, 4), (384, 4, 4), (288, 4, 4), (96, 4, 4), (384, 4, 4)))
    # The first is a pick-up; the third and fourth are one bar.
    assert laid.grid.starts.tolist() == [0, 384, 768, 1152, 1536]
    assert laid.move(np.array([0.0, 672.0, 960.0])).tolist() == [96.0, 768.0, 1056.0]


def test_metres_change_inside_a_piece():
    laid = g.lay_bars(bars((384, 4, 4), (288, 6, 8), (144, 3, 8), (54, 9, 64)))
    assert list(zip(laid.grid.numerators.tolist(), laid.grid.denominators.tolist()))[:3] == [(4, 4), (6, 8), (3, 8)]


def test_snap_is_rounding_to_24_positions_a_quarter():
    rng = np.random.default_rng(1)
    grid = g.lay_bars(bars(*[(384, 4, 4)] * 20)).grid
    onsets = rng.uniform(0, 19 * 384, 500)
    ends = onsets + rng.uniform(1, 400, 500)
    snapped, durations = g.snap(onsets, ends, grid)
    expected = np.round(onsets / 96 * 24)
    assert np.array_equal(snapped * 24 / 96, expected)
    assert np.array_equal(durations * 24 / 96, np.maximum(np.round(ends / 96 * 24 - expected), 1))


def test_snap_mends_notes_that_end_a_tick_early():
    grid = g.lay_bars(bars((384, 4, 4))).grid
    onsets = np.array([0.0, 32.0, 48.0, 96.0])
    lengths = np.array([32.0, 16.0, 12.0, 96.0])  # triplet eighth, triplet 16th, 32nd, quarter
    _, durations = g.snap(onsets, onsets + lengths - 96 / 120, grid)
    assert durations.tolist() == [32, 16, 12, 96]


def melody(onsets):
    score = symusic.Score(96)
    track = symusic.Track("x", 0, False)
    for i, onset in enumerate(onsets):
        track.notes.append(symusic.Note(int(onset), 24, 60 + i % 12, 90))
    score.tracks.append(track)
    return score


@pytest.mark.parametrize("shift", [5.25, 10.75, 8.0])
def test_shift_from_a_grace_note_is_found_from_where_it_begins(shift):
    onsets = np.arange(400) * 24.0  # 16ths
    onsets[150:] += shift
    found = g.find_shifts(onsets)
    assert np.allclose(found[170:], shift, atol=0.05) and not found[:130].any()


@pytest.mark.parametrize(
    "pattern",
    [
        [0, 24, 48, 72],  # 16ths
        [0, 32, 64],  # triplets
        [0, 32, 64, 72],  # triplets against 16ths
        [0, 12, 24, 36],  # 32nds
        [48],  # off-beats only
        [0, 16, 32, 48, 64, 80],  # triplet 16ths
    ],
)
def test_plain_rhythms_are_never_shifted(pattern):
    onsets = np.concatenate([96.0 * beat + np.array(pattern, float) for beat in range(150)])
    assert not g.find_shifts(onsets).any()


def test_slice_bars_keeps_what_is_in_force(scores):
    score = scores["k155/movement3"]
    part = g.slice_bars(score, 8, 12)
    whole, few = g.note_array(score), g.note_array(part)
    low, high = g.bar_grid(score).starts[[8, 12]]
    inside = whole[(whole["onset"] >= low) & (whole["onset"] < high)]
    assert np.array_equal(np.sort(inside["onset"] - low), np.sort(few["onset"]))
    assert (few["onset"] + few["duration"]).max() <= high - low
    assert (part.time_signatures[0].numerator, part.time_signatures[0].time) == (2, 0)
    assert len(part.tempos) == 1 and part.tempos[0].time == 0


def test_bar_grid_of_an_empty_score_has_a_bar():
    assert len(g.bar_grid(symusic.Score(96))) == 1


def test_note_array_is_sorted_and_marks_drums():
    score = melody([0, 96])
    drums = symusic.Track("d", 0, True)
    drums.notes.append(symusic.Note(48, 12, 36, 100))
    score.tracks.append(drums)
    notes = g.note_array(score)
    assert notes["onset"].tolist() == [0, 48, 96] and notes["program"].tolist() == [0, g.DRUMS, 0]
