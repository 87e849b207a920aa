"""What a MIDI file claims, counted on its raw bytes before any parser sees it.

A few bytes can claim a billion ticks, and a parser that believes them takes gigabytes; others lose notes and tracks
without a word. This scan walks the events of every track once, keeps nothing of them but counts, and costs about a
millisecond a file, so that bounds come first and silent losses can be counted.

Source: the Standard MIDI Files 1.0 specification (https://midi.org/standard-midi-files-specification). Every byte's
successor is computed at once with numpy, for both possible lengths of running status; the walk then follows them.

Units: ticks of the file.
"""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

HEADER_BYTES = 14
_END, _BAD = -1, -2
_PADDING = 16  # zeros behind the last byte, so that looking a few bytes ahead stays inside


@dataclasses.dataclass(frozen=True)
class MidiScan:
    """Counts over all tracks of a MIDI file.

    Args:
        declared_tracks: What the header says.
        tracks: Track chunks that are there.
        division: Ticks a quarter note; 0 and 0x8000 upwards (SMPTE time) are no musical time.
        events: All events.
        notes: Note-on events with a velocity above 0.
        tempos: Tempo events.
        infinite_tempos: Of these, those of 0 microseconds a quarter note.
        metres: Time signatures.
        impossible_metres: Of these, those with numerator 0 or a denominator above 64.
        last_tick: The end of the longest track.
        whole: Every track was walked to its end; False for a torn or malformed file.
    """

    declared_tracks: int
    tracks: int
    division: int
    events: int = 0
    notes: int = 0
    tempos: int = 0
    infinite_tempos: int = 0
    metres: int = 0
    impossible_metres: int = 0
    last_tick: int = 0
    whole: bool = True


def unwrap_riff(data: bytes) -> bytes:
    """The MIDI file inside a RIFF RMID file (`.rmi`); any other data as it is."""
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        if name == b"data":
            return data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return b""


def is_midi(head: bytes) -> bool:
    """Whether the first 12 bytes are those of a MIDI file, plain or in RIFF."""
    return head[:4] == b"MThd" or (head[:4] == b"RIFF" and head[8:12] == b"RMID")


def scan_midi(data: bytes) -> MidiScan:
    """Walk a MIDI file and count.

    Args:
        data: A file that begins with `MThd`, of at least `HEADER_BYTES` bytes.

    Returns:
        Counts; of a damaged file, up to the damage in each track.
    """
    declared, division = struct.unpack_from(">HH", data, 10)
    chunks, whole = _chunks(data)
    if not chunks:
        return MidiScan(declared, 0, division, whole=whole)
    padded = np.zeros(len(data) + _PADDING, dtype=np.uint8)
    padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    follow = memoryview(_successors(padded, len(data)))
    nodes: list[int] = []
    bounds = [0]
    for start, end in chunks:
        node, stop = 2 * start + 1, 2 * end
        while 0 <= node < stop:
            nodes.append(node)
            node = follow[node]
        whole = whole and node != _BAD and node <= stop + 1
        bounds.append(len(nodes))
    return MidiScan(declared, len(chunks), division, whole=whole, **_count(padded, np.array(nodes, np.int64), bounds))


def with_all_tracks(data: bytes, tracks: int) -> bytes:
    """The file with a header that declares so many tracks, so that a parser reads them all."""
    return data[:10] + struct.pack(">H", min(tracks, 0xFFFF)) + data[12:]


def _chunks(data: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Where the events of each track chunk lie, and whether the last chunk is complete."""
    found, position, whole = [], 8 + struct.unpack_from(">I", data, 4)[0], True
    while position + 8 <= len(data):
        size = struct.unpack_from(">I", data, position + 4)[0]
        end = position + 8 + size
        if data[position : position + 4] == b"MTrk":
            found.append((position + 8, min(end, len(data))))
            whole = whole and end <= len(data)
        position = end
    return found, whole


def _successors(data: np.ndarray, size: int) -> np.ndarray:
    """For each byte taken as the start of an event, where the next one starts: int32 (2 * size,).

    Node 2 * p is byte p under a running status with one data byte, node 2 * p + 1 under one with two.
    """
    place = np.arange(size, dtype=np.int32)
    after = place + _quantity_lengths(data)[:size]  # where the status byte is
    status = data[after]
    follow = np.empty((size, 2), dtype=np.int32)
    running = status < 0x80
    follow[:, 0] = np.where(running, 2 * (after + 1), _BAD)
    follow[:, 1] = np.where(running, 2 * (after + 2) + 1, _BAD)
    short = (status >= 0xC0) & (status < 0xE0)
    channel = (status >= 0x80) & (status < 0xF0)
    step = 2 * (after + np.where(short, 2, 3)) + ~short
    follow[channel] = step[channel, None]
    for kind, gap in ((0xFF, 2), (0xF0, 1), (0xF7, 1)):
        at = np.flatnonzero(status == kind)
        values, lengths = quantities(data, after[at] + gap)
        to = np.minimum(after[at] + gap + lengths + values, size + 1)
        follow[at, 0], follow[at, 1] = 2 * to, 2 * to + 1
        if kind == 0xFF:
            follow[at[data[after[at] + 1] == 0x2F]] = _END
    return follow.reshape(-1)


def _quantity_lengths(data: np.ndarray) -> np.ndarray:
    """Bytes of the variable-length quantity that starts at each byte, at most 4: int32, 3 fewer than `data`."""
    more = data >= 0x80
    second = more[:-3] & more[1:-2]
    return 1 + more[:-3].astype(np.int32) + second + (second & more[2:-1])


def quantities(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variable-length quantities that start at given bytes.

    Returns:
        Values and their lengths in bytes: int64 (len(at),) each.
    """
    values, lengths = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    going = np.ones(len(at), bool)
    for i in range(4):
        byte = data[np.minimum(at + i, len(data) - 1)].astype(np.int64)
        values = np.where(going, values << 7 | byte & 0x7F, values)
        lengths += going
        going &= byte >= 0x80
    return values, lengths


def _count(data: np.ndarray, nodes: np.ndarray, bounds: list[int]) -> dict[str, int]:
    if not len(nodes):
        return {}
    deltas, lengths = quantities(data, nodes >> 1)
    after = (nodes >> 1) + lengths
    status = data[after]
    ticks = np.concatenate([[0], np.cumsum(deltas)])[bounds]
    fresh = (status >= 0x80) & (status < 0xF0)
    holder = np.maximum.accumulate(np.where(fresh, np.arange(len(nodes)), 0))
    kind = np.where(fresh | (status < 0x80), status[holder] >> 4, 0)
    velocity = data[np.minimum(after + 1 + fresh, len(data) - 1)]
    meta = after[status == 0xFF] + 1
    tempo, metre = meta[data[meta] == 0x51], meta[data[meta] == 0x58]
    microseconds = sum(data[np.minimum(tempo + i, len(data) - 1)].astype(int) for i in (2, 3, 4))
    numerator, denominator = (data[np.minimum(metre + i, len(data) - 1)] for i in (2, 3))
    return {
        "events": len(nodes),
        "notes": int(((kind == 9) & (velocity > 0)).sum()),
        "tempos": len(tempo),
        "infinite_tempos": int((microseconds == 0).sum()) if len(tempo) else 0,
        "metres": len(metre),
        "impossible_metres": int(((numerator == 0) | (denominator > 6)).sum()),
        "last_tick": int(np.diff(ticks).max()),
    }
