"""Writing a piece section by section (`musegen.forms`)."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import symusic

from musegen import grid as g
from musegen.errors import RequestError
from musegen.forms import Section
from musegen.generation import Generation, SampledBar, SampledPiece, stream
from musegen.id_tables import CLOSED
from musegen.layout import StreamLayout
from musegen.sampling import SamplingOptions
from musegen.splicing import note_log_probs
from musegen.wishes import MAX_BARS


class SectionWriter:
    """A request written section by section.

    The model writes each section knowing all that came before it, and how many bars the piece still has. It decides
    when the last bar of a section is full, and no note rings into the next one.

    Args:
        model: A causal language model.
        request: Openings and wishes, as `musegen.composing` lays them out.
        sections: From the first bar to the last.
        options: How to draw.
        keys: Names of each piece's randomness; those of its sections follow.

    Raises:
        RequestError: If the piece would be too long, or an opening is longer than the first section.
    """

    def __init__(
        self,
        model,
        request: Any,
        sections: tuple[Section, ...],
        options: SamplingOptions | None,
        keys: Sequence[Sequence[int]] | None,
    ):
        self.model, self.request, self.sections = model, request, sections
        self.tokenizer, self.layout = request.tokenizer, StreamLayout(request.tokenizer)
        self.total = sections[-1].first_bar - 1 + sections[-1].bars
        if self.total > MAX_BARS:
            raise RequestError(f"form: {self.total} bars; a piece has at most {MAX_BARS}")
        if max(request.given) > sections[0].bars:
            raise RequestError(
                f"form: an opening of {max(request.given)} bars, where the first section has {sections[0].bars}; "
                f"keep fewer (prompt_bars), or write {sections[0].name}{max(request.given)}"
            )
        self.options = options or SamplingOptions()
        count = len(request.ids)
        self.keys = [(self.options.seed, i) for i in range(count)] if keys is None else [tuple(key) for key in keys]
        if len(self.keys) != count:
            raise RequestError(f"{count} prompts and {len(self.keys)} keys: one each")
        # Of each piece: what stands before its first bar, its bars, and those of its sections by name.
        self.heads = [self.tokenizer.header_ids(header) for header in request.headers]
        self.bars = [list(bars) for bars in request.bars]
        self.known: list[dict[str, list]] = [{} for _ in range(count)]
        self.nats: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.whole = [True] * count

    def write(self, progress: bool = False) -> list[Any]:
        """All sections, one after the other."""
        from tqdm.auto import tqdm

        with tqdm(total=self.total * len(self.bars), desc="bars", disable=not progress) as shown:
            for _ in self.stream():
                shown.update()
        return self.finish()

    def stream(self, stop: threading.Event | None = None) -> Iterator[SampledBar]:
        """All bars but those of openings, each when it is finished; what returns comes at once.

        Args:
            stop: Set it to end the work at the next id.
        """
        for number, section in enumerate(self.sections):
            pieces = [i for i, whole in enumerate(self.whole) if whole]
            for i in pieces:
                taken = self.known[i][section.source][: section.kept] if section.kept else []
                for bar in taken:
                    self.bars[i].append(bar)
                    yield self._bar(i, len(self.bars[i]) - 1, bar)
            end = section.first_bar - 1 + section.bars
            writing = [i for i in pieces if len(self.bars[i]) < end]
            if writing:
                yield from self._write(writing, number, end, stop)
            for i in pieces:
                self.known[i][section.name] = self.bars[i][section.first_bar - 1 :]

    def finish(self) -> list[Any]:
        """The pieces as far as they have come."""
        return [self._finish(i) for i in range(len(self.bars))]

    def _bar(self, piece: int, number: int, ids: list[int]) -> SampledBar:
        return SampledBar(piece, number, ids, -1, number + 1 == self.total)

    def _write(self, pieces: list[int], number: int, end: int, stop: threading.Event | None) -> Iterator[SampledBar]:
        """The bars up to `end`."""
        grammar, ids, states = self.request.grammar, [], []
        for i in pieces:
            ids.append(self.tokenizer.stream(self.bars[i], self.heads[i], total=self.total, eos=False))
            state = dataclasses.replace(grammar.read(ids[-1]), total=self.total)
            states.append(dataclasses.replace(state, kind=CLOSED) if self.bars[i] else state)
        work = Generation(
            self.model, grammar, ids, [end] * len(pieces), self.options, states=states,
            keys=[(*self.keys[i], number) for i in pieces], layout=self.layout,
        )  # fmt: skip
        for bar in stream(work, stop=stop):
            yield self._bar(pieces[bar.piece], bar.number, bar.ids)
        for i, piece in zip(pieces, work.pieces):
            if not self.bars[i]:  # the model may have said more of the piece than it was told
                self.heads[i] = self.layout.header(piece.ids)
            new = piece.ids[piece.prompt_length :]
            marks = {self.tokenizer.eos_token_id, *np.flatnonzero(self.layout.left).tolist()}
            bars = self.tokenizer.merge_bars(self.tokenizer.split([t for t in self._music(piece) if t not in marks]))
            self.bars[i] += bars
            self.nats[i].append(note_log_probs(self.tokenizer, new, piece.log_probs))
            self.whole[i] = piece.ended and len(self.bars[i]) == end

    def _music(self, piece: SampledPiece) -> list[int]:
        """What a piece got, from its first new bar on."""
        starts = self.layout.bar_starts(piece.ids)
        starts = starts[starts >= piece.prompt_length]
        return piece.ids[int(starts[0]) :] if len(starts) else []

    def _finish(self, i: int) -> Any:
        ids = self.tokenizer.stream(self.bars[i], self.heads[i], total=self.total)
        nats = self.nats[i] or [np.empty(0)]
        sections = tuple(section for section in self.sections if section.first_bar <= len(self.bars[i]))
        piece = self.request.finish(i, SampledPiece(ids, len(ids), ended=self.whole[i]))
        starts = g.bar_grid(piece.score).starts
        for section in sections:
            if section.first_bar <= len(starts):
                piece.score.markers.append(symusic.TextMeta(int(starts[section.first_bar - 1]), section.name))
        return dataclasses.replace(piece, note_log_probs=np.concatenate(nats), sections=sections)
