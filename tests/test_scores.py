"""Reading scores: real files of each format, refusals by name, MIDI that survives a round trip."""

import struct

import numpy as np
import pytest
import symusic

from musegen import grid as g
from musegen.errors import ScoreError
from musegen.scores import (
    ScoreLimits,
    canonical_score,
    content_hash,
    limit_unisons,
    load_score,
    midi_bytes,
    parse_midi,
    separate_unisons,
)

ABC = "X:1\nT:Test\nM:6/8\nL:1/8\nK:G\n|:GAB AGE|GED D2E|GAB AGE|DEF G3:|\n"
KERN = "**kern\n*clefG2\n*k[]\n*M3/4\n=1\n4c\n4d\n4e\n=2\n2f\n4g\n==\n*-\n"
MEI = """<?xml version="1.0"?><mei xmlns="http://www.music-encoding.org/ns/mei"><music><body><mdiv><score>
<scoreDef meter.count="2" meter.unit="4" key.sig="1f"><staffGrp>
<staffDef n="1" lines="5" clef.shape="G" clef.line="2"/>
</staffGrp></scoreDef><section><measure n="1"><staff n="1"><layer n="1"><note pname="f" oct="4" dur="4"/>
<note pname="a" oct="4" dur="4"/></layer></staff></measure></section></score></mdiv></body></mei>"""


def note_file(*notes, tpq=480, metres=((0, 4, 4),), tempos=()):
    score = symusic.Score(tpq)
    track = symusic.Track("x", 0, False)
    for start, duration, pitch in notes:
        track.notes.append(symusic.Note(start, duration, pitch, 80))
    score.tracks.append(track)
    for metre in metres:
        score.time_signatures.append(symusic.TimeSignature(*metre))
    for tempo in tempos:
        score.tempos.append(symusic.Tempo(*tempo))
    return bytes(score.dumps_midi())


def test_quartet_is_read_with_its_bars_instruments_and_key(scores):
    score = scores["k155/movement3"]
    assert [t.program for t in score.tracks] == [40, 40, 41, 42]  # by name: the file says string ensemble for all
    bars = g.bar_grid(score)
    assert set(zip(bars.numerators.tolist(), bars.denominators.tolist())) == {(2, 4)}
    # Its first measure lasts 5/3 beats by a fault of the file; every later bar must still begin on a beat.
    onsets = g.note_array(score)["onset"]
    assert np.mean(np.isin(onsets % 96, [0, 48, 24, 72])) > 0.9
    assert len(score.key_signatures) == 1 and score.key_signatures[0].key == 2


def test_repeats_are_played_out(tmp_path):
    path = tmp_path / "tune.abc"
    path.write_text(ABC)
    loaded = load_score(path)
    assert len(g.bar_grid(loaded.score)) == 8
    notes = g.note_array(loaded.score)
    assert len(notes) == 2 * 21 and loaded.about["metre"] == "6/8"
    half = len(notes) // 2
    assert np.array_equal(notes["pitch"][:half], notes["pitch"][half:])


@pytest.mark.parametrize(
    ("name", "text", "pitches", "metre"),
    [("a.krn", KERN, [60, 62, 64, 65, 67], "3/4"), ("a.mei", MEI, [65, 69], "2/4")],
)
def test_other_notations(tmp_path, name, text, pitches, metre):
    path = tmp_path / name
    path.write_text(text)
    loaded = load_score(path)
    assert g.note_array(loaded.score)["pitch"].tolist() == pitches and loaded.about["metre"] == metre


@pytest.mark.parametrize("name", ["k80/movement3", "k155/movement3", "k545"])
def test_midi_bytes_read_back_as_the_same_music(scores, name):
    again = parse_midi(midi_bytes(scores[name])).score
    assert content_hash(again) == content_hash(scores[name])
    assert np.array_equal(g.note_array(again), g.note_array(scores[name]))


def test_canonical_is_idempotent(scores):
    for score in scores.values():
        assert content_hash(canonical_score(score).score) == content_hash(score)


def test_unison_of_one_program_survives_midi():
    score = symusic.Score(96)
    track = symusic.Track("violins", 40, False)
    for note in [(0, 96, 60), (0, 48, 60), (24, 24, 60), (96, 96, 60)]:
        track.notes.append(symusic.Note(*note, 90))
    score.tracks.append(track)
    score = canonical_score(score).score
    assert np.array_equal(g.note_array(parse_midi(midi_bytes(score)).score), g.note_array(score))


