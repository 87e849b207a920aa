"""What each id of a vocabulary stands for, as tables that the grammar looks up.

An id is a run of REMI tokens (BPE merges them). Of each id the tables hold how it begins, what it asks of the state
that it comes in, and the notes that it writes. Units: grid positions, ticks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from musegen import grid as g
from musegen.tokenizer import MusicTokenizer

(
    START, COMPOSER, KEY, HEAD_TEMPO, HEAD_PROGRAM, LEFT, BAR, METRE, POSITION, TEMPO, PROGRAM, PITCH, DURATION,
    CLOSED, END, GAP, SEP, OTHER,
) = range(18)  # fmt: skip
_TYPES = {
    "Composer": COMPOSER,
    "Key": KEY,
    "Left": LEFT,
    "Bar": BAR,
    "TimeSig": METRE,
    "Position": POSITION,
    "Tempo": TEMPO,
    "Program": PROGRAM,
    "Pitch": PITCH,
    "Duration": DURATION,
    "GAP": GAP,
    "SEP": SEP,
}
NEXT = {
    START: (COMPOSER, KEY, TEMPO, PROGRAM, LEFT, BAR),
    COMPOSER: (KEY, TEMPO, PROGRAM, LEFT, BAR),
    KEY: (TEMPO, PROGRAM, LEFT, BAR),
    HEAD_TEMPO: (PROGRAM, LEFT, BAR),
    HEAD_PROGRAM: (PROGRAM, LEFT, BAR),
    LEFT: (BAR,),
    CLOSED: (LEFT, BAR),  # after a prompt: what is given stays as it is
    BAR: (METRE,),
    METRE: (POSITION, LEFT, BAR),
    POSITION: (TEMPO, PROGRAM, PITCH),
    TEMPO: (PROGRAM, PITCH, POSITION, LEFT, BAR),
    PROGRAM: (PITCH,),
    PITCH: (DURATION,),
    DURATION: (PITCH, PROGRAM, POSITION, LEFT, BAR),
    END: (),
}


class IdTables:
    """Tables over the ids of one tokenizer.

    Args:
        tokenizer: Any `MusicTokenizer`.

    Attributes:
        first: int (vocabulary,), the kind of an id's first token.
        single: bool (vocabulary,), whether an id stands for one REMI token.
        legal: bool (vocabulary,), whether an id makes sense in any state at all.
        first_position: int (vocabulary,), its first position; -1 for none.
        reach: int (vocabulary,), the largest position that the bar going on would have to hold; -1 for none.
        needs_program: bool (vocabulary,), whether its first note takes the program in force.
        metre: int (vocabulary,), the REMI id of its metre; -1 for none.
    """

    def __init__(self, tokenizer: MusicTokenizer):
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self._read_names(tokenizer._base_names)
        self._left_ids = {int(self._value[i]): i for i in np.flatnonzero(self._kind == LEFT).tolist()}
        self._expansions = tokenizer.expansions
        size = len(tokenizer)
        self.first = np.full(size, OTHER)
        self.single = np.zeros(size, bool)
        self.legal = np.zeros(size, bool)
        self.first_position = np.full(size, -1)
        self.reach = np.full(size, -1)
        self.needs_program = np.zeros(size, bool)
        self.metre = np.full(size, -1)
        self._named: list[tuple[int, ...]] = [()] * size
        self._twice: list[tuple[int, int]] = []  # ids that clash with themselves if this program is in force
        notes: list[tuple[int, ...]] = []
        for i, expansion in enumerate(self._expansions):
            if i not in (self.bos, self.eos, self.pad) and len(expansion):
                notes += self._describe(i, expansion)
        columns = np.array(notes, dtype=np.int64).reshape(-1, 7).T
        # Of every note that an id writes or completes: the id, whether a bar line is before it, the ticks a position
        # of a metre that the id brings (0 for the bar's own), and -1 where the state decides.
        self._note_id, self._note_bar, self._note_step, self._note_position = columns[:4]
        self._note_program, self._note_pitch, self._note_duration = columns[4:]
        self._twice_id, self._twice_program = np.array(self._twice, dtype=np.int64).reshape(-1, 2).T

    def _read_names(self, names: Sequence[str]) -> None:
        """Kind and value of each REMI token; ticks a position of each metre."""
        self._kind, self._value = np.full(len(names), OTHER), np.zeros(len(names), np.int64)
        self._step = np.zeros(len(names), np.int64)
        for i, name in enumerate(names):
            word, _, rest = name.partition("_")
            self._kind[i] = _TYPES.get(word, OTHER)
            if word in ("Position", "Program", "Pitch", "Left"):
                self._value[i] = int(rest)
            elif word == "TimeSig":
                numerator, denominator = map(int, rest.split("/"))
                self._value[i] = numerator * g.POSITIONS_PER_BEAT
                self._step[i] = g.TICKS_PER_WHOLE // (denominator * g.POSITIONS_PER_BEAT)
            elif word == "Duration":
                beats, part, parts = map(int, rest.split("."))
                self._value[i] = (beats * parts + part) * g.POSITIONS_PER_BEAT // parts

    def _describe(self, i: int, expansion: np.ndarray) -> list[tuple[int, ...]]:
        """Fill the tables of an id; returns its notes as rows of the note table."""
        kinds, values = self._kind[expansion], self._value[expansion]
        self.first[i], self.single[i] = kinds[0], len(expansion) == 1
        legal = bool(np.isin(kinds, (OTHER, GAP, SEP), invert=True).all())
        legal &= all(b in NEXT[a] for a, b in itertools.pairwise(kinds) if a in NEXT)
        positions = values[kinds == POSITION]
        legal &= bool(np.all(np.diff(positions) > 0))
        if len(positions):
            self.first_position[i] = positions[0]
        metres = values[kinds == METRE]
        if len(metres):
            self.metre[i] = expansion[kinds == METRE][-1]
            legal &= not len(positions) or bool(positions[-1] < metres[-1])
        elif len(positions):
            self.reach[i] = positions[-1]
        self._named[i] = tuple(int(p) for p in values[kinds == PROGRAM])
        pitches = np.flatnonzero(kinds == PITCH)
        self.needs_program[i] = len(pitches) > 0 and not np.any(kinds[: pitches[0]] == PROGRAM)
        notes, apart = self._notes_of(i, expansion)
        self.legal[i] = legal and apart
        return notes

    def _notes_of(self, i: int, expansion: np.ndarray) -> tuple[list[tuple[int, ...]], bool]:
        """The notes that an id writes, and whether none of them strikes a pitch that another still sounds."""
        rows: list[tuple[int, ...]] = []
        bar, step, position, program = 0, 0, -1, -1
        ends: dict[tuple[int, int], int] = {}  # by program, as in a row, and pitch
        apart, pending = True, None
        for base in expansion:
            kind, value = self._kind[base], int(self._value[base])
            if kind == BAR:
                bar, position = 1, -1
            elif kind == METRE:
                step = int(self._step[base])
            elif kind == POSITION:
                position = value
            elif kind == PROGRAM:
                program = value + 1  # 0 for drums; -1 is left for "as before"
            elif kind == PITCH:
                pending = (i, bar, step, position, program, value)
                for (other, pitch), end in ends.items():
                    if pitch == value and end > position and other == program:
                        apart = False
                    elif pitch == value and end > position and other < 0:
                        self._twice.append((i, program))
            elif kind == DURATION:
                note = pending or (i, bar, step, -1, -1, -1)
                ends[note[4], note[5]] = note[3] + value
                rows.append((*note, value))
                pending = None
        return rows + ([(*pending, 0)] if pending else []), apart
