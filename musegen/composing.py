"""Composing: from nothing, on from an opening, into a gap, or around notes that stay.

What a person gives is never altered: of an opening, of the bars around a gap and of the parts that stay, the score
that comes back has the very notes that went in. Bars are numbered from 1, as in printed music, wherever a person names
them.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import symusic

from musegen import grid as g
from musegen.blocks import infill_ids
from musegen.controls import Controls, controls_of
from musegen.errors import RequestError
from musegen.forming import SectionWriter
from musegen.forms import Section, parse_form
from musegen.generation import Generation, SampledPiece, sample_pieces, stream
from musegen.grammar import Grammar
from musegen.inference import Gpt2Weights
from musegen.keeping import KeepingGrammar
from musegen.layout import StreamLayout
from musegen.likelihood import context_of
from musegen.sampling import SamplingOptions
from musegen.scores import canonical_score, midi_bytes
from musegen.shipped import shipped_folder
from musegen.splicing import note_log_probs, only_programs, splice
from musegen.tokenizer import MusicTokenizer, load_tokenizer
from musegen.wishes import MAX_BARS, Wishes, dress, set_tempo

MAX_GAP = 64  # bars; models are trained on gaps of a phrase or two


@dataclasses.dataclass(frozen=True)
class Composition:
    """A piece that a model wrote, or wrote on.

    Args:
        score: Canonical, with all that was given.
        input_ids: Of the whole piece as the model has it, BOS first, EOS last if it ended.
        prompt_bars: Bars of an opening that was given.
        ended: Whether it came to its end, by itself or by the bar budget.
        note_log_probs: Nats of each new note, in the order in which they were written: float64 (new notes,). What
            leads up to a note (bar line, position, program) counts with it.
        header: What the model was told, or said itself.
        sections: Of the form that was asked for.
    """

    score: symusic.Score
    input_ids: list[int]
    prompt_bars: int
    ended: bool
    note_log_probs: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    header: Controls = dataclasses.field(default_factory=Controls)
    sections: tuple[Section, ...] = ()

    @property
    def midi(self) -> bytes:
        """A MIDI file."""
        return midi_bytes(self.score)


@dataclasses.dataclass(frozen=True)
class ComposedBar:
    """A bar that is finished, while the piece is still being written.

    Args:
        piece: Number of the piece in the request, from 0.
        number: Of the bar in the piece, from 1, bars of an opening counted.
        score: The bar alone, from tick 0, its notes cut at its end.
        ended: Whether the piece ends with it.
    """

    piece: int
    number: int
    score: symusic.Score
    ended: bool


def load_model(name: str | Path):
    """A model and its tokenizer from one folder, a name that ships with the package, or the Hub.

    Raises:
        ModelError: If there is no such model.
        TokenizerError: If no music tokenizer lies beside it.
    """
    from musegen.models import load_causal_lm

    model = load_causal_lm(name)
    tokenizer = load_tokenizer(model.config._name_or_path or name)
    return model, tokenizer


def load_writer(name: str | Path):
    """As `load_model`, but where it can be done the weights alone: for writing music, and quick to start.

    Raises:
        ModelError: If there is no such model.
        TokenizerError: If no music tokenizer lies beside it.
    """
    folder = shipped_folder(name) or Path(name)
    weights = Gpt2Weights.read(folder) if folder.is_dir() else None
    if weights is not None:
        return weights, load_tokenizer(folder)
    return load_model(name)


def compose(
    model,
    tokenizer: MusicTokenizer,
    prompts: symusic.Score | Sequence[symusic.Score | None] | None = None,
    *,
    bars: int | None = 16,
    prompt_bars: int | None = None,
    wishes: Wishes | None = None,
    options: SamplingOptions | None = None,
    keys: Sequence[Sequence[int]] | None = None,
    form: str | None = None,
    progress: bool = False,
) -> list[Composition]:
    """Write music, from nothing or on from given openings.

    Args:
        model: A causal language model over the tokenizer's ids.
        tokenizer: Its tokenizer.
        prompts: One opening, or one for each piece; None begins from nothing. A list of n gives n pieces.
        bars: New bars to write; None lets the model end the piece.
        prompt_bars: How many bars of the opening to keep; None for all.
        wishes: What the piece is to be.
        options: How to draw.
        keys: Names of each piece's randomness (`musegen.generation.Generation`).
        form: Sections, of which some return (`musegen.forms.parse_form`); they say how many bars the piece has, and
            `bars` does not count. An opening is the beginning of the first.
        progress: Show a bar.

    Raises:
        RequestError: For a request that cannot be met; says what is allowed.
    """
    wishes = (wishes or Wishes()).filled(model, tokenizer)
    if form is not None:
        request = _Request(tokenizer, prompts, None, prompt_bars, wishes)
        return SectionWriter(model, request, parse_form(form), options, keys).write(progress)
    request = _Request(tokenizer, prompts, bars, prompt_bars, wishes)
    written = sample_pieces(
        model, request.grammar, request.ids, request.budgets, options, keys=keys,
        layout=StreamLayout(tokenizer), progress=progress,
    )  # fmt: skip
    return [request.finish(i, piece) for i, piece in enumerate(written)]


def compose_bars(
    model,
    tokenizer: MusicTokenizer,
    prompts: symusic.Score | Sequence[symusic.Score | None] | None = None,
    *,
    bars: int | None = 16,
    prompt_bars: int | None = None,
    wishes: Wishes | None = None,
    options: SamplingOptions | None = None,
    form: str | None = None,
    stop: threading.Event | None = None,
    finish: Callable[[list[Composition]], None] | None = None,
) -> Iterator[ComposedBar]:
    """Yield finished bars as they are made; the arguments are those of `compose`.

    Args:
        stop: Set it, or close the iterator, to end the work at the next id.
        finish: Called at the end, stopped or not, with the pieces as far as they have come.
    """
    wishes = (wishes or Wishes()).filled(model, tokenizer)
    request = _Request(tokenizer, prompts, None if form is not None else bars, prompt_bars, wishes)
    if form is not None:
        writer = SectionWriter(model, request, parse_form(form), options, None)
        made, pieces = writer.stream(stop), writer.finish
    else:
        work = Generation(
            model, request.grammar, request.ids, request.budgets, options, layout=StreamLayout(tokenizer)
        )
        made = stream(work, stop=stop)

        def pieces() -> list[Composition]:
            return [request.finish(i, piece) for i, piece in enumerate(work.pieces)]

    try:
        for bar in made:
            score = tokenizer.decode_score(bar.ids)
            yield ComposedBar(bar.piece, bar.number + 1, score, bar.ended)
    finally:
        if finish is not None:
            finish(pieces())


class _Request:
    """Openings and wishes as the decoding loop takes them."""

    def __init__(self, tokenizer: MusicTokenizer, prompts, bars: int | None, prompt_bars: int | None, wishes: Wishes):
        if bars is not None and (isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= MAX_BARS):
            raise RequestError(f"bars: from 1 to {MAX_BARS}, not {bars}")
        if prompt_bars is not None and prompt_bars < 1:
            raise RequestError(f"prompt_bars: 1 or more, not {prompt_bars}")
        if not isinstance(prompts, (list, tuple)):
            prompts = [prompts]
        self.tokenizer, self.wishes = tokenizer, wishes
        self.prompts = [_canonical(prompt, prompt_bars) for prompt in prompts]
        self.headers = [wishes.header(tokenizer, p and controls_of(p)) for p in self.prompts]
        programs = wishes.programs
        if programs is not None:
            programs = {*programs, *(i for header, p in zip(self.headers, self.prompts) if p for i in header.programs)}
        self.grammar = Grammar(
            tokenizer,
            programs,
            steady_metre=wishes.steady_metre,
            metre=wishes.metre,
            asked=wishes.programs or (),
            key=wishes.tonic,
        )
        self.given, self.bars, self.ids, self.budgets = [], [], [], []
        for prompt, header in zip(self.prompts, self.headers):
            self._lay(prompt, header, bars)

    def _lay(self, prompt: symusic.Score | None, header: Controls, bars: int | None) -> None:
        own = [] if prompt is None else self.tokenizer.merge_bars(self.tokenizer.base_ids(prompt))
        if len(own) > MAX_BARS:
            raise RequestError(f"a prompt of {len(own)} bars; at most {MAX_BARS} are read, or set prompt_bars")
        total = None if bars is None else len(own) + bars
        head = self.tokenizer.header_ids(header)
        # How long the piece will be is not known where the model is to end it: it says so at the next bar.
        ids = self.tokenizer.stream(own, head, total=total, eos=False, left=total is not None)
        self.given.append(len(own))
        self.bars.append(own)
        self.ids.append(ids)
        self.budgets.append(total)

    def finish(self, i: int, piece: SampledPiece) -> Composition:
        """A piece as the person gets it."""
        header = self.tokenizer.controls_in(piece.ids[1:])
        score = self.tokenizer.decode_score(piece.ids)
        prompt = self.prompts[i]
        if prompt is not None:
            end = int(g.bar_grid(prompt).starts[self.given[i]])
            score = splice(prompt, score, end, g.last_end(score) + 1)
        if self.wishes.tempo is not None:
            set_tempo(score, self.wishes.tempo)
        nats = note_log_probs(self.tokenizer, piece.ids[piece.prompt_length :], piece.log_probs)
        return Composition(dress(score, header), piece.ids, self.given[i], piece.ended, nats, header)


def infill(
    model,
    tokenizer: MusicTokenizer,
    score: symusic.Score,
    first_bar: int,
    last_bar: int,
    *,
    num: int = 1,
    wishes: Wishes | None = None,
    options: SamplingOptions | None = None,
    progress: bool = False,
    stop: threading.Event | None = None,
) -> list[Composition]:
    """Write some bars of a piece anew, knowing what comes before and after them.

    Args:
        model: A model trained with `infill` (`musegen.training_config`).
        tokenizer: Its tokenizer, with control tokens.
        score: The piece.
        first_bar: First bar to write, from 1.
        last_bar: Last bar to write.
        num: How many versions.
        wishes: Composer, key and instruments; by default what the piece says of itself.
        options: How to draw.
        progress: Show a bar.
        stop: Set it to end the work at the next id; what is not whole then comes back as it was.

    Raises:
        RequestError: For bars that are not there, or whose metre changes; says what is allowed.
    """
    if not tokenizer.has_controls:
        raise RequestError("infill: this model was made without control tokens and cannot look ahead")
    score = _canonical(score, None)
    bars = tokenizer.merge_bars(tokenizer.base_ids(score))
    if not 1 <= first_bar <= last_bar <= len(bars) or last_bar - first_bar >= MAX_GAP:
        raise RequestError(
            f"bars {first_bar} to {last_bar}: the piece has bars 1 to {len(bars)}, "
            f"and at most {MAX_GAP} are written at once"
        )
    start, end = first_bar - 1, last_bar
    grid = g.bar_grid(score)
    metres = {(int(n), int(d)) for n, d in zip(grid.numerators[start:end], grid.denominators[start:end])}
    if len(metres) > 1:
        raise RequestError(f"bars {first_bar} to {last_bar}: the metre changes among them; write them in two steps")
    wishes = (wishes or Wishes()).filled(model, tokenizer)
    header = wishes.header(tokenizer, controls_of(score))
    head = tokenizer.header_ids(header)
    grammar = Grammar(tokenizer, header.programs or None, steady_metre=True, metre=metres.pop(), key=wishes.tonic)
    low, high = _surroundings(bars, start, end, context_of(model), len(head))
    ids = infill_ids(tokenizer, bars, head, start, end, first=low, stop=high, filled=False)
    state = dataclasses.replace(grammar.read(ids), total=len(bars) - start, metre=-1)
    written = sample_pieces(
        model, grammar, [ids] * num, [end - start] * num, options, states=[state] * num,
        layout=StreamLayout(tokenizer), progress=progress, stop=stop,
    )  # fmt: skip
    return [_filled(tokenizer, score, bars, head, piece, start, end) for piece in written]


def _filled(tokenizer, score, bars, head, piece: SampledPiece, start: int, end: int) -> Composition:
    """The whole piece with the new bars in their place."""
    layout = StreamLayout(tokenizer)
    new = piece.ids[piece.prompt_length :]
    marks = {tokenizer.eos_token_id, *np.flatnonzero(layout.left).tolist()}
    own = tokenizer.split([i for i in new if i not in marks])
    filled = tokenizer.merge_bars(own)
    whole = [*bars[:start], *filled, *bars[end:]] if len(filled) == end - start else bars
    ids = tokenizer.stream(whole, head)
    starts = g.bar_grid(score).starts
    result = splice(score, tokenizer.decode_score(ids), int(starts[start]), int(starts[end]))
    nats = note_log_probs(tokenizer, new, piece.log_probs)
    return Composition(result, ids, 0, piece.ended, nats, tokenizer.controls_in(ids[1:]))


def _surroundings(
    bars: Sequence[Sequence[int]], start: int, end: int, context: int | None, header: int
) -> tuple[int, int]:
    """First and last bar, exclusive, that a model is shown around a gap: as near and as many as there is room for."""
    low, high = start, end
    if context is None:
        return 0, len(bars)
    sizes = [len(bar) + 1 for bar in bars]
    room = context - header - 8 - int(1.5 * max(sum(sizes[start:end]), (end - start) * np.mean(sizes)))
    while True:
        if low > 0 and sizes[low - 1] <= room:  # what comes before first
            low, room = low - 1, room - sizes[low - 1]
        if high < len(bars) and sizes[high] <= room:
            room, high = room - sizes[high], high + 1
            continue
        if low == 0 or sizes[low - 1] > room:
            return low, high


def vary(
    model,
    tokenizer: MusicTokenizer,
    score: symusic.Score,
    keep: str | int | Sequence[str | int],
    *,
    num: int = 1,
    wishes: Wishes | None = None,
    options: SamplingOptions | None = None,
    progress: bool = False,
) -> list[Composition]:
    """Keep some instruments of a piece note for note and write the others anew.

    Args:
        model: A causal language model over the tokenizer's ids.
        tokenizer: Its tokenizer.
        score: The piece.
        keep: Instruments that stay (`musegen.instruments.parse_instruments`).
        num: How many versions.
        wishes: Composer and key to tell the model; `instruments` are those to write, by default the piece's own.
        options: How to draw.
        progress: Show a bar.

    Raises:
        RequestError: If the piece has none of these instruments, or no other is to be written.
    """
    from musegen.instruments import parse_instruments, program_name

    wishes = (wishes or Wishes()).filled(model, tokenizer)
    score = _canonical(score, None)
    present = {int(p) for p in g.note_array(score)["program"]}
    kept = set(parse_instruments(keep)) & present
    names = ", ".join(program_name(max(p, 0), p < 0) for p in sorted(present))
    if not kept:
        raise RequestError(f"keep: the piece has {names}, and none of {keep!r}")
    others = set(wishes.programs or present) - kept
    if not others:
        raise RequestError(f"keep: nothing is left to write; the piece has {names}. Name other instruments")
    header = dataclasses.replace(wishes.header(tokenizer, controls_of(score)), programs=tuple(sorted(kept | others)))
    base = tokenizer.base_ids(score)
    grammar = KeepingGrammar(tokenizer, base, kept, others)
    opening = [tokenizer.bos_token_id, *tokenizer.header_ids(header)]
    total = len(grammar.bars)
    written = sample_pieces(
        model, grammar, [opening] * num, [total] * num, options, layout=StreamLayout(tokenizer), progress=progress
    )
    stays = only_programs(score, kept)
    compositions = []
    for piece in written:
        new = only_programs(tokenizer.decode_score(piece.ids), others)
        whole = splice(stays, new, 0, int(g.bar_grid(score).starts[-1]), replace=False)
        nats = note_log_probs(tokenizer, piece.ids[piece.prompt_length :], piece.log_probs, others)
        compositions.append(Composition(dress(whole, header), piece.ids, 0, piece.ended, nats, header))
    return compositions


def _canonical(score: symusic.Score | None, bars: int | None) -> symusic.Score | None:
    if score is None:
        return None
    if score.ticks_per_quarter != g.TICKS_PER_QUARTER:
        score = canonical_score(score, "prompt").score
    if not any(len(track.notes) for track in score.tracks):
        raise RequestError("a prompt without a note; give none, or one with music in it")
    return score if bars is None else g.slice_bars(score, 0, bars)
