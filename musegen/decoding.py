"""Sampling token ids that are always music: the grammar of the token stream, the bar budget, the loop.

The grammar knows what each id stands for through its BPE merges: an id is allowed only if all that it expands to
may come next. It holds for any model, trained or not. Works on ids alone; scores are `musegen.pipeline`'s.

Grammar of a piece: BOS, then bars, then EOS. A bar is Bar, TimeSig, then positions that rise and stay inside the
bar; at a position, perhaps a Tempo, then notes: perhaps a Program, then Pitch and Duration.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from musegen import grid as g
from musegen.errors import RequestError
from musegen.likelihood import context_of
from musegen.tokenizer import MusicTokenizer

START, BAR, METRE, POSITION, TEMPO, PROGRAM, PITCH, DURATION, CLOSED, END = range(10)
_TYPES = {
    "Bar": BAR,
    "TimeSig": METRE,
    "Position": POSITION,
    "Tempo": TEMPO,
    "Program": PROGRAM,
    "Pitch": PITCH,
    "Duration": DURATION,
}
_NEXT = {
    START: (BAR,),
    CLOSED: (BAR,),  # after a prompt: what is given stays as it is
    BAR: (METRE,),
    METRE: (POSITION, BAR),
    POSITION: (TEMPO, PROGRAM, PITCH),
    TEMPO: (PROGRAM, PITCH, POSITION, BAR),
    PROGRAM: (PITCH,),
    PITCH: (DURATION,),
    DURATION: (PITCH, PROGRAM, POSITION, BAR),
    END: (),
}
MAX_NOTES_AT_ONCE = 32  # that begin at one position; a full orchestra seldom needs more
_MAX_EMPTY_BARS = 2  # in a row; a model that has lost its way writes rests for ever


@dataclasses.dataclass(frozen=True)
class GrammarState:
    """What decides which ids may come next.

    Args:
        kind: Of the last token.
        position: Of the last note in this bar; -1 at its beginning.
        bar_length: Positions in this bar.
        program: Whether a program has been named.
        bars: Begun so far.
        notes: Whether there is any.
        empty: Bars in a row without a note, this one included.
        struck: Notes that begin at this position.
        metre: REMI id of the last TimeSig; -1 before the first.
    """

    kind: int = START
    position: int = -1
    bar_length: int = 0
    program: bool = False
    bars: int = 0
    notes: bool = False
    empty: int = 0
    struck: int = 0
    metre: int = -1


class Grammar:
    """Which ids may follow which, for one tokenizer.

    Args:
        tokenizer: Any `MusicTokenizer`.
        programs: General MIDI programs that may play; None for all.
        steady_metre: Whether every bar must have the metre of the first.
    """

    def __init__(
        self, tokenizer: MusicTokenizer, programs: Collection[int] | None = None, *, steady_metre: bool = False
    ):
        self.steady_metre = steady_metre
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        names = tokenizer._base_names
        kind, value = np.zeros(len(names), int), np.zeros(len(names), int)
        for i, name in enumerate(names):
            word, _, rest = name.partition("_")
            kind[i] = _TYPES.get(word, START)
            if word in ("Position", "Program"):
                value[i] = int(rest)
            elif word == "TimeSig":
                value[i] = int(rest.split("/")[0]) * g.POSITIONS_PER_BEAT
        self._kind, self._value = kind, value
        self._expansions = tokenizer.expansions
        size = len(tokenizer)
        self.first = np.zeros(size, int)
        self.legal = np.zeros(size, bool)
        self.first_position = np.full(size, -1)
        self.reach = np.full(size, -1)  # the largest position that the bar going on would have to hold
        self.needs_program = np.zeros(size, bool)
        self.metre = np.full(size, -1)
        for i, expansion in enumerate(self._expansions):
            if i not in (self.bos, self.eos, self.pad) and len(expansion):
                self._describe(i, expansion, programs)
        self._masks: dict[tuple, np.ndarray] = {}

    def _describe(self, i: int, expansion: np.ndarray, programs: Collection[int] | None) -> None:
        kinds, values = self._kind[expansion], self._value[expansion]
        self.first[i] = kinds[0]
        legal = bool((kinds != START).all()) and all(b in _NEXT[a] for a, b in itertools.pairwise(kinds))
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
        named = values[kinds == PROGRAM]
        if programs is not None:
            legal &= all(int(p) in programs for p in named)
        pitches = np.flatnonzero(kinds == PITCH)
        self.needs_program[i] = len(pitches) > 0 and not np.any(kinds[: pitches[0]] == PROGRAM)
        self.legal[i] = legal

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """The state after a token, legal or not."""
        if token == self.eos:
            return dataclasses.replace(state, kind=END)
        if token in (self.bos, self.pad):
            return state
        kind, position, length = state.kind, state.position, state.bar_length
        program, bars, notes, empty, struck = state.program, state.bars, state.notes, state.empty, state.struck
        metre = state.metre
        for base in self._expansions[token]:
            kind, value = int(self._kind[base]), int(self._value[base])
            if kind == BAR:
                position, bars, empty = -1, bars + 1, empty + 1
            elif kind == METRE:
                length, metre = value, int(base)
            elif kind == POSITION:
                position, struck = value, 0
            elif kind == PROGRAM:
                program = True
            elif kind == DURATION:
                notes, empty, struck = True, 0, struck + 1
        return GrammarState(kind, position, length, program, bars, notes, empty, struck, metre)

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
            bool (vocabulary,). Never all False.
        """
        full = bars is not None and state.bars >= bars
        may_end = state.kind in (DURATION, METRE, TEMPO, CLOSED)
        ends = may_end and state.notes and (bars is None or full)
        may_bar = not full and state.empty < _MAX_EMPTY_BARS + (state.bars == 0)
        crowded = state.kind == DURATION and state.struck >= MAX_NOTES_AT_ONCE
        key = (state.kind, state.position, state.bar_length, state.program, ends, may_bar, crowded, state.metre)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self._mask(state, ends, may_bar, crowded)
        return mask

    def _mask(self, state: GrammarState, ends: bool, may_bar: bool, crowded: bool) -> np.ndarray:
        mask = np.zeros(len(self.legal), bool)
        if state.kind == END:
            mask[self.pad] = True
            return mask
        for kind in _NEXT[state.kind]:
            if (kind != BAR or may_bar) and not (crowded and kind in (PITCH, PROGRAM)):
                mask |= self.first == kind
        begins_bar = self.first == BAR
        mask &= self.legal & (self.reach < state.bar_length)
        mask &= begins_bar | (self.first_position < 0) | (self.first_position > state.position)
        if self.steady_metre and state.metre >= 0:
            mask &= (self.metre < 0) | (self.metre == state.metre)
        if not state.program:
            mask &= ~self.needs_program
        if state.position + 1 >= state.bar_length and state.kind not in (PROGRAM, PITCH, POSITION):
            mask &= self.first != POSITION
        mask[self.eos] = ends
        if not mask.any():
            # The bar has no room left and another is not to begin: the piece ends.
            mask[self.eos] = True
        return mask


