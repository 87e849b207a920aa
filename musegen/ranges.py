"""What an instrument can play: its lowest and highest pitch, for transposing a piece within it.

Source: the recommended key ranges of General MIDI Lite (MIDI Manufacturers Association, RP-033, 3.4.1), which are
sounding pitches. Departures, for music that was written for the instruments themselves: (1) a harpsichord of five
octaves, F1 to F6; (2) choirs down to E2, the bass's; (3) a cello up to A5, a viola up to E6, a double bass up to G4
and a bassoon up to D5, as orchestral parts have them; (4) what has no pitch of its own has no range.

Units: MIDI pitches, 60 = C4.
"""

from __future__ import annotations

import numpy as np

# First program, last program, lowest pitch, highest pitch; in the order of programs.
_RANGES = (
    (0, 3, 21, 108), (4, 5, 28, 103), (6, 6, 29, 89), (7, 7, 36, 96),  # keyboards
    (8, 8, 60, 108), (9, 9, 72, 108), (10, 10, 60, 84), (11, 11, 53, 89), (12, 12, 48, 84), (13, 13, 65, 96),
    (14, 14, 60, 77), (15, 15, 60, 84),
    (16, 18, 36, 96), (19, 19, 21, 108), (20, 20, 36, 96), (21, 21, 53, 89), (22, 22, 60, 84), (23, 23, 53, 89),
    (24, 25, 40, 84), (26, 31, 40, 86),  # guitars
    (32, 39, 28, 55),  # basses
    (40, 40, 55, 96), (41, 41, 48, 88), (42, 42, 36, 81), (43, 43, 28, 67), (44, 45, 28, 96),  # strings
    (46, 46, 23, 103), (47, 47, 36, 57), (48, 49, 28, 96), (50, 51, 36, 96),
    (52, 53, 40, 79), (54, 54, 48, 84), (55, 55, 48, 72),  # voices
    (56, 56, 58, 94), (57, 57, 34, 75), (58, 58, 29, 55), (59, 59, 58, 82), (60, 60, 41, 77), (61, 63, 36, 96),
    (64, 64, 54, 87), (65, 65, 49, 80), (66, 66, 42, 75), (67, 67, 37, 68), (68, 68, 58, 91), (69, 69, 52, 81),
    (70, 70, 34, 74), (71, 71, 50, 91),
    (72, 72, 74, 108), (73, 76, 60, 96), (77, 77, 55, 84), (78, 78, 60, 96), (79, 79, 60, 84),  # flutes
    (80, 81, 21, 108), (82, 86, 36, 96), (87, 87, 21, 108), (88, 103, 36, 96),  # synthetic
    (104, 104, 48, 77), (105, 105, 48, 84), (106, 106, 50, 79), (107, 107, 55, 84), (108, 108, 48, 79),
    (109, 109, 36, 77), (110, 110, 55, 96), (111, 111, 48, 72),
    (112, 112, 72, 84), (113, 113, 60, 72), (114, 114, 52, 76), (115, 127, 0, 127),
)  # fmt: skip


def _table() -> np.ndarray:
    table = np.zeros((128, 2), dtype=np.int64)
    for first, last, low, high in _RANGES:
        table[first : last + 1] = low, high
    return table


PLAYABLE = _table()  # int64 (128, 2): lowest and highest pitch of each program


def playable_shift(pitches: np.ndarray, programs: np.ndarray) -> tuple[int, int]:
    """How far notes can be moved down and up so that every program stays within what it can play.

    Where a program plays beyond its range as it stands, it may not go further.

    Args:
        pitches: MIDI pitches, int (notes,), without drums.
        programs: General MIDI programs, int (notes,).

    Returns:
        The lowest and the highest shift in semitones: at most 0, and at least 0.
    """
    if not len(pitches):
        return 0, 0
    ranges = PLAYABLE[programs]  # (notes, 2)
    low, high = (ranges[:, 0] - pitches).max(), (ranges[:, 1] - pitches).min()
    return min(0, int(low)), max(0, int(high))
