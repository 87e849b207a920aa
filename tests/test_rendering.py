"""Renderings against independent readers: verovio's MIDI of our MusicXML, music21, the pixels, the spectrum."""

import base64
import collections
import functools
import importlib.util
import io
import random
import subprocess
import sys
import wave
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import symusic
from PIL import Image

from musegen.rendering import (
    RenderingError,
    engrave,
    render_all,
    render_audio,
    render_roll,
    render_sheet,
    score_to_musicxml,
    synthesize,
)
from musegen.rendering.audio import PEAK
from musegen.rendering.files import replacing
from musegen.rendering.meters import UNITS, beats_of, cut, lay_bars, value_of
from musegen.rendering.parts import lay_out
from musegen.rendering.quantization import Note
from musegen.rendering.streams import split_hands
from musegen.tonality import written_pitch

CORPUS = Path(importlib.util.find_spec("music21").submodule_search_locations[0]) / "corpus" / "mozart"
TPQ = 24


def make_score(tracks, metres=(), keys=(), qpm=None, tpq=TPQ):
    """A score of (program, [(onset, duration, pitch), ...]) tracks; program -1 is drums. Times are ticks."""
    score = symusic.Score(tpq)
    score.time_signatures.extend([symusic.TimeSignature(*metre) for metre in metres])
    score.key_signatures.extend([symusic.KeySignature(*key) for key in keys])
    if qpm is not None:
        score.tempos.append(symusic.Tempo(0, qpm))
    for program, notes in tracks:
        track = symusic.Track(program=max(program, 0), is_drum=program < 0)
        track.notes.extend([symusic.Note(*note, 90) for note in notes])
        score.tracks.append(track)
    return score


@functools.cache
def mozart(name, programs=(), beats=None):
    """A movement on the grid of 24 ticks, one track a program, equal pitches never overlapping."""
    import verovio

    toolkit = verovio.toolkit()
    assert toolkit.loadFile(str(CORPUS / name))
    source = symusic.Score.from_midi(base64.b64decode(toolkit.renderToMIDI()))
    merged = collections.defaultdict(dict)
    for i, track in enumerate(source.tracks):
        for note in track.notes:
            onset = round(note.start / source.tpq * TPQ)
            end = max(round((note.end + 1) / source.tpq * TPQ), onset + 1)
            if beats is None or end <= beats * TPQ:
                key = (onset, note.pitch)
                program = programs[i] if programs else track.program
                merged[program][key] = max(end, merged[program].get(key, 0))
    tracks = []
    for program, ends in merged.items():
        for (onset, pitch), (later, other) in zip(by_pitch := sorted(ends, key=lambda key: key[::-1]), by_pitch[1:]):
            if pitch == other:
                ends[onset, pitch] = min(ends[onset, pitch], later)
        tracks.append((program, sorted((onset, end - onset, pitch) for (onset, pitch), end in ends.items())))
    scale = TPQ / source.tpq
    metres = [(round(s.time * scale), s.numerator, s.denominator) for s in source.time_signatures]
    keys = [(round(s.time * scale), s.key, s.tonality) for s in source.key_signatures]
    return make_score(tracks, metres, keys)


def quartet(name, beats):
    return mozart(name, (40, 40, 41, 42), beats)


