"""MIDI files made by hand, and mutated ones: what tests of reading and of corpora feed on."""

import random
import struct

NOTE = b"\x00\x90\x3c\x40\x60\x80\x3c\x40"
END = b"\x00\xff\x2f\x00"


def midi(track=NOTE + END, *, division=480, declared=None, chunks=1):
    header = b"MThd" + struct.pack(">IHHH", 6, 1, chunks if declared is None else declared, division)
    return header + (b"MTrk" + struct.pack(">I", len(track)) + track) * chunks


def quantity(value):
    """A variable-length quantity."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def tune(seed, notes=40):
    """A melody of its own for each seed."""
    rng = random.Random(seed)
    track = b""
    for _ in range(notes):
        pitch = rng.randrange(40, 90)
        track += bytes([0, 0x90, pitch, 80]) + quantity(rng.choice([120, 240, 480])) + bytes([0x80, pitch, 0])
    return midi(track + END)


def mutated(seed, data):
    """The same file with a few of its bytes changed, cut out, doubled or cut off."""
    rng = random.Random(seed)
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data))
        kind = rng.choice([0, 0, 0, 1, 1, 1, 1, 2, 3, 4])
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 20)]
        elif len(data) > 60:
            del data[rng.randrange(30, len(data)) :]
        data = data or bytearray(b"M")
    return bytes(data)