class GrammarLogitsProcessor(LogitsProcessor):
    """Forbid what the grammar forbids, row by row, during `generate`.

    Where the bar budget is spent, what the model would give to another bar is given to the end of the piece.

    Args:
        grammar: Of the tokenizer.
        states: Of each row, after all the ids that `generate` is called with.
        bars: Bar budget of each row; None lets the model end.
        prompt_length: Ids that `generate` is called with, padding included.
    """

    def __init__(
        self, grammar: Grammar, states: Sequence[GrammarState], bars: Sequence[int | None], prompt_length: int
    ):
        self.grammar, self.bars, self.length = grammar, list(bars), prompt_length
        self.start, self.states = list(states), list(states)
        self.seen: torch.Tensor | None = None
        self.begins_bar = torch.from_numpy(grammar.first == BAR)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary) with -inf where the grammar says no."""
        new = input_ids[:, self.length :].cpu()
        self._follow(new)
        masks = [self.grammar.allowed(state, bars) for state, bars in zip(self.states, self.bars)]
        mask = torch.from_numpy(np.stack(masks)).to(scores.device)
        out = scores.masked_fill(~mask, -torch.inf)
        begins = self.begins_bar.to(scores.device)
        for row, (state, bars) in enumerate(zip(self.states, self.bars)):
            if bars is not None and state.bars >= bars and masks[row][self.grammar.eos]:
                out[row, self.grammar.eos] = torch.logsumexp(
                    torch.cat([scores[row, self.grammar.eos, None], scores[row, begins]]), 0
                )
        return out

    def _follow(self, new: torch.Tensor) -> None:
        """Bring the states up to date; a row that is not what it was (beam search) is read anew."""
        known = 0 if self.seen is None else self.seen.shape[1]
        for row in range(len(self.states)):
            if known and not torch.equal(self.seen[row], new[row, :known]):
                self.states[row] = self.grammar.read(new[row].tolist(), self.start[row])
            else:
                self.states[row] = self.grammar.read(new[row, known:].tolist(), self.states[row])
        self.seen = new


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How ids are drawn.

    Args:
        temperature: Above 1 bolder, below 1 safer; 0 always takes the likeliest.
        top_p: Draw from the likeliest ids that together have this probability.
        top_k: Draw from so many ids at the most; 0 for all.
        seed: The same seed gives the same music.
        max_tokens: New ids a piece at the most, whatever the bar budget.
    """

    temperature: float = 1.0
    top_p: float = 0.97
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 16_384

    def __post_init__(self):
        if not 0 <= self.temperature <= 5:
            raise RequestError(f"temperature: between 0 and 5, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p: above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise RequestError(f"top_k: 0 or more, not {self.top_k}")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens: 1 or more, not {self.max_tokens}")


