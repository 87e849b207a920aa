"""The grammar of a variation: some programs of a piece stay note for note, the others are written anew.

What stays is a part of the grammar: an id is allowed only if all that it expands to leaves every kept note where it
is. So a model that was never trained for it hears the kept notes when they come, and writes around them. Notes that
come together stand by program, as in training, so that a kept note is heard by the programs after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from musegen.grammar import MAX_NOTES_AT_ONCE, Grammar, GrammarState
from musegen.id_tables import BAR, DURATION, LEFT, METRE, PITCH, POSITION, PROGRAM
from musegen.tokenizer import MusicTokenizer


@dataclasses.dataclass(frozen=True)
class KeepingState(GrammarState):
    """A `GrammarState` that counts.

    Args:
        kept: Kept notes of this bar that have come.
    """

    kept: int = 0


@dataclasses.dataclass(frozen=True)
class KeptBar:
    """What stays of a bar.

    Args:
        metre: REMI id of its TimeSig.
        notes: Position, program, pitch and duration in positions of each note, in the order of the stream.
    """

    metre: int
    notes: tuple[tuple[int, int, int, int], ...]


class KeepingGrammar(Grammar):
    """A grammar under which a piece keeps the notes of some programs, and its bars.

    Args:
        tokenizer: Any `MusicTokenizer`.
        base_ids: REMI ids of the piece (`MusicTokenizer.base_ids`).
        keep: Programs that stay.
        programs: General MIDI programs that may play beside them; None for all.
    """

    def __init__(
        self,
        tokenizer: MusicTokenizer,
        base_ids: np.ndarray,
        keep: Collection[int],
        programs: Collection[int] | None = None,
    ):
        self.keep = frozenset(int(p) for p in keep)
        super().__init__(tokenizer, None if programs is None else self.keep | set(programs))
        self.bars = self._kept_bars(base_ids)
        ticks = [int(self._value[bar.metre] * self._step[bar.metre]) for bar in self.bars]
        self._end = sum(ticks)

    def _kept_bars(self, base_ids: np.ndarray) -> list[KeptBar]:
        bars: list[KeptBar] = []
        state = GrammarState()
        notes: list[tuple[int, int, int, int]] = []
        for base in map(int, base_ids):
            before, kind = state, self._kind[base]
            state = self.advance(state, base)
            if kind == BAR:
                notes = []
            elif kind == METRE:
                bars.append(KeptBar(base, ()))
            elif kind == DURATION and before.program in self.keep:
                onset = before.bar_start + max(before.position, 0) * before.step
                # A second note on a pitch that sounds cannot be written; the piece itself still has it.
                if before.sounding.get((before.program, before.pitch), 0) <= onset:
                    notes.append((before.position, before.program, before.pitch, int(self._value[base])))
                    bars[-1] = KeptBar(bars[-1].metre, tuple(notes))
                else:
                    state = dataclasses.replace(state, sounding=before.sounding)
        return bars

    def read(self, ids, state: GrammarState | None = None) -> KeepingState:
        """The state after many tokens."""
        return super().read(ids, state or KeepingState())

    def _step_on(self, now: dict, base: int) -> None:
        kind = int(self._kind[base])
        if "kept" in now:
            if kind == BAR:
                now["kept"] = 0
            elif kind == DURATION and now["program"] in self.keep:
                now["kept"] += 1
        super()._step_on(now, base)

    def allowed(self, state: KeepingState, bars: int | None = None) -> np.ndarray:
        """Which ids may come next; see `Grammar.allowed`."""
        full = state.kind == DURATION and state.struck >= MAX_NOTES_AT_ONCE
        crowded = full and self._due(state) is not None
        asked = dataclasses.replace(state, struck=0) if crowded else state
        mask = super().allowed(asked, len(self.bars)).copy()
        for i in np.flatnonzero(mask).tolist():
            mask[i] = self._keeps(state, i) and not (crowded and self._begins_with_others(state, i))
        if not mask.any():
            mask[self.eos] = True
        return mask

    def _saturated(self, state: GrammarState) -> bool:
        return False  # kept notes come whatever sounds: `_keeps` stops the others alone

    def _limit(self, state: GrammarState, bars: int | None) -> int:
        return self._end

    def _due(self, state: KeepingState) -> tuple[int, int, int, int] | None:
        """The kept note that is to come at this position, if one is."""
        notes = self.bars[state.bars - 1].notes if 0 < state.bars <= len(self.bars) else ()
        due = notes[state.kept] if state.kept < len(notes) else None
        return due if due is not None and due[0] == state.position else None

    def _begins_with_others(self, state: KeepingState, token: int) -> bool:
        """Whether an id goes on with notes of a program that is not kept: no more of them where it is crowded."""
        first = self._expansions[token][0]
        program = int(self._value[first]) if self._kind[first] == PROGRAM else state.program
        return program not in self.keep

    def _heard(self, state: GrammarState) -> frozenset | None:
        heard = super()._heard(state)
        return None if heard is None else heard | self.keep

    def _keeps(self, state: KeepingState, token: int) -> bool:
        """Whether an id leaves every kept note where it is."""
        bar, position, program, kept = state.bars - 1, state.position, state.program, state.kept
        pitch, closed = state.pitch, super()._saturated(state)
        notes = self.bars[bar].notes if 0 <= bar < len(self.bars) else ()
        if token == self.eos:
            return kept == len(notes)
        for base in self._expansions[token]:
            kind, value = self._kind[base], int(self._value[base])
            due = notes[kept] if kept < len(notes) else None
            here = due is not None and due[0] == position
            if kind in (BAR, LEFT):
                if due is not None:
                    return False
                if kind == BAR:
                    bar, position, program, kept = bar + 1, -1, None, 0
                    notes = self.bars[bar].notes if bar < len(self.bars) else ()
            elif kind == METRE:
                if bar >= len(self.bars) or base != self.bars[bar].metre:
                    return False
            elif kind == POSITION:
                if (due is not None and due[0] < value) or (closed and (due is None or due[0] != value)):
                    return False
                position = value
            elif kind == PROGRAM and bar >= 0:
                program = value
                if program in self.keep and not (here and due[1] == program):
                    return False
                if program not in self.keep and (closed or (here and due[1] < program)):
                    return False
            elif kind == PITCH:
                pitch = value
                if program in self.keep and not (here and due[1:3] == (program, pitch)):
                    return False
                if program not in self.keep and (closed or (here and due[1] < program)):
                    return False
            elif kind == DURATION and program in self.keep:
                if not (here and due[1:] == (program, pitch, value)):
                    return False
                kept += 1
        return True
