"""The grammar of the token stream: which ids may come next.

The grammar knows what each id stands for through its BPE merges: an id is allowed only if all that it expands to is
legal in the present state. It holds for any model, trained or not. Works on ids alone; scores are
`musegen.pipeline`'s.

A piece is BOS (or CNT), a header, bars, EOS. A bar is perhaps `Left`, then Bar, TimeSig, then positions that rise and
stay inside the bar; at a position, perhaps a Tempo, then notes: perhaps a Program, then Pitch and Duration. The first
note of a bar names its program. Beyond that order:

- `Left` stands where `musegen.controls` puts it and counts true;
- programs that a header names are the only ones that play;
- a program does not strike a pitch that it still sounds;
- no note sounds beyond the last bar, where the grammar knows which bar is the last;
- EOS comes at a bar line, after the last bar.

Units: bars, grid positions (`musegen.grid.POSITIONS_PER_BEAT` a beat), ticks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from musegen import grid as g
from musegen.controls import left_step, left_width
from musegen.errors import RequestError
from musegen.id_tables import (
    BAR,
    CLOSED,
    COMPOSER,
    DURATION,
    END,
    GAP,
    HEAD_PROGRAM,
    HEAD_TEMPO,
    KEY,
    LEFT,
    METRE,
    NEXT,
    OTHER,
    PITCH,
    POSITION,
    PROGRAM,
    SEP,
    START,
    TEMPO,
    IdTables,
)  # fmt: skip
from musegen.layout import StreamLayout
from musegen.tokenizer import MusicTokenizer

BAR_ENDS = (METRE, TEMPO, DURATION)  # after which a bar may end
_HEAD = (START, COMPOSER, KEY, HEAD_TEMPO, HEAD_PROGRAM)
_BOUNDARY = (*_HEAD, METRE, TEMPO, DURATION, CLOSED)  # after which a bar may begin
MAX_NOTES_AT_ONCE = 32  # that begin at one position; a full orchestra seldom needs more
MAX_SOUNDING = 96  # notes at once; fewer than there are pitches, so that a program always has one that is free
_MAX_EMPTY_BARS = 2  # in a row; a model that has lost its way writes rests for ever
_NO_PROGRAM = -2
# What an instrument that was asked for and has not played gains, in nats: so much for each bar after the first few, up
# to the most. Without it a small model forgets a part in most of its piano trios (docs/log.md).
_ENTRY_BARS, _ENTRY_NATS, _MOST_ENTRY_NATS = 2, 1.0, 8.0
_DRUMS = -1  # program
_FOREIGN_NATS = 0.5
_MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
_MINOR_SCALE = (0, 2, 3, 5, 7, 8, 9, 10, 11)  # with the sixth and seventh degrees of both its forms
_FOREVER = 2**30  # ticks
_KNOWN = 4096  # states whose masks are kept, of 3 to 30 KB each


@dataclasses.dataclass(frozen=True)
class GrammarState:
    """What decides which ids may come next. Treated as immutable, its dictionary too.

    Args:
        kind: Of the last token.
        position: Of the last note in this bar; -1 at its beginning.
        bar_length: Positions in this bar.
        step: Ticks a position in this bar.
        bar_start: Tick at which this bar begins.
        program: Last named in this bar; -2 for none.
        pitch: Of a note whose duration is to come.
        bars: Begun so far.
        notes: Whether there is any.
        empty: Bars in a row without a note, this one included.
        struck: Notes that begin at this position.
        metre: REMI id of the last TimeSig; -1 before the first.
        left: Step of the last `Left` token; 0 before the first.
        since: Bars begun since that token.
        programs: Named in the header.
        played: Programs that have had a note.
        sounding: Tick at which each (program, pitch) ends that may still sound.
        total: Bars by which `Left` counts, if not by the bar budget.
        before_gap: The state at GAP, until SEP.
    """

    kind: int = START
    position: int = -1
    bar_length: int = 0
    step: int = 4
    bar_start: int = 0
    program: int = _NO_PROGRAM
    pitch: int = 0
    bars: int = 0
    notes: bool = False
    empty: int = 0
    struck: int = 0
    metre: int = -1
    left: int = 0
    since: int = 0
    programs: tuple[int, ...] = ()
    played: frozenset[int] = frozenset()
    sounding: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    total: int | None = None
    before_gap: GrammarState | None = None

    @property
    def bar_end(self) -> int:
        """Tick at which this bar ends."""
        return self.bar_start + self.bar_length * self.step

    def bars_to_come(self, bars: int | None) -> int | None:
        """Bars after this one; None if not known."""
        if bars is not None:
            return max(0, bars - self.bars)
        if self.left and left_width(self.left) == 1:
            return self.left - self.since
        return None


def _metre_id(tokenizer: MusicTokenizer, numerator: int, denominator: int) -> int:
    while denominator < min(g.METRES):  # 2/2 is written as 4/4
        numerator, denominator = 2 * numerator, 2 * denominator
    found = tokenizer.remi.vocab.get(f"TimeSig_{numerator}/{denominator}")
    if found is None:
        known = ", ".join(f"1 to {most} over {unit}" for unit, most in g.METRES.items())
        raise RequestError(f"time signature {numerator}/{denominator}: known are {known}")
    return found


class _Notes(NamedTuple):
    """Of every note that the ids of a mask would write: id, first and last tick from the beginning of the bar, place
    in a table by program and pitch; the last of all ticks; ids that clash with themselves here.
    """

    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray
    place: np.ndarray
    last: int
    twice: np.ndarray


class Grammar(IdTables):
    """Which ids may follow which, for one tokenizer.

    Args:
        tokenizer: Any `MusicTokenizer`.
        programs: General MIDI programs that may play; None for all.
        steady_metre: Whether every bar must have the metre of the first.
        metre: Numerator and denominator of the first bar; None lets the model choose.
        asked: Programs that are to come in, of those that may play (`late_entries`).
        key: Pitch class of the tonic, and whether the key is minor, that was asked for (`foreign_notes`).

    Raises:
        RequestError: For a metre that is not written here.
    """

    def __init__(
        self,
        tokenizer: MusicTokenizer,
        programs: Collection[int] | None = None,
        *,
        steady_metre: bool = False,
        metre: tuple[int, int] | None = None,
        asked: Collection[int] = (),
        key: tuple[int, bool] | None = None,
    ):
        super().__init__(tokenizer)
        self.steady_metre = steady_metre
        self.programs = None if programs is None else frozenset(int(p) for p in programs)
        self.asked = frozenset(int(p) for p in asked)
        self.has_controls, self.layout = tokenizer.has_controls, StreamLayout(tokenizer)
        self._opening_metre = -1 if metre is None else _metre_id(tokenizer, *metre)
        self.ways_on = np.flatnonzero((self.first == BAR) | (self.first == LEFT))
        self.ways_on = np.append(self.ways_on, self.eos)  # all that can come when a bar has ended
        self._known: dict[tuple, tuple[np.ndarray, _Notes]] = {}
        self._playable: dict[frozenset, np.ndarray] = {}
        self._entering: dict[frozenset, np.ndarray] = {}
        self._foreign = None if key is None else self._outside(*key)

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """The state after a token, legal or not."""
        if token == self.eos:
            return dataclasses.replace(state, kind=END)
        if token in (self.bos, self.pad):
            return state
        now = dict(state.__dict__)  # dataclasses.replace for each REMI token would cost more than all the rest
        for base in self._expansions[token]:
            self._step_on(now, int(base))
        return type(state)(**now)

    def _step_on(self, now: dict, base: int) -> None:
        kind, value = int(self._kind[base]), int(self._value[base])
        if kind == PROGRAM and now["kind"] in _HEAD:
            now["programs"] = (*now["programs"], value)
            kind = HEAD_PROGRAM
        elif kind == TEMPO and now["kind"] in _HEAD:
            kind = HEAD_TEMPO
        elif kind == OTHER:  # CNT
            return
        elif kind == LEFT:
            now["left"], now["since"] = value, 0
        elif kind == BAR:
            start = now["bar_start"] + now["bar_length"] * now["step"]
            now.update(bar_start=start, bar_length=0, position=-1, program=_NO_PROGRAM, struck=0)
            now.update(bars=now["bars"] + 1, empty=now["empty"] + 1, since=now["since"] + 1)
            now["sounding"] = {key: end for key, end in now["sounding"].items() if end > start}
        elif kind == METRE:
            now.update(bar_length=value, step=int(self._step[base]), metre=base)
        elif kind == POSITION:
            now["position"], now["struck"] = value, 0
        elif kind == PROGRAM:
            now["program"] = value
        elif kind == PITCH:
            now["pitch"] = value
        elif kind == DURATION:
            end = now["bar_start"] + (max(now["position"], 0) + value) * now["step"]
            key = (now["program"], now["pitch"])
            now["sounding"] = {**now["sounding"], key: max(end, now["sounding"].get(key, 0))}
            now.update(notes=True, empty=0, struck=now["struck"] + 1)
            if now["program"] not in now["played"]:
                now["played"] = now["played"] | {now["program"]}
        elif kind == GAP:
            now["before_gap"] = GrammarState(**{**now, "kind": CLOSED, "before_gap": None})
            kind = CLOSED
        elif kind == SEP and now["before_gap"] is not None:
            now.update(now["before_gap"].__dict__, bars=0, left=0, since=0, empty=0, notes=True)
            kind = CLOSED
        now["kind"] = kind

    def read(self, ids: Sequence[int], state: GrammarState | None = None) -> GrammarState:
        """The state after many tokens."""
        state = state or GrammarState()
        for token in ids:
            state = self.advance(state, int(token))
        return state

    def allowed(self, state: GrammarState, bars: int | None = None) -> np.ndarray:
        """Which ids may come next.

        Args:
            state: Of the stream so far.
            bars: How many bars the piece is to have, exactly; None lets the model end it.

        Returns:
            bool (vocabulary,). Never all False. Not to be written to.
        """
        saturated = self._saturated(state)
        bar, left = self._boundary(state, bars, saturated)
        shut: tuple[int, ...] = ()
        if saturated:
            shut = (POSITION, TEMPO, PROGRAM, PITCH)
        elif state.kind == DURATION and state.struck >= MAX_NOTES_AT_ONCE:
            shut = (PROGRAM, PITCH)
        ends = self._may_end(state, bars)
        key = (
            state.kind, state.position, state.bar_length, state.step, state.program, shut, bar, left, ends,
            state.metre if self.steady_metre else state.bars <= 1, state.programs,
        )  # fmt: skip
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            mask = self._mask(state, bar, left, shut, ends)
            known = self._known[key] = mask, self._notes_under(mask, state)
        if state.kind in (*_HEAD, LEFT, BAR, END):
            return known[0]
        return self._without_clashes(state, self._limit(state, bars), *known)

    def late_entries(self, state: GrammarState) -> tuple[np.ndarray, float] | None:
        """Ids, bool (vocabulary,), by which an instrument that was asked for comes in late, and the nats they gain.

        None where none is late. A person who asks for a quartet wants to hear all of it; a model may forget a part.
        """
        missing = self.asked - state.played
        waited = state.bars - _ENTRY_BARS
        if not missing or waited <= 0:
            return None
        if missing not in self._entering:
            self._entering[missing] = np.array([not missing.isdisjoint(named) for named in self._named])
        return self._entering[missing], min(waited * _ENTRY_NATS, _MOST_ENTRY_NATS)

    def foreign_notes(self, state: GrammarState) -> np.ndarray | None:
        """Nats that each id loses, float32 (vocabulary,), for notes outside the key that was asked for.

        None where no key was asked for, and for drums. A person who asks for D major wants to hear it; a model that
        is told of it may be elsewhere before the first cadence. It may still leave the key, where it is sure.
        """
        return None if self._foreign is None or state.program == _DRUMS else self._foreign

    def _outside(self, tonic: int, minor: bool) -> np.ndarray:
        scale = {(tonic + step) % 12 for step in (_MINOR_SCALE if minor else _MAJOR_SCALE)}
        lost = np.zeros(len(self.legal), np.float32)
        for token, expansion in enumerate(self._expansions):
            program = _NO_PROGRAM
            for base in expansion:
                kind, value = self._kind[base], int(self._value[base])
                program = value if kind == PROGRAM else program
                lost[token] += kind == PITCH and program != _DRUMS and value % 12 not in scale
        return lost * np.float32(_FOREIGN_NATS)

    def _saturated(self, state: GrammarState) -> bool:
        """Whether so much sounds that nothing more may begin before the next bar."""
        if state.kind not in (METRE, TEMPO, DURATION) or len(state.sounding) < MAX_SOUNDING:
            return False
        now = state.bar_start + max(state.position, 0) * state.step
        return sum(end > now for end in state.sounding.values()) >= MAX_SOUNDING

    def _boundary(self, state: GrammarState, bars: int | None, saturated: bool) -> tuple[bool, tuple[int, ...]]:
        """Whether a bar may begin here, and which `Left` tokens may stand here."""
        if state.kind == LEFT:
            return True, ()
        silent = state.empty >= _MAX_EMPTY_BARS + (state.bars == 0) and not saturated
        silent &= state.kind != CLOSED  # after what was given, however it ends, there is nothing but a new bar
        if state.kind not in _BOUNDARY or silent:
            return False, ()
        if bars is not None and state.bars >= bars:
            return False, ()
        if not self.has_controls:
            return True, ()
        total = bars if state.total is None else state.total
        if total is not None:
            left = max(1, total - state.bars)
            step = left_step(left)
            return (False, (step,)) if state.left == 0 or step != left_step(left + 1) else (True, ())
        if state.left == 0:
            return False, tuple(self._left_ids)
        width = left_width(state.left)
        lower = tuple(sorted(self._left_ids))
        index = lower.index(state.left)
        return width is None or state.since < width, lower[index - 1 : index] if index else ()

    def _may_end(self, state: GrammarState, bars: int | None) -> bool:
        if state.kind not in (DURATION, METRE, TEMPO, CLOSED) or not state.notes:
            return False
        if bars is not None:
            return state.bars >= bars
        return not self.has_controls or (state.left == 1 and state.since == 1)

    def _mask(
        self, state: GrammarState, bar: bool, left: tuple[int, ...], shut: tuple[int, ...], ends: bool
    ) -> np.ndarray:
        """What depends on few things, so that the masks of a piece are soon all known."""
        mask = np.zeros(len(self.legal), bool)
        if state.kind == END:
            mask[self.pad] = True
            return mask
        for kind in NEXT[state.kind]:
            if kind not in (BAR, LEFT, *shut):
                mask |= self.first == kind
        if bar:
            mask |= self.first == BAR
        mask &= self.legal & (self.reach < state.bar_length)
        mask &= (self.first == BAR) | (self.first_position < 0) | (self.first_position > state.position)
        if state.kind in _HEAD:
            mask &= self.single | (self.first == BAR)
            if state.programs:  # ascending
                later = frozenset(range(state.programs[-1] + 1, 128))
                mask &= (self.first != PROGRAM) | self._plays(later)
            mask &= self._plays(self.programs)
        else:
            mask &= self._plays(self._heard(state))
            if state.program == _NO_PROGRAM:
                mask &= ~self.needs_program | (self.first == BAR)
        metre = state.metre if self.steady_metre and state.metre >= 0 else self._opening_metre
        if metre >= 0 and (self.steady_metre or state.bars <= 1):
            mask &= (self.metre < 0) | (self.metre == metre)
        if state.position + 1 >= state.bar_length and state.kind not in (PROGRAM, PITCH, POSITION):
            mask &= self.first != POSITION
        mask[[self._left_ids[step] for step in left]] = True
        mask[self.eos] = ends
        if not mask.any():
            # The bar has no room left and another is not to begin: the piece ends.
            mask[self.eos] = True
        return mask

    def _heard(self, state: GrammarState) -> frozenset | None:
        """Programs that may play; None for all."""
        if not state.programs:
            return self.programs
        return frozenset(state.programs) if self.programs is None else self.programs & frozenset(state.programs)

    def _plays(self, programs: frozenset | None) -> np.ndarray:
        """Ids that name no other program than these."""
        if programs is None:
            return self.legal
        found = self._playable.get(programs)
        if found is None:
            found = np.array([all(p in programs for p in named) for named in self._named])
            self._playable[programs] = found
        return found

    def _limit(self, state: GrammarState, bars: int | None) -> int:
        """Tick at which the piece ends, as far as it is known."""
        to_come = state.bars_to_come(bars)
        if to_come == 0:
            return state.bar_end
        if to_come is not None and self.steady_metre:
            return state.bar_end + to_come * state.bar_length * state.step
        return _FOREVER

    def _notes_under(self, mask: np.ndarray, state: GrammarState) -> _Notes:
        """The notes that the ids of a mask would write in a state, by ticks from the beginning of its bar."""
        own = mask[self._note_id]
        step, position, bar = self._note_step[own], self._note_position[own], self._note_bar[own] > 0
        program, pitch = self._note_program[own], self._note_pitch[own]
        step = np.where(step > 0, step, state.step)
        position = np.where((position < 0) & ~bar, max(state.position, 0), np.maximum(position, 0))
        start = np.where(bar, state.bar_length * state.step, 0) + position * step
        end = start + self._note_duration[own] * step
        program = np.where(program < 0, state.program + 1, program)
        # A pitch of -1, of a note that the state has begun, and a program of -1, none named yet, sound never.
        place = np.where((program < 0) | (pitch < 0), 0, 1 + program * 128 + pitch)
        twice = self._twice_id[self._twice_program == state.program + 1]
        return _Notes(self._note_id[own], start, end, place, int(end.max(initial=0)), twice)

    def _without_clashes(self, state: GrammarState, limit: int, mask: np.ndarray, notes: _Notes) -> np.ndarray:
        """Forbid ids that strike a pitch that still sounds, or that sound beyond the last bar, at tick `limit`."""
        over = state.bar_start + notes.last > limit
        if not over and not state.sounding and not len(notes.twice):
            return mask
        out = mask.copy()
        if over:
            out[notes.ids[notes.end > limit - state.bar_start]] = False
        if state.sounding:
            until = np.zeros(1 + 129 * 128, np.int32)  # by program + 1 and pitch; the first for none
            for (program, pitch), end in state.sounding.items():
                until[1 + (program + 1) * 128 + pitch] = end - state.bar_start
            out[notes.ids[until[notes.place] > notes.start]] = False
        out[notes.twice] = False
        if not out.any():
            out[self.eos] = True
        return out
