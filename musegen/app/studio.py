"""From a form to music, step by step: what the page does, without the page.

Each step is a `View`, of which the page shows what is new. Everything that a person can do wrong is a `MusegenError`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from musegen import grid as g
from musegen.app import views
from musegen.app.bounds import Bounds
from musegen.app.forms import NOTHING, REWRITE, Asked, Form
from musegen.app.reading import Hands
from musegen.app.roll import Roll
from musegen.app.sessions import Running, Sessions
from musegen.app.yardstick import RealYardstick
from musegen.composing import Composition, compose_bars, infill, load_writer
from musegen.errors import ConfigError, MusegenError, RequestError
from musegen.instruments import printed_name, score_position
from musegen.judging.pieces import cut_bars
from musegen.scores import parse_midi
from musegen.shipped import shipped_names

_LOG = logging.getLogger(__name__)
_FRAME_SECONDS = 0.2  # between drawings of a growing piano roll
_TICK_SECONDS = 0.25  # between looks at work that runs beside


@dataclasses.dataclass(frozen=True)
class Given:
    """A file that a person gave, read.

    Args:
        name: Without its folder.
        midi: Canonical.
        bars: In it.
        about: What is in it, as HTML.
    """

    name: str
    midi: bytes
    bars: int
    about: str


@dataclasses.dataclass(frozen=True)
class View:
    """What is new on the page; None leaves what was there."""

    status: str | None = None
    roll: str | None = None
    music: str | None = None
    judgement: str | None = None


Steps = Generator[View, None, int]  # and in the end how many bars the piece has


class Studio:
    """Models, workers and real music: what all people share.

    Args:
        models: Folders or Hub names, beside those that come with the package.
        corpus: To judge against.
        bounds: Of each request.

    Raises:
        ConfigError: If there is no model.
        ModelError: If one is none.
    """

    def __init__(self, models: Sequence[str] = (), *, corpus: str | Path | None = None, bounds: Bounds | None = None):
        self.bounds = bounds or Bounds()
        self._places = _named([*map(str, models), *shipped_names()])
        if not self._places:
            raise ConfigError("no model comes with this package: name one with --model")
        self._writers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.composers = sorted({name for model in self.models for name in self._writer(model)[1].composers})
        self.hands, self.sessions = Hands(self.bounds), Sessions()
        self.yardstick = RealYardstick(corpus)

    @property
    def models(self) -> list[str]:
        """Names among which a person chooses."""
        return list(self._places)

    def _writer(self, name: str):
        with self._lock:
            if name not in self._writers:
                self._writers[name] = load_writer(self._places[name])
            return self._writers[name]

    def read(self, name: str, data: bytes) -> Given:
        """A file that was given.

        Args:
            name: As the person calls it.
            data: Its content.

        Raises:
            ScoreError: If it cannot be used.
            RequestError: If it is too large.
        """
        name = "".join(c for c in PurePosixPath(name.replace("\\", "/")).name if c.isprintable())[-80:] or "score"
        if len(data) > self.bounds.upload_bytes:
            raise RequestError(f"{name}: larger than {self.bounds.upload_bytes >> 20} MB")
        found = self.hands.read(name, data)
        score = parse_midi(found["midi"], name).score
        notes = g.note_array(score)
        programs = sorted({int(p) for p in notes["program"]}, key=lambda p: score_position(max(p, 0), p < 0))
        instruments = ", ".join(printed_name(max(p, 0), p < 0)[0] for p in programs[:6])
        bars = len(g.bar_grid(score))
        about = views.described(
            name, bars, len(notes), instruments + (" and more" * (len(programs) > 6)), found["title"]
        )
        return Given(name, found["midi"], bars, about)

    def write(self, form: Form, given: Given | None, session: str) -> Iterator[View]:
        """Compose, draw and judge; the steps as they come.

        Args:
            form: What is asked.
            given: What is gone on from, or written into.
            session: Whose it is.

        Raises:
            MusegenError: For what cannot be done; says why.
        """
        asked = form.checked(self.bounds, self.models)
        if asked.mode != NOTHING and given is None:
            raise RequestError("this needs a piece: drop a MIDI or MusicXML file first")
        with self.sessions.composing(session, self.bounds.compose_seconds) as running:
            yield View(views.status("Opening the model"), "", "", "")
            made: list[Composition] = []
            if asked.mode == REWRITE:
                bars = yield from self._rewrite(asked, given, running, made)
            else:
                bars = yield from self._compose(asked, given if asked.mode != NOTHING else None, running, made)
            yield from self._finish(asked, made[0], bars, running)

    def _compose(self, asked: Asked, given: Given | None, running: Running, made: list) -> Steps:
        model, tokenizer = self._writer(asked.model)
        opening, kept = None, 0
        if given is not None:
            whole = parse_midi(given.midi, given.name).score
            kept = min(asked.opening, given.bars)
            opening = cut_bars(whole, 0, kept)
        form, count = asked.form(kept)
        roll = Roll(kept + count, kept)
        if opening is not None:
            roll.add(opening)
        yield View(views.status(f"Composing {count} bars", 0, count), roll.svg())
        bars = compose_bars(
            model, tokenizer, opening, bars=count, form=form, wishes=asked.wishes, options=asked.options(model),
            stop=running.stop, finish=made.extend,
        )  # fmt: skip
        shown = time.monotonic()
        written = 0
        for bar in bars:
            roll.add(bar.score)
            written += 1
            if time.monotonic() - shown > _FRAME_SECONDS:
                shown = time.monotonic()
                yield View(views.status(f"Bar {written} of {count}", written, count), roll.svg())
        if not written:
            raise RequestError("stopped before the first bar was whole" + _why(running))
        # Of a piece that was stopped, the bar under way is left out as it is on the screen.
        if not made[0].ended:
            made[0] = dataclasses.replace(made[0], score=cut_bars(made[0].score, 0, kept + written))
        roll.total = roll.bars
        yield View(views.status("Engraving and playing", written, count), roll.svg())
        return roll.bars

    def _rewrite(self, asked: Asked, given: Given, running: Running, made: list) -> Steps:
        model, tokenizer = self._writer(asked.model)
        score = parse_midi(given.midi, given.name).score
        what = f"bars {asked.first} to {asked.last}"

        def fill() -> list[Composition]:
            return infill(
                model, tokenizer, score, asked.first, asked.last, wishes=asked.wishes, options=asked.options(model),
                stop=running.stop,
            )  # fmt: skip

        roll = Roll(given.bars, fresh=(asked.first, asked.last))
        roll.add(score)
        yield View(views.status(f"Writing {what} anew"), roll.svg())
        for found in _beside(fill, running):
            if found is None:
                yield View()
            else:
                made.extend(found)
        if not made[0].ended:
            raise RequestError(f"stopped before {what} were whole; nothing was changed" + _why(running))
        roll = Roll(given.bars, fresh=(asked.first, asked.last))
        roll.add(made[0].score)
        yield View(views.status("Engraving and playing"), roll.svg())
        return given.bars

    def _finish(self, asked: Asked, piece: Composition, bars: int, running: Running) -> Iterator[View]:
        """Drawings, sound and judgement of a piece of so many bars, of which the last may be silent."""
        stem = f"{asked.model}-{asked.seed}"
        try:
            drawn = self.hands.draw(piece.midi, f"{asked.model}, seed {asked.seed}")
            music = views.music(drawn, piece.midi, stem)
        except MusegenError as error:  # the piece is there all the same
            music = views.only_midi(piece.midi, stem, f"Neither engraved nor played: {error}.")
        cut = " The time was up: this is what there was." if running.late else ""
        stopped = " Stopped: this is what there was." if running.stop.is_set() and not running.late else ""
        text = f"Done: {bars} bars by {asked.model}, seed {asked.seed}.{cut}{stopped}"
        yield View(
            views.status(text), music=music,
            judgement=views.note("Measuring it against real music; the first time this takes a minute."),
        )  # fmt: skip
        first, new = piece.prompt_bars, bars - piece.prompt_bars
        if asked.mode == REWRITE:
            first, new = asked.first - 1, asked.bars
        try:
            until = time.monotonic() + self.bounds.judge_seconds
            while (found := self.yardstick.judge(piece.score, first, new, seconds=1.0)) is None:
                if time.monotonic() > until:
                    break
                yield View()  # where a person who has left is noticed
        except MusegenError as error:
            yield View(judgement=views.note(f"Not judged: {error}."))
            return
        except Exception:
            _LOG.exception("a piece could not be judged")
            yield View(judgement=views.note("Not judged: something went wrong on our side."))
            return
        late = "The real music is still being measured. Compose again in a minute, and it will be compared."
        yield View(judgement=views.note(late) if found is None else views.judgement(found))

    def close(self) -> None:
        """End the worker processes."""
        self.yardstick.close()
        self.hands.close()


def _beside(function: Callable[[], Any], running: Running) -> Iterator[Any]:
    """Run a function in a thread; yields None while it runs, then what it returned."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(function)
        try:
            while not future.done():
                time.sleep(_TICK_SECONDS)
                yield None
        except GeneratorExit:
            running.stop.set()
            raise
        yield future.result()


def _why(running: Running) -> str:
    return "; the time was up: ask for fewer bars" if running.late else ""


def _named(places: Sequence[str]) -> dict[str, str]:
    """Models by names without folders, which are nobody's business, told apart where they are alike."""
    named: dict[str, str] = {}
    for place in places:
        short = Path(place).name or place
        name, number = short, 2
        while name in named and named[name] != place:
            name, number = f"{short} ({number})", number + 1
        named[name] = place
    return named