@torch.inference_mode()
def sample(
    model,
    grammar: Grammar,
    prompts: Sequence[Sequence[int]],
    bars: Sequence[int | None],
    options: SamplingOptions | None = None,
    *,
    progress: bool = False,
) -> list[list[int]]:
    """Go on from prompts until each piece ends.

    A piece that outgrows the model's context goes on from its last bars: a window of at most half a context that
    begins at a bar line.

    Args:
        model: A causal language model with `generate`.
        grammar: Of its tokenizer.
        prompts: Ids of each piece so far, BOS first; more than BOS is kept as it is and ends with a whole bar.
        bars: Whole length of each piece in bars, prompt included; None lets the model end it.
        options: `SamplingOptions()` by default.
        progress: Show a bar of bars.

    Returns:
        Ids of each piece, prompt included; EOS last if it ended.
    """
    from tqdm.auto import tqdm

    options = options or SamplingOptions()
    model.eval()
    torch.manual_seed(options.seed)
    pieces = [list(map(int, prompt)) for prompt in prompts]
    states = [grammar.read(piece) for piece in pieces]
    states = [dataclasses.replace(s, kind=CLOSED) if s.bars else s for s in states]
    limits = [len(piece) + options.max_tokens for piece in pieces]
    context = context_of(model) or 4096
    total = sum(b or 0 for b in bars)
    bar = tqdm(total=total or None, initial=sum(s.bars for s in states), desc="bars", disable=not progress)
    while True:
        active = [i for i, s in enumerate(states) if s.kind != END and len(pieces[i]) < limits[i]]
        if not active:
            break
        windows = [_window(pieces[i], grammar, context) for i in active]
        longest = max(map(len, windows))
        room = min(context - longest, max(limits[i] - len(pieces[i]) for i in active))
        ids = torch.full((len(active), longest), grammar.pad)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, longest - len(window) :] = torch.tensor(window)
            mask[row, longest - len(window) :] = 1
        processor = GrammarLogitsProcessor(grammar, [states[i] for i in active], [bars[i] for i in active], longest)
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=room,
            logits_processor=LogitsProcessorList([processor]),
            pad_token_id=grammar.pad,
            eos_token_id=grammar.eos,
            **_generation_settings(options),
        )
        for row, i in enumerate(active):
            new = out[row, longest:].tolist()
            new = new[: new.index(grammar.eos) + 1] if grammar.eos in new else new
            new = new[: limits[i] - len(pieces[i])]
            before = states[i].bars
            states[i] = grammar.read(new, states[i])
            pieces[i] += new
            bar.update(states[i].bars - before)
    bar.close()
    return pieces


def _generation_settings(options: SamplingOptions) -> dict:
    if options.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": float(options.temperature),
        "top_p": float(options.top_p),
        "top_k": int(options.top_k),
    }


def _window(piece: list[int], grammar: Grammar, context: int) -> list[int]:
    """What the model is shown of a piece: all of it, or its last bars."""
    if len(piece) <= context * 3 // 4:
        return piece
    tail = piece[-(context // 2) :]
    starts = [i for i, token in enumerate(tail) if grammar.first[token] == BAR]
    return tail[starts[0] :] if starts else tail
