"""Pieces, excerpts, and bars in another order."""

import numpy as np
import pytest
import symusic

from musegen import grid
from musegen.errors import ScoreError
from musegen.judging.pieces import Piece, arrange_bars, barred_notes, count_bars, cut_bars, read_folder, windows
from musegen.scores import content_hash, midi_bytes


def score_in(metres, notes, program=0):
    """A canonical score; metres (tick, numerator, denominator), notes (onset, duration, pitch) in ticks."""
    score = symusic.Score(96)
    for time, numerator, denominator in metres:
        score.time_signatures.append(symusic.TimeSignature(time, numerator, denominator))
    score.tempos.append(symusic.Tempo(0, 90.0))
    score.tempos.append(symusic.Tempo(384, 140.0))
    track = symusic.Track("", program, False)
    for onset, duration, pitch in notes:
        track.notes.append(symusic.Note(onset, duration, pitch, 80))
    score.tracks.append(track)
    return score


# A bar of 4/4, a bar of 3/4, a bar of 4/4; the first note lasts over the second bar line.
MIXED = score_in(((0, 4, 4), (384, 3, 4), (672, 4, 4)), [(0, 500, 60), (480, 96, 64), (700, 96, 67)])


def rows(score):
    notes = grid.note_array(score)
    return list(zip(notes["onset"].tolist(), notes["duration"].tolist(), notes["pitch"].tolist()))


def metres(score):
    return [(s.time, s.numerator, s.denominator) for s in score.time_signatures]


def test_barred_notes():
    notes = barred_notes(MIXED)
    assert notes.bars == 3 and notes.bar.tolist() == [0, 1, 2]
    assert notes.position.tolist() == [0, 96, 28]
    assert notes.bar_lengths.tolist() == [384, 288, 384]


def test_cut_bars_moves_notes_metres_and_tempo():
    cut = cut_bars(MIXED, 1, 2)
    assert rows(cut) == [(96, 96, 64), (316, 96, 67)]
    assert metres(cut) == [(0, 3, 4), (288, 4, 4)]
    assert [t.qpm for t in cut.tempos] == pytest.approx([140.0], abs=0.01)


def test_cut_bars_ends_notes_with_the_excerpt_only():
    assert rows(cut_bars(MIXED, 0, 1)) == [(0, 384, 60)]
    assert rows(cut_bars(MIXED, 0, 2))[0] == (0, 500, 60)
    assert rows(cut_bars(MIXED, 0, 99)) == rows(MIXED)


def test_arranged_bars_keep_their_metres_and_end_their_notes():
    moved = arrange_bars(MIXED, [2, 0, 1])
    assert rows(moved) == [(28, 96, 67), (384, 384, 60), (864, 96, 64)]
    assert metres(moved) == [(0, 4, 4), (768, 3, 4)]


def test_arranging_in_place_changes_nothing(scores):
    score = scores["k80/movement3"]
    bars = count_bars(score)
    assert content_hash(arrange_bars(score, range(bars), trim_to_bar=False)) == content_hash(score)


def test_windows_do_not_overlap_and_hold_all_notes(scores):
    piece = Piece("p", "w", scores["k156/movement4"])
    total = count_bars(piece.score)
    cut = windows(piece, 16, 99)
    assert len(cut) == total // 16
    assert cut[0].name == "p:bars 1-16" and cut[1].name == "p:bars 17-32" and cut[0].work == "w"
    inside = barred_notes(piece.score).bar < 16 * len(cut)
    assert sum(len(barred_notes(c.score)) for c in cut) == inside.sum()


def test_windows_are_spread_when_there_are_too_many(scores):
    piece = Piece("p", "w", scores["k156/movement4"])
    names = [c.name for c in windows(piece, 8, 3)]
    last = (count_bars(piece.score) // 8 - 1) * 8
    assert len(names) == 3 and names[0] == "p:bars 1-8" and names[-1] == f"p:bars {last + 1}-{last + 8}"


def test_a_short_piece_is_a_window_only_if_it_is_half_of_one():
    piece = Piece("p", "w", MIXED)
    assert [c.name for c in windows(piece, 6, 4)] == ["p:bars 1-3"]
    assert windows(piece, 7, 4) == []


def test_silent_windows_are_left_out():
    score = score_in(((0, 4, 4),), [(0, 96, 60), (384 * 11, 96, 60)])
    assert [c.name for c in windows(Piece("p", "w", score), 4, 9)] == ["p:bars 1-4", "p:bars 9-12"]


def test_read_folder(tmp_path, scores):
    (tmp_path / "b.mid").write_bytes(midi_bytes(scores["k545"]))
    (tmp_path / "a.mid").write_bytes(midi_bytes(MIXED))
    (tmp_path / "broken.mid").write_bytes(b"MThd nonsense")
    (tmp_path / "notes.txt").write_text("no score")
    pieces, refused = read_folder(tmp_path)
    assert [p.name for p in pieces] == ["a", "b"] and [p.work for p in pieces] == ["a", "b"]
    assert rows(pieces[0].score) == rows(MIXED)
    assert len(refused) == 1 and refused[0].reason == "unreadable"


def test_read_folder_goes_down_into_folders(tmp_path, scores):
    for name in ("k1/movement1.mid", "k1/movement2.mid", ".hidden/x.mid", "k1/.y.mid", "k1/movement1.midi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(midi_bytes(MIXED))
    pieces, refused = read_folder(tmp_path)
    names = ["k1/movement1", "k1/movement1.midi", "k1/movement2"]
    assert [p.name for p in pieces] == [p.work for p in pieces] == names and not refused


def test_read_folder_refuses_what_holds_no_score(tmp_path):
    with pytest.raises(ScoreError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(ScoreError, match="no score file"):
        read_folder(tmp_path)


def test_drums_are_no_notes():
    score = score_in(((0, 4, 4),), [(0, 96, 60)])
    score.tracks.append(symusic.Track("drums", 0, True))
    score.tracks[1].notes.append(symusic.Note(0, 96, 36, 80))
    assert barred_notes(score).pitch.tolist() == [60]
    assert np.array_equal(barred_notes(cut_bars(score, 0, 1)).pitch, [60])
