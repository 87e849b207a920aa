"""Notewise tokens: hand-derived rows, round trips, and the order that makes them comparable."""

import numpy as np
import pytest
import symusic
from hypothesis import given, settings
from hypothesis import strategies as st

from musegen import notewise
from musegen.errors import TokenizerError

STEP = notewise.TICKS_PER_STEP


def score_of(*tracks, drums=()):
    """A canonical score of tracks of (onset, duration, pitch) in steps; those numbered in `drums` are drums."""
    score = symusic.Score(96)
    score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
    for i, notes in enumerate(tracks):
        track = symusic.Track(f"{i}", i, i in drums)
        for onset, duration, pitch in notes:
            track.notes.append(symusic.Note(round(onset * STEP), round(duration * STEP), pitch, 80))
        score.tracks.append(track)
    return score


ROWS = {
    "one note": ([[(0, 12, 60)]], "p60 wait12 endp60"),
    "silence first": ([[(6, 6, 60)]], "wait6 p60 wait6 endp60"),
    "chord by pitch": ([[(0, 6, 64), (0, 6, 60)]], "p60 p64 wait6 endp60 endp64"),
    "ends before starts": ([[(0, 6, 60), (6, 6, 50)]], "p60 wait6 endp60 p50 wait6 endp50"),
    "repeated note": ([[(0, 6, 60), (6, 6, 60)]], "p60 wait6 endp60 p60 wait6 endp60"),
    "struck while it sounds": ([[(0, 24, 60), (6, 6, 60)]], "p60 wait6 endp60 p60 wait6 endp60"),
    "unison counts once, as the longest": ([[(0, 6, 60)], [(0, 12, 60)]], "p60 wait12 endp60"),
    "long wait": ([[(0, 60, 60)]], "p60 wait24 wait24 wait12 endp60"),
    "wait of the maximum": ([[(0, 24, 60)]], "p60 wait24 endp60"),
    "one more": ([[(0, 25, 60)]], "p60 wait24 wait1 endp60"),
    "half a step up, at least one step": ([[(0.5, 0.25, 60)]], "wait1 p60 wait1 endp60"),
    "no notes": ([[]], ""),
    "outermost pitches": ([[(0, 1, 0), (0, 1, 127)]], "p0 p127 wait1 endp0 endp127"),
}


@pytest.mark.parametrize("tracks, tokens", ROWS.values(), ids=ROWS)
def test_hand_derived_rows(tracks, tokens):
    assert notewise.encode(score_of(*tracks)) == tokens.split()


def test_drums_are_left_out():
    score = score_of([(0, 6, 60)], [(0, 6, 36), (3, 3, 38)], drums={1})
    assert notewise.encode(score) == ["p60", "wait6", "endp60"]


def test_vocabulary_and_ids():
    assert len(notewise.VOCABULARY) == len(set(notewise.VOCABULARY)) == 280
    ids = notewise.encode_ids(score_of([(0, 30, 60)]))
    assert ids.dtype == np.uint16
    assert notewise.tokens_of(ids) == ["p60", "wait24", "wait6", "endp60"]
    assert notewise.ids_of(notewise.tokens_of(ids)).tolist() == ids.tolist()
    assert notewise.count_notes(ids) == 1


@pytest.mark.parametrize("token", ["p128", "wait0", "wait25", "endp", "<unk>"])
def test_unknown_tokens_are_refused(token):
    with pytest.raises(TokenizerError, match="no notewise token"):
        notewise.ids_of(["p60", token])


def test_decode_takes_any_tokens_in_good_part():
    tokens = "endp60 p60 p62 wait6 p60 wait6 endp62 p64".split()
    # 62 is ended, the second 60 never is, 64 begins and ends with the last event.
    found = [(int(n["onset"]), int(n["end"]), int(n["pitch"])) for n in notewise.spans(notewise.decode(tokens))]
    assert found == [(0, 6, 60), (0, 12, 62), (6, 12, 60), (12, 13, 64)]


def test_decode_puts_the_metre_in_the_score():
    score = notewise.decode(["p60", "wait12", "endp60"], metre=(3, 4))
    assert [(s.numerator, s.denominator) for s in score.time_signatures] == [(3, 4)]


def test_round_trip_of_real_music(scores):
    for score in scores.values():
        tokens = notewise.encode(score)
        assert len(tokens) > 500
        assert notewise.encode(notewise.decode(tokens)) == tokens


def test_real_music_stays_in_a_vocabulary_of_the_study_s_size(scores):
    used = {token for score in scores.values() for token in notewise.encode(score)}
    assert 100 < len(used) < 160


def test_opening():
    tokens = [f"p{i % 128}" for i in range(600)]
    assert notewise.opening(tokens) == tokens[:513]
    assert notewise.opening(tokens, 10) == tokens[:10]
    assert notewise.opening(tokens[:5]) == tokens[:5]


notes = st.tuples(st.integers(0, 200), st.integers(1, 60), st.integers(55, 60))


@settings(max_examples=60, deadline=None)
@given(st.lists(notes, max_size=25))
def test_any_score_survives_the_round_trip(music):
    score = score_of(music)
    spans = notewise.spans(score)
    again = notewise.spans(notewise.decode(notewise.encode_ids(score)))
    assert np.array_equal(spans, again)
    for pitch in range(55, 61):
        own = spans[spans["pitch"] == pitch]
        assert np.all(own["end"][:-1] <= own["onset"][1:])
    assert len(spans) == len({(onset, pitch) for onset, _, pitch in music})
