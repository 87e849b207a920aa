"""Musical form, asked for in letters: which sections a piece has, and which of them return.

`A A' B A'` reads as in analysis: a section, the same with another ending, something else, and the second again. A
letter is written when it first comes; when it comes again it is what it was, note for note. A primed letter keeps the
first half of the plain one and has a second half of its own; primed once more, another one.
"""

from __future__ import annotations

import dataclasses
import re

from musegen.errors import RequestError

SECTION_BARS = 8  # a period of two phrases of four
MAX_SECTIONS = 64
MAX_SECTION_BARS = 128

# The forms of the period, by name (Caplin, "Classical Form", 1998, chapters 14 to 17). A minuet is played with its
# repeats, then its trio, then itself without them.
FORMS = {
    "binary": "A A B B",
    "ternary": "A B A",
    "song": "A A' B A'",
    "rondo": "A B A C A",
    "minuet": "A A B A' B A' C C D C' D C' A B A'",
}

_SECTION = re.compile(r"([A-Z])('*)(\d*)")


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a piece.

    Args:
        name: Its letter and primes.
        first_bar: From 1.
        bars: Its length.
        source: Name of the section that its first bars are taken from; None if all are new.
        kept: How many bars are taken from there; all of them where a section returns.
    """

    name: str
    first_bar: int
    bars: int
    source: str | None = None
    kept: int = 0

    @property
    def new(self) -> int:
        """Bars that are written for it."""
        return self.bars - self.kept


def parse_form(text: str) -> tuple[Section, ...]:
    """The sections of a form.

    Args:
        text: Letters with or without primes, `AABA` or `A A' B A'`, or a name in `FORMS`. A number after a letter
            where it first comes says how many bars it has, as in `A8 B16 A`; otherwise it has eight.

    Raises:
        RequestError: For anything else; says what is allowed.
    """
    allowed = f"letters such as AABA, A A' B A' or A8 B16 A, or one of {', '.join(FORMS)}"
    if not isinstance(text, str):
        raise RequestError(f"form: {allowed}, not {text!r}")
    plain = FORMS.get(text.strip().lower(), text).replace("’", "'").replace("′", "'")
    plain = re.sub(r"[\s,|-]+", "", plain)
    found = list(_SECTION.finditer(plain))
    if not found or "".join(m.group() for m in found) != plain:
        raise RequestError(f"form: {allowed}, not {text!r}")
    if len(found) > MAX_SECTIONS:
        raise RequestError(f"form: at most {MAX_SECTIONS} sections, not {len(found)}")
    lengths: dict[str, int] = {}
    sections: list[Section] = []
    first = 1
    for match in found:
        letter, primes, number = match.groups()
        bars = lengths.setdefault(letter, int(number or SECTION_BARS))
        if number and int(number) != bars:
            raise RequestError(f"form: {letter} has {bars} bars and cannot have {number} when it returns")
        if not 1 <= bars <= MAX_SECTION_BARS:
            raise RequestError(f"form: a section has 1 to {MAX_SECTION_BARS} bars, not {bars}")
        name = letter + primes
        known = {section.name for section in sections}
        source, kept = (name, bars) if name in known else (None, 0)
        if source is None and primes:
            if letter not in known:
                raise RequestError(f"form: {name} is another {letter}, which has to come before it")
            source, kept = letter, bars // 2
        sections.append(Section(name, first, bars, source, kept))
        first += bars
    return tuple(sections)
