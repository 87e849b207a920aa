"""Control tokens: what a piece says of itself before its first bar, and how many bars are left before each bar.

A piece is written as BOS, a header, bars, EOS. The header may name the composer, the key, the tempo and the
instruments, in this order; each may be missing, which means "any". Before a bar a `Left` token says how many bars
are left, this one included: one by one over the last 15, in steps before, and only where the step changes. A model
that reads it knows whether to begin, to develop or to end; a person who sets it says how long the piece shall be.

A window that begins inside a piece has CNT in the place of BOS, with the same header. A gap to be filled is written
`... GAP (bars after the gap) SEP (bars of the gap) EOS`: fill-in-the-middle (Bavarian et al. 2022,
https://arxiv.org/abs/2207.14255), at bar lines.

Composer and key are tokens of their own; tempo and instruments are REMI's `Tempo` and `Program`. This module knows
names and meanings; ids are `musegen.tokenizer`'s. Units: bars; tempo in quarter notes a minute.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import symusic

from musegen import grid as g
from musegen.errors import RequestError
from musegen.tonality import estimate_key

# The pipeline's; under it `task_specific_params` of a model's configuration names the composer that it was tuned to,
# and how much it is held against standing still.
TASK = "music-generation"
CONTINUED, GAP = "CNT", "GAP"
# Bars left, by the lowest number that a token stands for: exact up to 15, then in steps of about a fifth.
LEFT_STEPS = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
MAX_PROGRAMS = 24  # in a header; a piece with more names none
TONICS = {
    False: ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    True: ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
_MODES = {False: "major", True: "minor"}
_KEY = re.compile(r"^\s*([A-Ga-g])\s*([#♯b♭]?|sharp|flat|is|es|s)\s*((?i:major|minor|maj|min|dur|moll)|m|M)?\s*$")
_STEP = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclasses.dataclass(frozen=True)
class Controls:
    """What a header says. None and () mean that it says nothing of it.

    Args:
        composer: As `composer_slug` writes it.
        key: Pitch class of the tonic, and whether the key is minor.
        tempo: Quarter notes a minute at the beginning.
        programs: General MIDI programs that play, ascending; -1 for drums.
    """

    composer: str | None = None
    key: tuple[int, bool] | None = None
    tempo: float | None = None
    programs: tuple[int, ...] = ()

    def transposed(self, semitones: int) -> Controls:
        """The header of the same piece in another key."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=((self.key[0] + semitones) % 12, self.key[1]))

    def kept(self, keep: Sequence[bool]) -> Controls:
        """Only composer, key, tempo and programs for which `keep` says so: models learn to do without the others."""
        composer, key, tempo, programs = keep
        return Controls(
            self.composer if composer else None,
            self.key if key else None,
            self.tempo if tempo else None,
            self.programs if programs else (),
        )


def controls_of(score: symusic.Score, composer: str = "") -> Controls:
    """The header of a canonical score.

    The key is that of its first key signature where it stands at the beginning, else estimated from its notes.

    Args:
        score: A canonical score.
        composer: A person's name; empty if unknown.
    """
    notes = g.note_array(score)
    pitched = notes[notes["program"] != g.DRUMS]
    programs = tuple(sorted({int(p) for p in notes["program"]}))
    first = min(score.key_signatures, key=lambda k: k.time, default=None)
    if first is not None and first.time == 0:
        key = (signature_tonic(int(first.key), bool(first.tonality)), bool(first.tonality))
    elif len(pitched):
        sharps, minor = estimate_key(pitched["pitch"] % 12, pitched["duration"].astype(float))
        key = (signature_tonic(sharps, minor), minor)
    else:
        key = None
    tempo = min(score.tempos, key=lambda t: t.time, default=None)
    return Controls(
        composer_slug(composer) or None,
        key,
        None if tempo is None else float(tempo.qpm),
        programs if len(programs) <= MAX_PROGRAMS else (),
    )


def signature_tonic(sharps: int, minor: bool) -> int:
    """Pitch class of the tonic of a key signature; negative for flats."""
    return (sharps * 7 + (9 if minor else 0)) % 12