def grid_notes(score):
    """Counter of (onset, end, pitch) in 24ths of a quarter; drums left out."""
    return collections.Counter(
        (note.start * TPQ // score.tpq, note.end * TPQ // score.tpq, note.pitch)
        for track in score.tracks
        if not track.is_drum
        for note in track.notes
    )


def notes_by_verovio(document):
    """What verovio plays from a MusicXML document; it ends each note one tick of 120 early."""
    import verovio

    toolkit = verovio.toolkit()
    assert toolkit.loadData(document)
    score = symusic.Score.from_midi(base64.b64decode(toolkit.renderToMIDI()))
    assert score.tpq == 120
    return collections.Counter(
        (round(note.start / 5), round((note.end + 1) / 5), note.pitch)
        for track in score.tracks
        for note in track.notes
    )


def xml_root(document):
    return ElementTree.fromstring(document[document.index("<score-partwise") :])


def check_bars(document):
    """Every voice fills every bar, and every duration is what its note value, dots and tuplet say."""
    values = {"breve": 8, "whole": 4, "half": 2, "quarter": 1, "eighth": Fraction(1, 2)}
    values |= {"16th": Fraction(1, 4), "32nd": Fraction(1, 8), "64th": Fraction(1, 16)}
    for part in xml_root(document).iter("part"):
        divisions, metre = None, None
        for measure in part.iter("measure"):
            divisions = int(measure.findtext("attributes/divisions", divisions))
            if measure.find("attributes/time") is not None:
                metre = Fraction(
                    int(measure.findtext("attributes/time/beats")),
                    int(measure.findtext("attributes/time/beat-type")),
                )
            filled = collections.Counter()
            for note in measure.iter("note"):
                duration = Fraction(int(note.findtext("duration")), divisions)
                if note.find("chord") is None:
                    filled[note.findtext("voice")] += duration
                if note.find("type") is not None:
                    written = values[note.findtext("type")] * (2 - Fraction(1, 2 ** len(note.findall("dot"))))
                    written *= Fraction(int(note.findtext("time-modification/normal-notes", "1")))
                    written /= int(note.findtext("time-modification/actual-notes", "1"))
                    assert written == duration
            lengths = set(filled.values())
            assert len(lengths) == 1
            assert measure.get("implicit") == "yes" or lengths == {4 * metre}


# ---------------------------------------------------------------------------------------------- notation

METRES = [
    # metre, durations in 24ths of a quarter (negative: rests)
    ((4, 4), [8, 8, 8, 4, 4, 4, 4, 4, 4, 12, 12, 6, 18]),
    ((4, 4), [16, 16, 16, 16, 16, 16]),
    ((4, 4), [36, 12, 12, 24, 12]),
    ((4, 4), [12, 36, 24, 3, 3, 3, 3, 9, 3]),
    ((4, 4), [84, 12, 42, 6, 48]),
    ((4, 4), [-12, 12, -24, -6, 18, 24, 144, 48]),
    ((2, 4), [4, 4, 4, 12, 24, 8, 4, 4, 8, -8, 8, 8]),
    ((3, 4), [12, 12, 12, 12, 12, 12, 18, 54]),
    ((3, 8), [12, 12, 12, 36, 18, 18]),
    ((6, 8), [24, 12, 24, 12, 18, 6, 12, 12, 24, 72, 4, 4, 4, 60]),
    ((9, 8), [108, 36, 72]),
    ((12, 8), [72, 36, 36, 12, 12, 12, 12, 12, 12, 36, 36]),
    ((5, 4), [120, 24, 48, 48]),
    ((2, 2), [24, 12, 12, 48, 12, 12, 12, 12, 12, 12, 12, 12]),
    ((7, 8), [12, 12, 12, 12, 12, 12, 12, 84]),
    ((5, 8), [12, 12, 12, 12, 12, 60]),
    ((6, 16), [6, 6, 6, 6, 6, 6, 36]),
]


def melody(durations, start=0):
    notes, now = [], start
    for i, duration in enumerate(durations):
        if duration > 0:
            notes.append((now, duration, 67 + (i * 5) % 12))
        now += abs(duration)
    return notes, now


@pytest.mark.parametrize(("metre", "durations"), METRES)
def test_rhythms_survive_the_round_trip(metre, durations):
    notes, _ = melody(durations)
    score = make_score([(73, notes)], [(0, *metre)])
    document = score_to_musicxml(score)
    check_bars(document)
    assert notes_by_verovio(document) == grid_notes(score)


def test_metre_changes_survive_the_round_trip():
    """All metres in a row, a bar cut short inside a note, and a silent one cut short in all parts."""
    notes, metres, now = [], [], 0
    for metre, durations in METRES:
        metres.append((now, *metre))
        more, now = melody(durations, now)
        notes += more
    metres += [(now, 4, 4), (now + 36, 3, 4), (now + 108, 4, 4), (now + 132, 2, 4)]
    notes += [(now, 100, 60), (now + 132, 48, 62)]
    score = make_score([(73, notes), (42, [(0, now + 96, 36)])], metres)
    document = score_to_musicxml(score)
    check_bars(document)
    assert notes_by_verovio(document) == grid_notes(score)
    assert document.count('implicit="yes"') == 4  # two bars in both parts


@pytest.mark.parametrize(
    ("name", "programs", "beats"),
    [
        ("k545/movement1_exposition.mxl", (0, 0), None),
        ("k80/movement1.mxl", (40, 40, 41, 42), 60),
        ("k156/movement3.mxl", (40, 40, 41, 42), 120),
        ("k80/movement3.mxl", (40, 40, 41, 42), 120),
    ],
)
def test_mozart_survives_the_round_trip(name, programs, beats):
    score = mozart(name, programs, beats)
    document = score_to_musicxml(score)
    check_bars(document)
    played, given = notes_by_verovio(document), grid_notes(score)
    drawable = {place for place in range(TPQ + 1) if place % 3 == 0 or place % 4 == 0}
    kept = collections.Counter(
        {key: n for key, n in given.items() if key[0] % TPQ in drawable and key[1] % TPQ in drawable}
    )
    assert sum(kept.values()) > 0.98 * sum(given.values())
    assert not kept - played
    assert sum(played.values()) == sum(given.values())


def test_music21_reads_the_same_bars():
    import music21

    parsed = music21.converter.parseData(score_to_musicxml(mozart("k545/movement1_exposition.mxl", (0, 0))))
    bars = list(parsed.recurse().getElementsByClass(music21.stream.Measure))
    assert len(parsed.parts) == 2
    assert len(bars) == 24
    assert all(bar.duration.quarterLength == 4 for bar in bars)
    assert sorted(pitch.midi for pitch in parsed.pitches) == sorted(
        note.pitch for note in mozart("k545/movement1_exposition.mxl", (0, 0)).tracks[0].notes
    )


def test_markers_are_rehearsal_marks(tmp_path):
    """In the bar that they stand in, on top of the page alone; what cannot be printed is left out."""
    import music21

    score = make_score([(0, melody([24] * 32)[0]), (40, melody([24] * 32)[0])])
    marks = [(0, "A"), (2 * 96 + 5, " A'\n<&> "), (3 * 96, "\x07"), (3 * 96 + 1, "B" * 99), (9999, "late")]
    score.markers.extend([symusic.TextMeta(*mark) for mark in marks])
    parsed = music21.converter.parseData(score_to_musicxml(score))
    found = [
        [
            (bar.number, m.content)
            for bar in part.getElementsByClass("Measure")
            for m in bar[music21.expressions.RehearsalMark]
        ]
        for part in parsed.parts
    ]
    assert found == [[(1, "A"), (3, "A' <&>"), (4, "B" * 20)], []]
    (path,) = render_sheet(score, tmp_path / "x.svg")
    assert "A' <&>" in "".join(ElementTree.fromstring(path.read_text()).itertext())
    score.markers.clear()
    plain = pixels(render_roll(score, tmp_path / "plain.png", title="T")).astype(int)
    score.markers.append(symusic.TextMeta(4 * 96, "B"))
    marked = pixels(render_roll(score, tmp_path / "marked.png", title="T")).astype(int)
    columns = np.flatnonzero((np.abs(marked - plain).max(axis=2) > 60).sum(axis=0))
    assert 0.45 < columns[0] / marked.shape[1] and columns[-1] / marked.shape[1] < 0.58  # bar 5 of 8


def test_spelling_matches_the_printed_score():
    """A minor-key movement without its key signature: key found, 98 % of the notes spelled as Mozart did."""
    import music21

    printed = music21.converter.parse(CORPUS / "k156" / "movement2.mxl").parts
    tracks, truth = [], {}
    for program, part in enumerate(printed):
        notes = []
        for element in part.flatten().notes:
            for pitch in element.pitches:
                onset = round(float(element.offset) * TPQ)
                if element.quarterLength > 0:
                    notes.append((onset, round(float(element.quarterLength) * TPQ), pitch.midi))
                    truth[onset * UNITS // TPQ, pitch.midi] = (pitch.step, int(pitch.alter))
        tracks.append((40 + program, notes))
    layout = lay_out(make_score(tracks, [(0, 3, 4)]))
    assert set(layout.keys) == {1}  # E minor
    spelled = {
        (note.start, note.pitch): written_pitch(note.pitch, note.place)[:2]
        for part in layout.parts
        for staff in part.staves
        for note in staff.notes
    }
    agreed = [truth[key] == spelled[key] for key in truth.keys() & spelled.keys()]
    assert len(agreed) > 900
    assert np.mean(agreed) > 0.98


@pytest.mark.parametrize("shift", range(-5, 7))
def test_the_key_moves_with_the_music(shift):
    score = mozart("k545/movement1_exposition.mxl", (0, 0)).shift_pitch(shift)
    while len(score.key_signatures):
        score.key_signatures.pop()
    fifths = lay_out(score).keys[0]
    assert (fifths * 7) % 12 == shift % 12
    assert -6 <= fifths <= 6


def test_written_pitches():
    assert written_pitch(60, 0) == ("C", 0, 4)
    assert written_pitch(60, 12) == ("B", 1, 3)
    assert written_pitch(59, -7) == ("C", -1, 4)
    assert written_pitch(61, 7) == ("C", 1, 4)
    assert written_pitch(61, -5) == ("D", -1, 4)


def spelled(pitches, fifths):
    layout = lay_out(make_score([(40, [(24 * i, 24, p) for i, p in enumerate(pitches)])], keys=[(0, fifths, 0)]))
    return [written_pitch(note.pitch, note.place)[:2] for note in layout.parts[0].staves[0].notes]


def test_rising_chromatic_notes_are_leading_tones():
    scale = [60, 62, 64, 65, 67, 69, 71, 72]
    assert spelled([*scale, 72, 73, 74, 72], 0)[9] == ("C", 1)  # C, C sharp, D
    assert spelled([*scale, 67, 68, 69, 67], 0)[9] == ("G", 1)
    assert spelled([*scale, 69, 70, 69, 67], 0)[9] == ("B", -1)  # A, B flat, A
    assert spelled([*scale, 67, 66, 67, 65], 0)[9] == ("F", 1)
    flat_scale = [pitch + 3 for pitch in scale]
    assert spelled([*flat_scale, 70, 71, 72], -3)[9] == ("B", 0)  # B flat, B natural, C in E flat major
    assert spelled([*flat_scale, 70, 68, 67], -3)[-2] == ("A", -1)


def test_accidentals_are_shown_once_and_recalled_in_the_next_bar():
    pitches = [65, 65, 64, 66, 66, 64, 65, 64, 66, 67, 66, 67]
    notes = [(24 * i, 24, pitch) for i, pitch in enumerate(pitches)]
    document = score_to_musicxml(make_score([(40, notes)], [(0, 4, 4)], [(0, 1, 0)]))  # G major
    shown = [note.findtext("accidental") for note in xml_root(document).iter("note")]
    first, second = ["natural", None, None, "sharp"], [None, None, "natural", None]
    third = ["sharp", None, None, None]  # in the key: a reminder after the natural of the bar before
    assert shown == first + second + third


@pytest.mark.parametrize(
    ("metre", "start", "end", "rest", "lengths"),
    [  # in eighths, by hand after Gould's rules
        ((4, 4), 0, 3, False, [3]),
        ((4, 4), 1, 3, False, [2]),  # syncopation between eighths
        ((4, 4), 2, 6, False, [4]),  # syncopation between quarters
        ((4, 4), 3, 5, False, [1, 1]),  # the middle of the bar stays visible
        ((4, 4), 1, 4, False, [1, 2]),
        ((4, 4), 0, 7, False, [7]),
        ((4, 4), 2, 6, True, [2, 2]),
        ((4, 4), 1, 8, True, [1, 2, 4]),
        ((3, 4), 2, 6, False, [4]),
        ((3, 4), 2, 6, True, [2, 2]),
        ((6, 8), 0, 6, False, [6]),
        ((6, 8), 0, 4, False, [3, 1]),
        ((6, 8), 2, 4, False, [1, 1]),
        ((6, 8), 0, 3, True, [3]),
        ((6, 8), 1, 3, True, [1, 1]),
        ((9, 8), 0, 9, False, [6, 3]),
        ((3, 8), 0, 3, False, [3]),
    ],
)
def test_durations_show_the_beat(metre, start, end, rest, lengths):
    eighth = UNITS // 2
    bar = lay_bars([(0, *metre)], 1)[0]
    pieces = cut(start * eighth, end * eighth, beats_of(*metre, bar.length), rest)
    assert [(b - a) // eighth for a, b in pieces] == lengths
    assert all(value_of(b - a) for a, b in pieces)


def test_tuplets_and_beams():
    notes, _ = melody([8, 8, 8, 4, 4, 4, 4, 4, 4, 5, 5, 4, 5, 5, 6, 6, 12])
    root = xml_root(score_to_musicxml(make_score([(73, notes)], [(0, 4, 4)])))
    ratios = [note.findtext("time-modification/actual-notes") for note in root.iter("note")]
    assert ratios == ["3"] * 3 + ["6"] * 6 + ["5"] * 5 + [None] * 3
    beams = [note.findtext("beam") for note in root.iter("note")]
    inner = ["begin", "continue", "end"]
    assert beams == [*inner, "begin", *["continue"] * 4, "end", "begin", *["continue"] * 3, "end", *inner]
    notes, _ = melody([16, 16, 16, 36, 12])
    root = xml_root(score_to_musicxml(make_score([(73, notes)], [(0, 4, 4)])))
    assert [tuplet.get("bracket") for tuplet in root.iter("tuplet") if tuplet.get("type") == "start"] == ["yes"]


def test_merged_violins_get_two_staves():
    score = quartet("k156/movement3.mxl", 60)
    layout = lay_out(score)
    assert [part.name for part in layout.parts] == ["Violin I", "Violin II", "Viola", "Violoncello"]
    signs = [(part.staves[0].clefs[0].sign, part.staves[0].clefs[0].line) for part in layout.parts]
    assert signs == [("G", 2), ("G", 2), ("C", 3), ("F", 4)]
    first, second = (part.staves[0].notes for part in layout.parts[:2])
    assert np.mean([note.pitch for note in first]) > np.mean([note.pitch for note in second]) + 3
    alone = make_score([(40, [(0, 24, 67), (0, 24, 76), (24, 24, 69), (24, 24, 78)])])
    assert [part.name for part in lay_out(alone).parts] == ["Violin"]  # double stops of one player


def test_players_read_the_clef_of_their_instrument_unless_they_are_long_beyond_it():
    def signs(program, *bars):
        notes = [(96 * i + 24 * j, 24, pitch) for i, bar in enumerate(bars) for j, pitch in enumerate(bar)]
        staff = lay_out(make_score([(program, notes)], [(0, 4, 4)])).parts[0].staves[0]
        return [(clef.sign, clef.line) for clef in staff.clefs]

    alto, bass, treble = ("C", 3), ("F", 4), ("G", 2)
    # A phrase that climbs to the violin's and comes back, as violists read it; and a whole passage up there.
    assert signs(41, [62, 66, 69, 74], [71, 74, 79, 69], [62, 66, 69, 62]) == [alto] * 3
    high = [81, 83, 86, 83]
    assert signs(41, [62, 66, 69, 62], high, high, [50, 54, 57, 50]) == [alto, treble, treble, alto]
    # One low note, then some bars of a few high ones: a cellist begins in the bass clef.
    assert signs(42, [57], [57], [78, 81, 79, 78], [81, 79, 78, 79])[:2] == [bass, bass]
    # A horn reads both: neither has to earn its place.
    assert signs(60, [43, 48, 50, 43]) == [bass] and signs(60, [67, 72, 74, 67]) == [treble]


def test_hands_are_divided_as_printed():
    import verovio

    toolkit = verovio.toolkit()
    assert toolkit.loadFile(str(CORPUS / "k545" / "movement1_exposition.mxl"))
    tracks = symusic.Score.from_midi(base64.b64decode(toolkit.renderToMIDI())).tracks
    hands = [[Note(n.start * 14, n.end * 14, n.pitch) for n in track.notes] for track in tracks]
    right, left = split_hands(hands[0] + hands[1])
    wrong = len({id(n) for n in right} ^ {id(n) for n in hands[0]})
    assert wrong < 0.05 * (len(right) + len(left))
    score = mozart("k545/movement1_exposition.mxl", (0, 0))
    assert [len(part.staves) for part in lay_out(score).parts] == [2]
    tune = make_score([(0, melody([24] * 16)[0])])
    assert [len(part.staves) for part in lay_out(tune).parts] == [1]


@pytest.mark.parametrize(
    ("chords", "left"),
    [
        ([(48, 52, 55, 72, 76), (47, 50, 55, 71, 74)], {48, 52, 55, 47, 50}),
        ([(36, 48, 60, 64, 67)], {36, 48}),
        ([(67,), (65,), (64,), (62,), (60,), (59,), (60,), (62,), (64,)], set()),  # one hand keeps the tune
        ([(48,), (50,), (52,), (53,), (55,)], {48, 50, 52, 53, 55}),
        ([(62,), (64,), (65,), (67,), (64,), (65,), (62,), (61,), (62,), (70,), (67,)], set()),
        ([(43, 58, 62)], {43}),  # more than an octave is a stretch
        ([(52, 55, 60, 76)], {52, 55, 60}),
    ],
)
def test_chords_and_tunes_go_to_the_natural_hand(chords, left):
    notes = [Note(i * UNITS, (i + 1) * UNITS, pitch) for i, chord in enumerate(chords) for pitch in chord]
    assert {note.pitch for note in split_hands(notes)[1]} == left


def test_played_timing_becomes_plain_rhythm():
    """Onsets off by up to 14 ticks of 480 and shortened durations: the same onsets are written."""
    generator = random.Random(0)
    score = mozart("k545/movement1_exposition.mxl", (0, 0)).resample(480)
    true = sorted({note.start for note in score.tracks[0].notes})
    for note in score.tracks[0].notes:
        note.start = max(0, note.start + generator.randint(-14, 14))
        note.duration = int(note.duration * generator.uniform(0.7, 1.0))
    written = {note.start for part in lay_out(score).parts for staff in part.staves for note in staff.notes}
    assert len(written & {start * UNITS // 480 for start in true}) > 0.97 * len(true)
    assert len(written) < 1.03 * len(true)


AWKWARD = {
    "unisons": [(0, [(0, 24, 60), (0, 48, 60), (12, 24, 60), (12, 1, 60)])],
    "ten voices": [(0, [(i, 50 + 5 * i, 50 + 3 * i) for i in range(10)])],
    "64ths": [(40, [(i, 1, 60 + i % 7) for i in range(48)])],
    "quintuplets": [(40, [(i * 24 // 5, 5, 60 + i % 7) for i in range(40)])],
    "long": [(0, [(7, 24 * 500, 60), (30, 5, 40)])],
    "empty bars": [(0, [(0, 24, 60), (24 * 90, 24, 62)]), (-1, [(0, 6, 38), (6, 6, 42), (6, 6, 27)])],
    "extremes": [(0, [(0, 24, 0), (0, 24, 127)]), (127, [(24, 24, 0)]), (32, [(0, 9, 127)])],
    "zero duration": [(0, [(0, 0, 60), (95, 0, 61), (95, 1, 62)])],
    "many parts": [(program, [(0, 96, 60)]) for program in range(40)],
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_scores_are_engraved(name, tmp_path):
    score = make_score(AWKWARD[name])
    document = score_to_musicxml(score)
    check_bars(document)
    sounding = {note.pitch for track in score.tracks if not track.is_drum for note in track.notes}
    played = {pitch for _, _, pitch in notes_by_verovio(document)}
    assert played - {0} == sounding - {0}  # verovio plays drums as pitch 0
    assert engrave(document, tmp_path / "x.svg", max_pages=1)[0].stat().st_size > 5_000


def random_score(seed):
    pick = random.Random(seed)
    tpq = pick.choice([1, 7, 24, 24, 96, 120, 480, 1024, 10_000])
    end = pick.choice([1, 4, 8, 12]) * tpq + pick.choice([0, 1])
    score = make_score([], tpq=tpq)
    for _ in range(pick.choice([0, 1, 1, 3])):
        metre = pick.choice([1, 2, 3, 4, 5, 6, 7, 9, 12, 63, 255]), pick.choice([1, 2, 3, 4, 8, 16, 64, 128])
        score.time_signatures.append(symusic.TimeSignature(pick.choice([0, pick.randrange(end)]), *metre))
    for _ in range(pick.choice([0, 1, 2])):
        score.key_signatures.append(symusic.KeySignature(pick.randrange(end), pick.randint(-7, 7), pick.randint(0, 1)))
        score.tempos.append(symusic.Tempo(pick.randrange(end), pick.choice([30, 120.5, 999])))
    for _ in range(pick.choice([1, 1, 2, 4])):
        track = symusic.Track(program=pick.choice([0, 40, 42, pick.randrange(128)]), is_drum=pick.random() < 0.1)
        grid = pick.choice([1, max(1, tpq // 24), max(1, tpq // 4)])
        for _ in range(pick.choice([0, 1, 5, 14])):
            onset = pick.randrange(end) // grid * grid
            duration = pick.choice([0, 1, grid, grid * pick.randint(1, 8), pick.randint(1, tpq * 6)])
            pitch = pick.choice([pick.randrange(128), pick.randint(48, 80)])
            track.notes.append(symusic.Note(onset, duration, pitch, pick.randrange(128)))
        score.tracks.append(track)
    return score


@pytest.mark.parametrize("block", range(10))
def test_random_scores_are_engraved(block, tmp_path):
    for seed in range(20 * block, 20 * block + 20):
        score = random_score(seed)
        if score.note_num() == 0:
            with pytest.raises(RenderingError):
                score_to_musicxml(score)
            continue
        document = score_to_musicxml(score)
        check_bars(document)
        assert engrave(document, tmp_path / "x.svg", max_pages=1)


def test_scores_without_notes_are_refused(tmp_path):
    for score in (symusic.Score(TPQ), make_score([(0, [])])):
        for render in (render_sheet, render_audio):
            with pytest.raises(RenderingError, match="without notes"):
                render(score, tmp_path / ("x.png" if render is render_sheet else "x.wav"))
    with pytest.raises(RenderingError, match="bars"):
        score_to_musicxml(make_score([(0, [(0, 24 * 10**6, 60)])]))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- pictures


def pixels(path):
    return np.asarray(Image.open(path))


def test_sheet_is_black_on_white(tmp_path):
    score = mozart("k545/movement1_exposition.mxl", (0, 0))
    plain = render_sheet(score, tmp_path / "plain.png", width=900)
    titled = render_sheet(score, tmp_path / "titled.png", title="Sonata facile", composer="Mozart", width=900)
    assert [path.name for path in plain + titled] == ["plain.png", "titled.png"]
    image = pixels(plain[0])
    assert image.shape[1] == 900
    assert (image[..., 3:] == 255).all()
    grey = image[..., :3].mean(axis=2)
    assert (grey[0] == 255).all() and (grey[:, 0] == 255).all()
    assert 0.02 < (grey < 128).mean() < 0.25
    assert (image[..., :3].max(axis=2) - image[..., :3].min(axis=2)).max() < 8  # no colour
    # Title and composer have ink of their own, so fonts were found without the system's.
    head = pixels(titled[0])[..., :3].mean(axis=2)[:95]
    assert (head[:, 300:600] < 128).sum() > 300 and (head[:, 700:] < 128).sum() > 50
    assert (grey[:40] < 128).sum() == 0


def test_sheet_as_svg_is_self_contained(tmp_path):
    (path,) = render_sheet(quartet("k80/movement1.mxl", 24), tmp_path / "x.svg", title="A & B <c>", width=700)
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert root.get("width") == "700px"
    assert "http" not in text.replace("http://www.w3.org/", "")
    words = "".join(root.itertext())
    assert "A & B <c>" in words and "Violoncello" in words
    links = {use.get("{http://www.w3.org/1999/xlink}href") for use in root.iter("{http://www.w3.org/2000/svg}use")}
    ids = {f"#{element.get('id')}" for element in root.iter() if element.get("id")}
    assert links and links <= ids


def test_pages_are_numbered_and_stale_ones_removed(tmp_path):
    long = make_score([(0, melody([12] * 900)[0])], qpm=96)
    pages = render_sheet(long, tmp_path / "x.svg")
    assert [path.name for path in pages[:2]] == ["x.svg", "x-page2.svg"] and len(pages) >= 3
    assert len(render_sheet(long, tmp_path / "x.svg", max_pages=2)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-page2.svg", "x.svg"]
    with pytest.raises(RenderingError):
        render_sheet(long, tmp_path / "x.bmp")


def test_piano_roll_shows_every_instrument_and_the_prompt(tmp_path):
    score = quartet("k80/movement1.mxl", 24)
    image = pixels(render_roll(score, tmp_path / "x.png", title="K. 80", prompt_bars=4))[..., :3].astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):  # violin, viola, cello
        assert (np.abs(image - colour).max(axis=2) < 6).sum() > 500
    assert (image[0] == 255).all()
    plain = pixels(render_roll(score, tmp_path / "y.png", title="K. 80"))[..., :3].astype(int)
    changed = np.abs(plain - image).max(axis=2) > 4
    columns = np.flatnonzero(changed.sum(axis=0) > 100)
    assert len(columns) / (columns[-1] - columns[0] + 1) > 0.5
    share = (columns[-1] - columns[0]) / image.shape[1]
    assert 0.42 < share < 0.5  # 4 of 8 bars, and the margins


def test_piano_roll_of_nothing_and_of_much(tmp_path):
    assert (pixels(render_roll(symusic.Score(TPQ), tmp_path / "none.png"))[..., :3] < 128).any()
    much = make_score([(0, [(24 * i, 24, 60 + i % 12) for i in range(8000)])])
    assert pixels(render_roll(much, tmp_path / "much.png")).shape[1] <= 40 * 144
    soft = make_score([(0, [(0, 24, 60)])])
    soft.tracks[0].notes.append(symusic.Note(48, 24, 60, 10))
    image = pixels(render_roll(soft, tmp_path / "soft.png"))[..., :3].astype(int)
    row = image[np.argmax((np.abs(image - (0, 0x72, 0xB2)).max(axis=2) < 6)[: image.shape[0] // 2 + 40].sum(axis=1))]
    assert len({tuple(pixel) for pixel in row if pixel[2] - pixel[0] > 30}) >= 2


# ---------------------------------------------------------------------------------------------- sound


def one_note(pitch=69, program=0, onset=0, duration=48, velocity=90):
    score = make_score([(program, [(onset, duration, pitch)])])
    score.tracks[0].notes[0].velocity = velocity
    return score


def energy_at(sound, rate, frequency):
    """Share of the energy within half a semitone of a frequency."""
    spectrum = np.abs(np.fft.rfft(sound.sum(axis=0) * np.hanning(sound.shape[1]))) ** 2
    hertz = np.fft.rfftfreq(sound.shape[1], 1 / rate)
    near = np.abs(12 * np.log2(np.maximum(hertz, 1) / frequency)) < 0.5
    return spectrum[near].sum() / spectrum.sum()


@pytest.mark.parametrize(("pitch", "hertz"), [(69, 440.0), (74, 587.33), (81, 880.0), (84, 1046.5)])
def test_a_note_sounds_at_its_pitch(pitch, hertz):
    flute = synthesize(one_note(pitch, 73), sample_rate=22_050)
    assert energy_at(flute, 22_050, hertz) > 0.3
    assert energy_at(flute, 22_050, hertz * 2 ** (1.5 / 12)) < 0.02


def test_notes_sound_when_they_should():
    """A4 in the first second, silence, C6 from 2 s on, at 120 a minute; then all at half the tempo."""
    score = make_score([(73, [(0, 48, 69), (96, 48, 84)])], qpm=120)
    sound = synthesize(score, sample_rate=22_050)
    first, second = sound[:, :22_050], sound[:, 44_100:66_150]
    assert energy_at(first, 22_050, 440.0) > 0.3 > 0.02 > energy_at(second, 22_050, 440.0)
    assert energy_at(second, 22_050, 1046.5) > 0.3 > 0.02 > energy_at(first, 22_050, 1046.5)
    assert np.abs(sound[:, 41_000:44_000]).max() < 0.02
    slow = synthesize(make_score([(73, [(0, 48, 69), (96, 48, 84)])], qpm=60), sample_rate=22_050)
    assert slow.shape[1] - sound.shape[1] == pytest.approx(3 * 22_050, abs=5)


def test_levels_and_length(tmp_path):
    info = render_audio(quartet("k80/movement1.mxl", 24), tmp_path / "x.wav")
    last = quartet("k80/movement1.mxl", 24).to("second").end()
    assert last <= info.seconds <= last + 2.1
    assert info.peak == pytest.approx(PEAK, abs=1e-4)
    assert 0.05 < info.rms < 0.5
    with wave.open(str(info.path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(data) / 2 / 44_100 == pytest.approx(info.seconds)
    assert np.abs(data).max() / 32767 == pytest.approx(PEAK, abs=1e-3)
    assert np.sqrt(np.mean((data / 32767.0) ** 2)) == pytest.approx(info.rms, abs=1e-3)


def test_instruments_differ_and_drums_are_noise():
    def spectrum(score):
        sound = synthesize(score, sample_rate=22_050)[:, :16_384].sum(axis=0)
        bands = np.abs(np.fft.rfft(sound, 16_384))[:8192].reshape(64, -1).sum(axis=1)
        return bands / np.linalg.norm(bands)

    sounds = [spectrum(one_note(program=program)) for program in (0, 6, 40, 71)]
    for i, a in enumerate(sounds):
        assert all(a @ b < 0.995 for b in sounds[:i])
    snare = spectrum(make_score([(-1, [(0, 24, 38)])]))
    flute = spectrum(one_note(program=73))
    assert np.exp(-np.sum(np.log(flute + 1e-9)) / 64) > 3 * np.exp(-np.sum(np.log(snare + 1e-9)) / 64)


def test_velocity_changes_balance_and_its_absence_does_not_mute():
    loud_and_soft = make_score([(73, [(0, 24, 69), (48, 24, 69)])])
    loud_and_soft.tracks[0].notes[1].velocity = 30
    sound = synthesize(loud_and_soft, sample_rate=22_050)
    rms = [np.sqrt(np.mean(sound[:, s : s + 11_000] ** 2)) for s in (0, 22_050)]
    assert rms[1] == pytest.approx(rms[0] * (30 / 90) ** 2, rel=0.1)
    assert np.abs(synthesize(one_note(velocity=0), sample_rate=22_050)).max() == pytest.approx(PEAK, abs=1e-4)


def test_long_sounds_are_faded_and_compressed(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    score = quartet("k80/movement1.mxl", 24)
    sizes = {}
    for suffix in (".wav", ".ogg", ".mp3"):
        info = render_audio(score, tmp_path / f"x{suffix}", sample_rate=22_050, max_seconds=6.0)
        assert info.seconds == 6.0
        data, rate = soundfile.read(info.path)
        assert rate == 22_050
        assert len(data) / rate == pytest.approx(6.0, abs=0.15)
        assert np.sqrt(np.mean(data**2)) == pytest.approx(info.rms, rel=0.05)
        assert np.abs(data[-200:]).max() < 0.05
        sizes[suffix] = info.path.stat().st_size
    assert max(sizes[".ogg"], sizes[".mp3"]) < sizes[".wav"] / 4


def test_sound_settings_are_checked(tmp_path):
    note = one_note()
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(b"RIFF\x00\x00\x00\x00sfbk")
    for settings in ({"soundfont": broken}, {"soundfont": tmp_path / "none.sf2"}, {"sample_rate": 1000}):
        with pytest.raises(RenderingError):
            render_audio(note, tmp_path / "x.wav", **settings)
    with pytest.raises(RenderingError, match=r"\.flac"):
        render_audio(note, tmp_path / "x.flac")
    with pytest.raises(RenderingError, match="max_seconds"):
        synthesize(one_note(onset=24 * 2 * 3600))
    assert [path.name for path in tmp_path.iterdir()] == ["broken.sf2"]


# ---------------------------------------------------------------------------------------------- together


def test_everything_at_once(tmp_path):
    score = quartet("k80/movement1.mxl", 24)
    written = render_all(score, tmp_path / "out", "k80", title="K. 80", prompt_bars=2)
    assert set(written) == {"midi", "musicxml", "sheet", "roll", "audio"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in written.values())
    assert written["roll"].name == "k80-roll.png"
    assert grid_notes(symusic.Score(written["midi"])) == grid_notes(score)
    assert notes_by_verovio(written["musicxml"].read_text()) == grid_notes(score)
    again = render_all(score, tmp_path / "out", "k80", sheet=False, roll=False, audio=False)
    assert set(again) == {"midi"}


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    with replacing(path) as aside:
        aside.write_text("first")
        assert not path.exists()
        written = aside.stat().st_ino
    assert path.stat().st_ino == written  # renamed, not copied
    with pytest.raises(ValueError, match="no"), replacing(path) as aside:
        aside.write_text("second")
        raise ValueError("no")
    assert path.read_text() == "first"
    assert [found.name for found in path.parent.iterdir()] == ["x.txt"]


def test_same_score_same_files(tmp_path):
    score = mozart("k545/movement1_exposition.mxl", (0, 0))
    assert score_to_musicxml(score, title="x") == score_to_musicxml(score, title="x")
    pages = [render_sheet(score, tmp_path / name)[0].read_text() for name in ("a.svg", "b.svg")]
    assert pages[0] == pages[1]
    sounds = [io.BytesIO(synthesize(one_note(), sample_rate=8_000).tobytes()).getvalue() for _ in range(2)]
    assert sounds[0] == sounds[1]


def test_heavy_libraries_wait_until_needed():
    heavy = {"verovio", "matplotlib", "resvg_py", "soundfile", "music21", "pretty_midi", "torch"}
    code = f"import sys, musegen.rendering; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
