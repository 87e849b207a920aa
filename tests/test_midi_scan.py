"""The scan of raw MIDI against the parser's counts on real music, and on every way in which a file loses something."""

import pytest
import symusic
from midi_files import END, NOTE, midi, mutated, quantity

from musegen.errors import ScoreError
from musegen.midi_scan import is_midi, scan_midi, unwrap_riff
from musegen.scores import ScoreLimits, midi_bytes, parse_midi

TEMPO, METRE = b"\x00\xff\x51\x03\x07\xa1\x20", b"\x00\xff\x58\x04\x03\x02\x18\x08"


def test_counts_equal_the_parser_s_on_real_music(scores):
    for score in scores.values():
        data = midi_bytes(score)
        scan, parsed = scan_midi(data), symusic.Score.from_midi(data)
        assert scan.whole and scan.tracks == scan.declared_tracks
        assert scan.notes == sum(len(track.notes) for track in parsed.tracks)
        assert (scan.tempos, scan.metres) == (len(parsed.tempos), len(parsed.time_signatures))
        assert parsed.end() <= scan.last_tick <= parsed.end() + 1


def test_running_status_and_what_interrupts_it():
    track = b"\x00\x90\x3c\x40\x10\x3e\x40\x00\xff\x01\x02hi\x10\x3c\x00\x00\xf0\x03\x01\x02\xf7\x10\x3e\x00" + END
    scan = scan_midi(midi(track))
    assert (scan.notes, scan.events, scan.last_tick, scan.whole) == (2, 7, 0x30, True)
    scan = scan_midi(midi(b"\x00\xc0\x05\x10\x06\x81\x00\x07" + NOTE + END))  # program changes have one data byte
    assert (scan.events, scan.last_tick, scan.whole) == (6, 16 + 128 + 96, True)


def test_the_scan_reads_all_that_the_parser_can_read():
    """Whatever bytes come, the scan does not fail; where the parser accepts a whole file, it counts no more notes."""
    base = midi(TEMPO + METRE + NOTE * 20 + END, chunks=3)
    whole = 0
    for seed in range(600):
        data = mutated(seed, base)
        if data[:4] != b"MThd" or len(data) < 14:
            continue
        scan = scan_midi(data)
        try:
            parsed = symusic.Score.from_midi(data)
        except Exception:
            continue
        if scan.whole and scan.tracks == scan.declared_tracks:
            whole += 1
            assert sum(len(track.notes) for track in parsed.tracks) <= scan.notes
    assert whole > 20


@pytest.mark.parametrize(
    ("data", "repairs"),
    [
        (midi(b"\x00\x90\x30\x40" + NOTE + END), {"unended_notes": 1}),
        (midi(b"\x00\x90\x3c\x40\x10\x3c\x40\x60\x3c\x00" + END), {"unended_notes": 1}),  # struck again, ended once
        (midi(NOTE + END, chunks=4, declared=1), {"recovered_tracks": 3}),
        (midi(NOTE + END) + b"MTrk\x00\x00\x00\x64\x00\x90\x3c", {"dropped_tracks": 1}),
        (midi(NOTE + END, chunks=2, declared=5), {"missing_tracks": 3}),
        (midi(b"\x00\xff\x51\x03\x00\x00\x00" + NOTE + END), {"dropped_tempos": 1}),
        (midi(b"\x00\xff\x58\x04\x00\x02\x18\x08" + NOTE + END), {"dropped_metres": 1}),
        (midi(TEMPO + METRE + NOTE + END), {}),
    ],
)
def test_silent_losses_are_counted(data, repairs):
    loaded = parse_midi(data)
    assert {name: count for name, count in loaded.repairs.items() if count} == repairs
    tracks = scan_midi(data).tracks - repairs.get("dropped_tracks", 0)
    assert sum(len(track.notes) for track in loaded.score.tracks) == tracks


BOMBS = {
    "one delta": (midi(quantity(0x0FFFFFFF) + NOTE[1:] + END, division=2), "beats"),
    "wrapped": (midi((quantity(0x0FFFFFFF) + NOTE[1:]) * 9 + END), "beats"),
    "notes": (midi(NOTE[:4] * 150_000 + END), "notes"),
    "tempos": (midi(TEMPO * 200_000 + NOTE + END), "tempos"),
    "metres": (midi(METRE * 20_000 + NOTE + END), "metres"),
    "tracks": (midi(NOTE + END, chunks=1000), "tracks"),
    "hidden tracks": (midi(NOTE + END, chunks=1000, declared=1), "tracks"),
    "controllers": (midi(b"\x00\xb0\x07\x40" + b"\x00\x07\x40" * 2_100_000 + END), "events"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_the_parser_sees_them(name, monkeypatch):
    data, what = BOMBS[name]
    monkeypatch.setattr("musegen.scores.symusic", None)
    with pytest.raises(ScoreError, match=rf"limits: [\d,]+ {what}; at most") as caught:
        parse_midi(data, "bomb.mid")
    assert caught.value.reason == "limits"


def test_every_limit_can_be_changed():
    data = midi(TEMPO * 30 + METRE * 30 + NOTE * 30 + END, chunks=3)
    parse_midi(data)
    for what in ("notes", "tempos", "metres", "tracks", "events", "beats"):
        with pytest.raises(ScoreError, match=f"{what}; at most 2 are read"):
            parse_midi(data, limits=ScoreLimits(**{what: 2}))


def test_riff_midi_is_unwrapped():
    data = midi()
    riff = b"RIFF" + (len(data) + 16).to_bytes(4, "little") + b"RMIDJUNK\x03\x00\x00\x00abc\x00"
    riff += b"data" + len(data).to_bytes(4, "little") + data
    assert is_midi(riff[:12]) and unwrap_riff(riff) == data and unwrap_riff(data) == data
    assert len(parse_midi(riff).score.tracks) == 1
    assert unwrap_riff(riff[:30]) == b""