def tonic_signature(key: tuple[int, bool]) -> int:
    """Sharps of the key signature of a key, -5 to 6; negative for flats. The inverse of `signature_tonic`."""
    return ((key[0] + (3 if key[1] else 0)) * 7 + 5) % 12 - 5


def key_name(key: tuple[int, bool]) -> str:
    """`D major` for (2, False)."""
    return f"{TONICS[key[1]][key[0] % 12]} {_MODES[key[1]]}"


def parse_key(text: str) -> tuple[int, bool]:
    """Read a key as people write it: `D major`, `f# minor`, `Bbm`, `e` (minor, as small letters are).

    Raises:
        RequestError: With examples.
    """
    found = _KEY.match(text.replace("-", " ").replace("_", " "))
    if not found:
        raise RequestError(f"key {text!r}: write it as `D major`, `F# minor`, `Bb major` or `e`")
    letter, accidental, mode = found.groups()
    shift = {"": 0, "#": 1, "♯": 1, "sharp": 1, "is": 1}.get(accidental, -1)
    minor = letter.islower() if mode is None else mode == "m" or mode.lower() in ("minor", "min", "moll")
    return (_STEP[letter.upper()] + shift) % 12, minor


def composer_slug(name: str) -> str:
    """A name as it stands in a token: `wolfgang-amadeus-mozart`; empty for no name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))


def find_composer(name: str, known: Sequence[str]) -> str:
    """The known composer that a name means: all of it, or words of it that only one has.

    Raises:
        RequestError: If none or several are meant; names them.
    """
    words = set(composer_slug(name).split("-"))
    exact = [slug for slug in known if slug == composer_slug(name)]
    found = exact or [slug for slug in known if words <= set(slug.split("-"))]
    if len(found) == 1:
        return found[0]
    if not known:
        raise RequestError(f"composer {name!r}: this model knows no composers")
    wrong = f"could be {' or '.join(found)}" if found else f"not known; known are {', '.join(known)}"
    raise RequestError(f"composer {name!r}: {wrong}")


def left_step(bars: int) -> int:
    """The step of `LEFT_STEPS` for a number of bars left, 1 or more."""
    return LEFT_STEPS[bisect.bisect_right(LEFT_STEPS, bars) - 1]


def left_width(step: int) -> int | None:
    """How many numbers of bars a step stands for; None for the last, which has no bound."""
    index = LEFT_STEPS.index(step)
    return None if index + 1 == len(LEFT_STEPS) else LEFT_STEPS[index + 1] - step


def control_tokens(composers: Sequence[str]) -> list[str]:
    """Names of the special tokens that controls need, in the order of their ids.

    Args:
        composers: Slugs.
    """
    keys = [f"Key_{TONICS[minor][tonic]}{_MODES[minor][:3]}" for minor in (False, True) for tonic in range(12)]
    left = [f"Left_{step}" for step in LEFT_STEPS]
    return [CONTINUED, GAP, *left, *keys, *(f"Composer_{slug}" for slug in composers)]


def key_token(key: tuple[int, bool]) -> str:
    """The name of a key's token."""
    return f"Key_{TONICS[key[1]][key[0] % 12]}{_MODES[key[1]][:3]}"


def task_params(model) -> dict[str, Any]:
    """What a model's `config.json` says about composing with it (`task_specific_params`, as transformers names it).

    Args:
        model: A model, or None.

    Returns:
        `composer`, the slug of the one that it was tuned to, and `repetition`, each where it says so.
    """
    told = getattr(getattr(model, "config", None), "task_specific_params", None)
    return dict((told or {}).get(TASK) or {})


__all__ = [
    "CONTINUED",
    "GAP",
    "LEFT_STEPS",
    "Controls",
    "composer_slug",
    "control_tokens",
    "controls_of",
    "find_composer",
    "key_name",
    "key_token",
    "left_step",
    "left_width",
    "parse_key",
    "signature_tonic",
    "task_params",
    "tonic_signature",
]
