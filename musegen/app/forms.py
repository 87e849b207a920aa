"""What a person filled in, checked again on the server: a browser is not the only one who can send a form."""

from __future__ import annotations

import dataclasses
import math
import secrets
from typing import Any

from musegen.app.bounds import Bounds
from musegen.errors import RequestError
from musegen.sampling import SamplingOptions
from musegen.wishes import ANY as NO_COMPOSER
from musegen.wishes import Wishes

NOTHING, ONWARD, REWRITE = "From nothing", "On from a piece", "Some bars anew"
MODES = (NOTHING, ONWARD, REWRITE)
ANY = "Any"
OWN = "The model's own"  # composer
KEYS = tuple(
    f"{tonic} {mode}"
    for mode, tonics in (
        ("major", "C Db D Eb E F F# G Ab A Bb B".split()),
        ("minor", "C C# D Eb E F F# G G# A Bb B".split()),
    )
    for tonic in tonics
)
METRES = ("2/4", "3/4", "4/4", "3/8", "6/8", "9/8", "12/8", "5/4")
INSTRUMENTS = (
    "piano", "string quartet", "string trio", "piano trio", "violin", "flute", "clarinet quintet",
    "wind quintet", "string orchestra", "orchestra", "harpsichord", "church organ",
)  # fmt: skip
PLANS = {
    "As it comes": None,
    "Two parts: A A' B B'": "A A' B B'",
    "There and back: A B A": "A B A",
    "Song: A A' B A'": "A A' B A'",
    "Rondo: A B A C A": "A B A C A",
}
_LEAST_SECTION = 2  # bars
MOST_SURPRISE = 10
_LONGEST_TEXT = 120  # characters of any answer
_MOST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Form:
    """The answers, as they came; `checked` makes them usable.

    Args:
        mode: One of `MODES`.
        model: Name of a model.
        bars: New bars.
        plan: One of `PLANS`: which sections the piece has.
        key: Such as `D major`; None or `ANY` leaves it to the model, as in the next four.
        metre: Such as `3/4`.
        tempo: Quarter notes a minute.
        instruments: Names or an ensemble.
        composer: Whose style; None or `OWN` for the one that the model was tuned to.
        surprise: 0 to `MOST_SURPRISE`.
        seed: A whole number; None draws one.
        opening: Bars of the given piece that are kept and gone on from.
        first: First bar that is written anew.
        last: Last bar that is.
    """

    mode: Any = NOTHING
    model: Any = None
    bars: Any = 16
    plan: Any = None
    key: Any = None
    metre: Any = None
    tempo: Any = None
    instruments: Any = None
    composer: Any = None
    surprise: Any = 5
    seed: Any = None
    opening: Any = 8
    first: Any = 5
    last: Any = 8

    def checked(self, bounds: Bounds, models: list[str]) -> Asked:
        """The request that the form makes.

        Raises:
            RequestError: For an answer that is not allowed; says what is.
        """
        if self.mode not in MODES:
            raise RequestError(f"what to do: one of {', '.join(MODES)}")
        if self.model not in models:
            raise RequestError(f"model: one of {', '.join(models)}")
        tempo = _number(self.tempo, "tempo", 20, 300) if self.tempo not in (None, "", 0) else None
        seed = secrets.randbelow(10**6) if self.seed in (None, "") else _whole(self.seed, "seed", 0, _MOST_SEED)
        surprise = _number(self.surprise, "surprise", 0, MOST_SURPRISE)
        first = _whole(self.first, "first bar", 1, bounds.upload_bars) if self.mode == REWRITE else 1
        last = _whole(self.last, "last bar", 1, bounds.upload_bars) if self.mode == REWRITE else 1
        if not 0 <= last - first < bounds.gap_bars:
            raise RequestError(f"bars to write anew: from 1 to {bounds.gap_bars} bars, the first one first")
        if self.plan not in (None, *PLANS):
            raise RequestError(f"form: one of {', '.join(PLANS)}")
        return Asked(
            self.mode,
            self.model,
            _whole(self.bars, "bars", 1, bounds.bars) if self.mode != REWRITE else last - first + 1,
            Wishes(
                composer=NO_COMPOSER if self.composer == ANY else _text(self.composer, "composer"),
                key=_text(self.key, "key"),
                time_signature=_text(self.metre, "metre"),
                tempo=tempo,
                instruments=_text(self.instruments, "instruments"),
            ),
            surprise,
            seed,
            bounds.tokens,
            _whole(self.opening, "bars to keep", 1, bounds.opening_bars) if self.mode == ONWARD else 0,
            first,
            last,
            PLANS.get(self.plan) if self.mode != REWRITE else None,
        )


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request within all bounds; the fields are those of `Form`, and `tokens` is the most that are written."""

    mode: str
    model: str
    bars: int
    wishes: Wishes
    surprise: float
    seed: int
    tokens: int
    opening: int
    first: int
    last: int
    plan: str | None = None

    def form(self, kept: int) -> tuple[str | None, int]:
        """The form with the bars of its sections, all as long as they can be, and how many new bars it has.

        Args:
            kept: Bars of an opening, with which the first section begins.

        Raises:
            RequestError: If there are too few bars for it.
        """
        if self.plan is None:
            return None, self.bars
        letters = self.plan.split()
        each = (kept + self.bars) // len(letters)
        if each < max(kept, _LEAST_SECTION):
            need = len(letters) * max(kept, _LEAST_SECTION) - kept
            fewer = f", or keep fewer than {kept} bars" if kept > _LEAST_SECTION else ""
            raise RequestError(f"form: {self.plan} needs {need} new bars or more{fewer}")
        numbered = [letter if "'" in letter else f"{letter}{each}" for letter in letters]
        return " ".join(numbered), each * len(letters) - kept

    def options(self, model) -> SamplingOptions:
        """One slider for temperature and top_p: 5 is the model's own way, below it is safer, above it bolder."""
        own = SamplingOptions(seed=self.seed, max_tokens=self.tokens).filled(model)
        away = self.surprise - MOST_SURPRISE / 2
        return dataclasses.replace(
            own,
            temperature=round(own.temperature * (1 + 0.06 * away), 3),
            top_p=round(min(max(own.top_p + 0.01 * away, 0.01), max(own.top_p, 0.999)), 3),
        )


def surprise_words(surprise: float) -> str:
    """What a place of the slider means."""
    words = ("keeps to the likeliest notes", "careful", "as the music it learnt from", "bold", "takes risks")
    return words[min(int(surprise / MOST_SURPRISE * len(words)), len(words) - 1)]


def _number(value: Any, name: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not low <= number <= high:
        raise RequestError(f"{name}: a number from {low:g} to {high:g}")
    return number


def _whole(value: Any, name: str, low: int, high: int) -> int:
    number = _number(value, name, low, high)
    if number != int(number):
        raise RequestError(f"{name}: a whole number from {low} to {high}")
    return int(number)


def _text(value: Any, name: str) -> str | None:
    if value in (None, "", ANY, OWN):
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise RequestError(f"{name}: a few words, at most {_LONGEST_TEXT} letters")
    return value.strip() or None
