"""The decoding loop: prompts in, pieces out, for GPT and LSTM alike. Works on ids; scores are `musegen.pipeline`'s.

Pieces do not know of each other: each has its own randomness, its own place in memory and its own window, and leaves
when it has ended, whereupon a waiting one takes its place. A piece that outgrows a model's context goes on from its
last bars, at most half a context that begins at a bar line, opened as windows are in training: what the piece is told
to be, before its first bar, stays.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from musegen.errors import RequestError
from musegen.grammar import Grammar, GrammarState
from musegen.id_tables import BAR, CLOSED, LEFT
from musegen.inference import Stepper, stepper_for
from musegen.layout import StreamLayout
from musegen.sampling import Row, SamplingOptions, draw

ROWS = 16  # pieces at once: beyond it two CPU cores gain little
_BIT_EQUAL = (torch.float32, torch.float64)  # types in which rounding is small enough to be decided again


@dataclasses.dataclass
class SampledPiece:
    """Ids that were drawn, after those that were given.

    Args:
        ids: Of the piece so far, prompt included; EOS last if it ended.
        prompt_length: Ids that were given.
        log_probs: Nats of each drawn id under the model, over its whole vocabulary.
        legal_log_probs: Nats of each drawn id among those that the grammar allowed, before temperature and the
            other warpers.
        ended: Whether it came to its end.
    """

    ids: list[int]
    prompt_length: int
    log_probs: list[float] = dataclasses.field(default_factory=list)
    legal_log_probs: list[float] = dataclasses.field(default_factory=list)
    ended: bool = False


@dataclasses.dataclass(frozen=True)
class SampledBar:
    """A bar that is finished: what the piece still gets can no longer change it.

    Args:
        piece: Number of the piece in the request.
        number: Of the bar in the piece, from 0, bars of the prompt counted.
        ids: Of the bar, the bar line first; of the piece's last bar without EOS.
        start: Where in the piece's ids they begin.
        ended: Whether the piece ends with it.
    """

    piece: int
    number: int
    ids: list[int]
    start: int
    ended: bool


class Generation:
    """A request under way; `step` draws one id for each piece that is being written.

    Args:
        model: A causal language model; put into evaluation mode.
        grammar: Of its tokenizer.
        prompts: Ids of each piece so far, BOS first; more than BOS is kept as it is and ends with a whole bar.
        bars: Whole length of each piece in bars, prompt included; None lets the model end it.
        options: `SamplingOptions()` by default; what it leaves open is the model's, then the package's.
        keys: Names of each piece's randomness; by default the seed and the piece's number.
        states: Of the grammar after each prompt, where reading the prompt does not tell, as in a gap.
        layout: Of the tokenizer, by which windows are opened; without it they begin with what is before the first
            bar, as it stands.
        rows: Pieces written at once at the most.
        dtype: Of weights and memory in the steps of `musegen.inference`. In float32 a piece is the same whatever
            else is in the batch; in bfloat16 it is not.

    Raises:
        RequestError: For an empty prompt, or a list of another length than that of the prompts.
    """

    def __init__(
        self,
        model,
        grammar: Grammar,
        prompts: Sequence[Sequence[int]],
        bars: Sequence[int | None],
        options: SamplingOptions | None = None,
        *,
        keys: Sequence[Sequence[int]] | None = None,
        states: Sequence[GrammarState] | None = None,
        layout: StreamLayout | None = None,
        rows: int = ROWS,
        dtype: torch.dtype = torch.float32,
    ):
        self.options = (options or SamplingOptions()).filled(model)
        keys = [(self.options.seed, i) for i in range(len(prompts))] if keys is None else keys
        if not len(prompts) == len(bars) == len(keys):
            raise RequestError(f"{len(prompts)} prompts, {len(bars)} bar budgets and {len(keys)} keys: one each")
        if any(not len(prompt) for prompt in prompts):
            raise RequestError("an empty prompt; the least is the BOS id")
        self.grammar, self.layout = grammar, layout
        self.pieces = [SampledPiece([int(i) for i in prompt], len(prompt)) for prompt in prompts]
        self._rows = [self._row(piece, limit, key) for piece, limit, key in zip(self.pieces, bars, keys)]
        for row, state in zip(self._rows, states or ()):
            row.state = state
        self._model = model.eval()
        self._stepper: Stepper | None = None
        self._width, self._dtype = max(1, min(rows, len(prompts))), dtype
        self._waiting = [i for i, row in enumerate(self._rows) if not row.ended][::-1]
        self._active: list[int] = []  # the piece of each row of the stepper
        self._windows: list[list[int]] = [[] for _ in prompts]  # what the stepper has read of each piece
        self._logits: list[torch.Tensor] = []

    def _row(self, piece: SampledPiece, bars: int | None, key: Sequence[int]) -> Row:
        row = Row(self.grammar, self.grammar.read(()), bars, self.options, key)
        for token in piece.ids:
            row.advance(token)
        if row.state.bars:  # what is given stays as it is
            row.state = dataclasses.replace(row.state, kind=CLOSED)
        return row

    @property
    def done(self) -> bool:
        """Whether every piece has ended or used up its tokens."""
        return not self._active and not self._waiting

    @property
    def bars(self) -> int:
        """Begun so far, in all pieces."""
        return sum(row.state.bars for row in self._rows)

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Draw an id for each piece that is being written; returns the numbers of these pieces."""
        if self._stepper is None:
            self._stepper = stepper_for(self._model, self._width, self._dtype)
        self._admit()
        if not self._active:
            return []
        drawn = self._draw()
        for piece, token, whole, legal in zip(self._active, drawn.tokens, drawn.log_probs, drawn.legal_log_probs):
            found = self.pieces[piece]
            found.ids.append(token)
            found.log_probs.append(whole)
            found.legal_log_probs.append(legal)
            self._rows[piece].advance(token)
            found.ended = self._rows[piece].ended
        moved = list(self._active)
        self._leave()
        self._read()
        return moved

    def _draw(self):
        rows = [self._rows[i] for i in self._active]
        logits = np.stack([row.numpy() for row in self._logits])  # (rows, vocabulary)
        reference = None
        if self._dtype in _BIT_EQUAL:

            def reference(row: int) -> np.ndarray:
                return self._stepper.reference(self._windows[self._active[row]]).numpy()

        return draw(rows, logits, self.options, reference)

    def _admit(self) -> None:
        """Fill free rows with pieces that wait; one that begins as another did takes over what that one has read."""
        read: dict[tuple[int, ...], int] = {}
        while self._waiting and len(self._active) < self._width:
            piece, row = self._waiting.pop(), len(self._active)
            window = self._windows[piece] = self._window(self.pieces[piece].ids)
            twin = read.get(tuple(window))
            if twin is None:
                self._logits.append(self._stepper.start(row, window))
                read[tuple(window)] = row
            else:
                self._stepper.move(twin, row)
                self._logits.append(self._logits[twin])
            self._active.append(piece)

    def _leave(self) -> None:
        """Let the last row take the place of each piece that has ended."""
        for row in reversed(range(len(self._active))):
            piece = self.pieces[self._active[row]]
            if not piece.ended and len(piece.ids) - piece.prompt_length < self.options.max_tokens:
                continue
            last = self._active.pop()
            if row < len(self._active):
                self._stepper.move(len(self._active), row)
                self._active[row] = last

    def _read(self) -> None:
        """Read what was drawn; a row that is full begins a new window."""
        self._logits = []
        if not self._active:
            return
        newest = [self.pieces[i].ids[-1] for i in self._active]
        full = {}
        for row, piece in enumerate(self._active):
            if self._stepper.context is not None and len(self._windows[piece]) >= self._stepper.context:
                full[row] = self._windows[piece] = self._window(self.pieces[piece].ids)
            else:
                self._windows[piece].append(newest[row])
        if len(full) < len(self._active):
            for row in full:
                # Its step with the others comes to nothing, and must have room.
                self._stepper.start(row, full[row][:1])
            self._logits = list(self._stepper.step(newest))
        else:
            self._logits = [None] * len(self._active)
        for row, window in full.items():
            self._logits[row] = self._stepper.start(row, window)

    def _window(self, ids: list[int]) -> list[int]:
        """What the model is shown of a piece: all of it, or its header and its last bars."""
        context = self._stepper.context
        if context is None or len(ids) <= context * 3 // 4:
            return list(ids)
        lines = self._lines(ids)
        late = lines[lines >= len(ids) - context // 2]
        start = int(late[0]) if len(late) else len(ids) - context // 4
        opening = ids[: lines[0]] if len(lines) else []
        if self.layout is not None:
            opening = self.layout.reopen(ids, start)
        # A header longer than a quarter of what can be seen would leave no room for music.
        window = [*opening[: context // 4], *ids[start:]]
        return window if len(window) < context else ids[-(context // 2) :]

    def _lines(self, ids: list[int]) -> np.ndarray:
        """Where each bar begins, with the `Left` token before it: int64 (bars,)."""
        if self.layout is not None:
            return self.layout.bar_starts(ids)
        first = self.grammar.first[ids]
        return np.array([i for i in range(len(ids)) if _begins(first, i)], dtype=np.int64)


def _begins(first: Sequence[int], at: int) -> bool:
    """Whether an id is the first of a bar: its `Left` token, or a bar line that has none."""
    return first[at] == LEFT or (first[at] == BAR and not (at and first[at - 1] == LEFT))


def sample_pieces(
    model,
    grammar: Grammar,
    prompts: Sequence[Sequence[int]],
    bars: Sequence[int | None],
    options: SamplingOptions | None = None,
    *,
    progress: bool = False,
    stop: threading.Event | None = None,
    **settings,
) -> list[SampledPiece]:
    """Go on from prompts until each piece ends; the arguments are those of `Generation`.

    Args:
        progress: Show a bar of bars.
        stop: Set it to end the work at the next id.
    """
    return finish(Generation(model, grammar, prompts, bars, options, **settings), progress=progress, stop=stop)


def finish(work: Generation, *, progress: bool = False, stop: threading.Event | None = None) -> list[SampledPiece]:
    """Write a request to its end.

    Args:
        work: Under way or not begun.
        progress: Show a bar of bars.
        stop: Set it to end the work at the next id.
    """
    from tqdm.auto import tqdm

    total = sum(row.bars or 0 for row in work._rows)
    with tqdm(total=total or None, initial=work.bars, desc="bars", disable=not progress) as shown:
        while not work.done and not (stop is not None and stop.is_set()):
            work.step()
            if progress:
                shown.update(work.bars - shown.n)
    return work.pieces


def sample(model, grammar, prompts, bars, options=None, **settings) -> list[list[int]]:
    """`sample_pieces`, and of these the ids alone."""
    return [piece.ids for piece in sample_pieces(model, grammar, prompts, bars, options, **settings)]


def stream(work: Generation, *, stop: threading.Event | None = None) -> Iterator[SampledBar]:
    """Bars of new music as they are made; closing the iterator, or setting `stop`, ends the work at that id.

    A bar is finished when the next one begins or the piece ends; one that was cut off, by `stop` or by
    `max_tokens`, is never given out, so that what was given out is a whole piece at any time.

    Args:
        work: A request not begun; its pieces can be watched meanwhile.
        stop: Looked at before each id.
    """
    first = work.grammar.first
    begun: list[int | None] = [None] * len(work.pieces)  # where the bar under way begins; none in the prompt
    counts = [row.state.bars for row in work._rows]
    while not work.done and not (stop is not None and stop.is_set()):
        for i in work.step():
            piece, number = work.pieces[i], counts[i] - 1
            counts[i] = work._rows[i].state.bars
            end = len(piece.ids) - 1
            if not _begins(first[piece.ids[-2:]], 1) and not piece.ended:
                continue
            if begun[i] is not None:
                yield SampledBar(i, number, piece.ids[begun[i] : end], begun[i], piece.ended)
            begun[i] = end
