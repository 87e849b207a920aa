"""What a person may ask of a piece, and how it reaches the model: header tokens, the grammar, the score.

A wish is met in one of three ways. *By the grammar*: bars, time signature and instruments are exact whatever the model
thinks. *By the header*: composer and key are told to the model, which was trained on such headers; it follows as well
as it has learned. *By the score*: the tempo is written into it; the header tells the model of it too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import symusic

from musegen import controls as c
from musegen.errors import RequestError
from musegen.instruments import parse_instruments
from musegen.tokenizer import MusicTokenizer

ANY = "any"  # a composer that is left to the model, whatever its own wishes say
MAX_BARS = 2000  # in one piece; an hour of music in a quick metre
_TEMPO_RANGE = (20.0, 300.0)  # quarter notes a minute


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a piece is asked to be; None leaves it to the model.

    Args:
        composer: A name, or a part of one that is unique among those that the model knows; by default the one that
            the model was tuned to, `any` for none.
        key: Such as `D major`, `F# minor`, `Bb`, `e`.
        time_signature: Such as `3/4`; of the first bar, and of all bars where `steady_metre` is set.
        tempo: Quarter notes a minute, from 20 to 300.
        instruments: Names, ensembles or General MIDI programs (`musegen.instruments.parse_instruments`).
        steady_metre: Keep the metre of the first bar, as nearly all pieces do.

    Raises:
        RequestError: For what cannot be met; says what is allowed.
    """

    composer: str | None = None
    key: str | None = None
    time_signature: str | None = None
    tempo: float | None = None
    instruments: str | int | Sequence[str | int] | None = None
    steady_metre: bool = True

    def __post_init__(self):
        self.metre, self.programs, self.tonic  # noqa: B018 - read to be checked
        if self.tempo is not None:
            low, high = _TEMPO_RANGE
            if (
                isinstance(self.tempo, bool)
                or not isinstance(self.tempo, (int, float))
                or not low <= self.tempo <= high
            ):
                raise RequestError(f"tempo: from {low:g} to {high:g} quarter notes a minute, not {self.tempo!r}")

    @property
    def metre(self) -> tuple[int, int] | None:
        """Numerator and denominator."""
        if self.time_signature is None:
            return None
        found = re.fullmatch(r"\s*(\d{1,2})\s*/\s*(\d{1,2})\s*", str(self.time_signature))
        words = {"c": (4, 4), "common": (4, 4), "cut": (2, 2), "alla breve": (2, 2)}
        known = words.get(str(self.time_signature).strip().lower())
        if known or (found and int(found[1]) and int(found[2]) in (1, 2, 4, 8, 16)):
            return known or (int(found[1]), int(found[2]))
        raise RequestError(f"time_signature: write it as `3/4` or `6/8`, not {self.time_signature!r}")

    @property
    def programs(self) -> tuple[int, ...] | None:
        """General MIDI programs."""
        return None if self.instruments is None else parse_instruments(self.instruments)

    @property
    def tonic(self) -> tuple[int, bool] | None:
        """Pitch class of the tonic, and whether the key is minor."""
        return None if self.key is None else c.parse_key(self.key)

    @property
    def names_composer(self) -> bool:
        """Whether a composer is asked for."""
        return self.composer is not None and self.composer.strip().lower() != ANY

    def filled(self, model, tokenizer: MusicTokenizer) -> Wishes:
        """The same with what the model wishes by itself where a person says nothing: its composer.

        Args:
            model: Whose `config.task_specific_params["music-generation"]` may name a composer.
            tokenizer: Its tokenizer; a composer that it does not know is passed over.
        """
        own = c.task_params(model).get("composer")
        if self.composer is not None or own not in tokenizer.composers:
            return self
        return dataclasses.replace(self, composer=own)

    def header(self, tokenizer: MusicTokenizer, of_prompt: c.Controls | None = None) -> c.Controls:
        """The header: what is wished, else what the prompt says of itself.

        Args:
            tokenizer: Whose vocabulary limits what can be told.
            of_prompt: Of an opening that is given.

        Raises:
            RequestError: If the model has no tokens for a wish.
        """
        given = of_prompt or c.Controls()
        told = {"composer": self.composer if self.names_composer else None, "key": self.key}
        if not tokenizer.has_controls and any(value is not None for value in told.values()):
            names = " and ".join(name for name, value in told.items() if value is not None)
            raise RequestError(f"{names}: this model was made without control tokens and cannot be told")
        composer = given.composer
        if self.names_composer:
            composer = c.find_composer(self.composer, tokenizer.composers)
        programs = given.programs
        if self.programs is not None:
            programs = tuple(sorted({*self.programs, *given.programs}))
        return c.Controls(
            composer,
            given.key if self.key is None else self.tonic,
            given.tempo if self.tempo is None else float(self.tempo),
            programs if len(programs) <= c.MAX_PROGRAMS else (),
        )


def dress(score: symusic.Score, header: c.Controls) -> symusic.Score:
    """Write the key and the tempo of a header into the beginning of a score that has none of its own there."""
    if header.key is not None and not any(k.time == 0 for k in score.key_signatures):
        score.key_signatures.append(symusic.KeySignature(0, c.tonic_signature(header.key), int(header.key[1])))
        score.key_signatures.sort()
    if header.tempo is not None and not any(t.time == 0 for t in score.tempos):
        score.tempos.append(symusic.Tempo(0, float(header.tempo)))
        score.tempos.sort()
    return score


def set_tempo(score: symusic.Score, tempo: float) -> symusic.Score:
    """Make a tempo hold from the beginning; changes later in the piece keep their ratio to it."""
    if not len(score.tempos):
        score.tempos.append(symusic.Tempo(0, float(tempo)))
        return score
    ratio = float(tempo) / score.tempos[0].qpm
    score.tempos = type(score.tempos)([symusic.Tempo(t.time, t.qpm * ratio) for t in score.tempos])
    score.tempos[0].time = 0
    return score