def test_grid_equals_rounding_done_by_hand():
    notes = [(0, 479, 60), (481, 160, 62), (645, 155, 64), (799, 161, 65), (961, 58, 67)]
    loaded = parse_midi(note_file(*notes))
    found = g.note_array(loaded.score)
    assert (found["onset"] / 4).tolist() == [round(n[0] / 20) for n in notes]
    assert (found["duration"] / 4).tolist() == [round((n[0] + n[1]) / 20) - round(n[0] / 20) for n in notes]


def test_metre_change_inside_a_bar_starts_a_new_one():
    data = note_file(*[(480 * i, 400, 60) for i in range(12)], metres=((0, 4, 4), (480 * 6, 3, 4)))
    bars = g.bar_grid(parse_midi(data).score)
    assert bars.starts.tolist() == [0, 384, 576, 864, 1152]
    assert bars.numerators.tolist() == [4, 2, 3, 3]


def test_alla_breve_is_kept_as_metre_of_the_piece():
    loaded = parse_midi(note_file((0, 480, 60), metres=((0, 2, 2),)))
    assert loaded.about["metre"] == "2/2" and loaded.score.time_signatures[0].numerator == 4


def test_tempos_are_kept_where_they_can_be_played():
    loaded = parse_midi(note_file((0, 480, 60), (4800, 480, 62), tempos=((0, 90.0), (1920, 60.0))))
    assert [(t.time, round(t.qpm)) for t in loaded.score.tempos] == [(0, 90), (384, 60)]


def midi(division=480, track=b"\x00\xff\x2f\x00"):
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, division) + b"MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"hello, I am no MIDI file at all", "unreadable"),
        (midi(), "empty"),
        (midi(division=0, track=b"\x00\x90\x3c\x40\x60\x80\x3c\x40\x00\xff\x2f\x00"), "unreadable"),
        (midi(division=0xE728), "unreadable"),  # SMPTE time
        (midi(division=2, track=b"\x00\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\x40\x00\xff\x2f\x00"), "limits"),
        (midi()[:-6], "unreadable"),
    ],
)
def test_bad_midi_is_refused_by_name(data, reason):
    with pytest.raises(ScoreError) as caught:
        parse_midi(data, "song.mid")
    assert caught.value.reason == reason and str(caught.value).startswith("song.mid: ")


def test_limits_are_named(scores):
    data = midi_bytes(scores["k545"])
    for limits, word in [
        (ScoreLimits(notes=10), "notes"),
        (ScoreLimits(bars=3), "bars"),
        (ScoreLimits(tracks=1), "tra"),
    ]:
        with pytest.raises(ScoreError) as caught:
            parse_midi(data, "k545.mid", limits)
        assert caught.value.reason == "limits" and word in caught.value.detail


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("no.mxl", b"PK\x03\x04 torn", "unreadable"),
        ("no.xml", b"<nothing/>", "unreadable"),
        ("no.musicxml", b"\xff\xfe\x00garbage", "unreadable"),
        ("no.txt", b"x", "format"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ScoreError) as caught:
        load_score(path)
    assert caught.value.reason in (reason, "empty") and name in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ScoreError, match="no such file"):
        load_score(tmp_path / "none.mid")


def test_heaps_of_one_pitch_are_cut_to_what_players_could_play():
    score = symusic.Score(96)
    track = symusic.Track("x", 40, False)
    for i in range(20):
        track.notes.append(symusic.Note(0, 96, 60, 90))
        track.notes.append(symusic.Note(i * 24, 960, 62, 90))
    score.tracks.append(track)
    limited = limit_unisons(score, voices=3)
    notes = g.note_array(limited)
    assert (notes["pitch"] == 60).sum() == 3 and (notes["pitch"] == 62).sum() == 20
    ends = notes["onset"] + notes["duration"]
    for pitch in (60, 62):
        at = notes["pitch"] == pitch
        for time in range(0, 1500, 12):
            assert ((notes["onset"] <= time) & (ends > time) & at).sum() <= 3
    assert len(separate_unisons(limited).tracks) == 3
