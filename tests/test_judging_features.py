"""Features: equal to MusPy where it has them, its departures, and rows derived by hand."""

import math

import muspy
import numpy as np
import pytest
import symusic

from musegen.judging import features as f
from musegen.judging.pieces import barred_notes

TICKS = 4  # of the canonical 96 a quarter in one of MusPy's 24


def score_of(notes, metres=((0, 4, 4),), drums=()):
    """A canonical score of (onset, duration, pitch) in ticks."""
    score = symusic.Score(96)
    for time, numerator, denominator in metres:
        score.time_signatures.append(symusic.TimeSignature(time, numerator, denominator))
    for music, is_drum in ((notes, False), (drums, True)):
        track = symusic.Track("", 0, is_drum)
        for onset, duration, pitch in music:
            track.notes.append(symusic.Note(onset, duration, pitch, 80))
        if len(track.notes):
            score.tracks.append(track)
    return score


def to_muspy(score):
    music = muspy.Music(resolution=24)
    for track in score.tracks:
        part = muspy.Track(program=track.program, is_drum=track.is_drum)
        for note in track.notes:
            part.notes.append(
                muspy.Note(time=note.time // TICKS, pitch=note.pitch, duration=note.duration // TICKS, velocity=80)
            )
        music.tracks.append(part)
    return music


def random_score(seed):
    """Notes that begin and end on MusPy's grid and never on a quarter, in 4/4."""
    rng = np.random.default_rng(seed)
    onset = rng.integers(0, 24 * 4 * 9, size=120)
    end = onset + rng.integers(1, 60, size=120)
    end += end % 24 == 0
    pitch = rng.integers(30, 90, size=120)
    return score_of([(int(a) * TICKS, int(b - a) * TICKS, int(p)) for a, b, p in zip(onset, end, pitch)])


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_muspy_on_random_music(seed):
    score = random_score(seed)
    mine, music = f.measure(score), to_muspy(score)
    theirs = {
        "pitch_class_entropy": muspy.pitch_class_entropy(music),
        "pitch_entropy": muspy.pitch_entropy(music),
        "scale_consistency": muspy.scale_consistency(music),
        "pitch_range": muspy.pitch_range(music),
        "pitches_used": muspy.n_pitches_used(music),
        "polyphony": muspy.polyphony(music),
        "polyphony_rate": muspy.polyphony_rate(music, threshold=1),
        "groove_consistency": muspy.groove_consistency(music, 96),
        "empty_beat_rate": muspy.empty_beat_rate(music),
        "empty_bar_rate": muspy.empty_measure_rate(music, 96),
    }
    assert {name: mine[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


def test_equal_to_muspy_on_real_music(scores):
    for score in scores.values():
        mine, music = f.measure(score), to_muspy(score)
        theirs = {
            "pitch_class_entropy": muspy.pitch_class_entropy(music),
            "pitch_entropy": muspy.pitch_entropy(music),
            "scale_consistency": muspy.scale_consistency(music),
            "pitch_range": muspy.pitch_range(music),
            "pitches_used": muspy.n_pitches_used(music),
            "polyphony": muspy.polyphony(music),
            "polyphony_rate": muspy.polyphony_rate(music, threshold=1),
        }
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


def test_departure_1_two_pitches_are_polyphony():
    score = score_of([(0, 96, 60), (0, 96, 64), (96, 96, 62)])
    assert f.measure(score)["polyphony_rate"] == 0.5
    assert muspy.polyphony_rate(to_muspy(score)) == 0.0  # counts three or more


def test_departures_2_and_3_the_piece_ends_with_its_last_bar():
    bar = [(0, 96, 60), (192, 192, 62)]  # ends on the bar line
    score = score_of([*bar, *((onset + 384, length, pitch) for onset, length, pitch in bar)])
    mine, music = f.measure(score), to_muspy(score)
    assert mine["empty_bar_rate"] == 0.0 and mine["groove_consistency"] == 1.0
    assert mine["empty_beat_rate"] == pytest.approx(2 / 8)
    assert muspy.groove_consistency(music, 96) < 1.0  # a ninth, empty beat begins a third bar
    assert muspy.empty_beat_rate(music) < 2 / 8  # notes count into the beat after their end


def test_departure_4_drums_count_nowhere():
    notes = [(0, 96, 60), (400, 96, 65)]
    plain, drummed = score_of(notes), score_of(notes, drums=[(96, 48, 36), (200, 48, 38)])
    assert f.measure(plain) == f.measure(drummed)


def test_rows_by_hand():
    # Bar 1: C E on beats 1 and 2, held a beat; bar 2: C E likewise, and G on the second eighth of beat 3.
    score = score_of([(0, 96, 60), (96, 96, 64), (384, 96, 60), (480, 96, 64), (624, 48, 67)])
    found = f.measure(score)
    hand = {
        "pitch_class_entropy": -(0.8 * math.log2(0.4) + 0.2 * math.log2(0.2)),
        "pitch_class_entropy_1": (1.0 + math.log2(3)) / 2,
        "pitch_class_entropy_4": -(0.8 * math.log2(0.4) + 0.2 * math.log2(0.2)),
        "scale_consistency": 1.0,
        "pitch_range": 7.0,
        "pitches_used": 3.0,
        "pitch_classes_per_bar": 2.5,
        "mean_interval": (4 + 4 + 4 + 3) / 4,
        "polyphony": 1.0,
        "polyphony_rate": 0.0,
        "note_density": 5 / 8,
        "notes_per_bar": 2.5,
        "empty_beat_rate": 2 / 7,  # up to the last note: beats 3 and 4 of the first bar
        "empty_bar_rate": 0.0,
        "groove_consistency": 95 / 96,
        "grooving_similarity": 95 / 96,
        "mean_duration": 0.9,
        "duration_entropy": -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2)),
        "off_beat_rate": 0.2,
    }
    assert {name: found[name] for name in hand} == pytest.approx(hand, abs=1e-12)


def test_top_line_takes_the_highest_of_a_chord():
    assert f.measure(score_of([(0, 96, 60), (0, 96, 72), (96, 96, 50), (96, 96, 70)]))["mean_interval"] == 2.0


def test_unisons_sound_once():
    score = score_of([(0, 192, 60), (96, 192, 60), (0, 96, 64)])
    assert f.measure(score)["polyphony"] == pytest.approx((2 + 1 + 1) / 3)


def test_grooves_of_bars_of_different_length_are_not_compared():
    metres = ((0, 4, 4), (384, 3, 4), (672, 4, 4))
    notes = [(0, 48, 60), (384, 48, 60), (480, 48, 60), (672, 48, 60), (720, 48, 60)]
    found = f.measure(score_of(notes, metres))
    assert math.isnan(found["groove_consistency"])
    assert found["grooving_similarity"] == pytest.approx(95 / 96)  # bars 1 and 3


def test_a_piece_without_notes_is_undefined_and_not_an_error():
    found = f.measure(score_of([]))
    assert found["note_density"] == 0.0 and found["empty_bar_rate"] == 1.0
    for name in ("pitch_class_entropy", "polyphony", "scale_consistency", "mean_duration", "off_beat_rate"):
        assert math.isnan(found[name])


def test_entropy_of_a_histogram():
    assert f.entropy(np.array([1.0, 1, 1, 1, 0])) == 2.0
    assert f.entropy(np.array([5.0, 0])) == 0.0
    assert math.isnan(f.entropy(np.zeros(3)))


def test_every_feature_has_words_for_people():
    for feature in f.FEATURES:
        assert feature.label and feature.unit and feature.high != feature.low
    assert len({feature.name for feature in f.FEATURES}) == len(f.FEATURES)


def test_long_pieces_are_bounded():
    notes = barred_notes(score_of([(i * 384, 96, 60) for i in range(1300)]))
    assert notes.bars == 1300
    assert len(f.groove_patterns(notes)[0]) == f.MAX_BARS
