"""The pictures of the page as HTML. Whatever comes from a person or a file is escaped here.

Files travel as `data:` addresses, so that nothing that is made lies on the server's disk, where someone else might
ask for it.
"""

from __future__ import annotations

import base64
import html
from typing import Any

from musegen.app.yardstick import Judgement
from musegen.judging.bands import ABOVE, BELOW, INSIDE, Band

MIDI_TYPE, XML_TYPE = "audio/midi", "application/vnd.recordare.musicxml+xml"

_NOTHING = 0.0005  # what rounds to a score of .000

HEADER = """
<header class="mg-head">
  <svg class="mg-mark" viewBox="0 0 48 48" aria-hidden="true">
    <path d="M4 12h40M4 18h40M4 24h40M4 30h40M4 36h40"/>
    <ellipse cx="15" cy="33" rx="5.6" ry="4.2" transform="rotate(-20 15 33)"/>
    <ellipse cx="34" cy="27" rx="5.6" ry="4.2" transform="rotate(-20 34 27)"/>
    <path class="stem" d="M20 32V9L39.2 5V26"/>
  </svg>
  <div><h1>musegen</h1><p>Say what you would like to hear. A model writes it bar by bar, and the page tells you
  how near it comes to real music, and whether it copied.</p></div>
</header>
"""

EMPTY = """
<div class="mg-empty"><p><b>Nothing composed yet.</b> Press <b>Compose</b>: the bars appear here while they are
written, then sheet music, sound, files, and the judgement.</p></div>
"""


def status(text: str, done: int = 0, total: int = 0) -> str:
    """A sentence on how far the work is, with a bar if there is something to count."""
    bar = ""
    if total:
        share = 100 * min(done / total, 1)
        bar = (
            f'<div class="mg-bar" role="progressbar" aria-valuenow="{done}" aria-valuemax="{total}">'
            f'<i style="width:{share:.1f}%"></i></div>'
        )
    return f'<div class="mg-status" role="status"><p>{html.escape(text)}</p>{bar}</div>'


def described(name: str, bars: int, notes: int, instruments: str, title: str = "") -> str:
    """What was found in a given file."""
    head = f"{name}: {title}" if title else name
    return (
        f'<div class="mg-given"><b>{html.escape(head)}</b>'
        f"<span>{bars} bars, {notes:,} notes: {html.escape(instruments)}</span></div>"
    )


def music(drawn: dict[str, Any], midi: bytes, stem: str) -> str:
    """The player, the files and the sheet music of a piece."""
    files = _files(
        stem,
        ("MIDI", "mid", MIDI_TYPE, midi),
        ("MusicXML", "musicxml", XML_TYPE, drawn["musicxml"].encode()),
        ("Sound (MP3)", "mp3", "audio/mpeg", drawn["sound"]),
    )
    # As pictures, not as a part of the page: no script in a drawing could run.
    pages = "".join(
        f'<img alt="Sheet music, page {i + 1}" src="{_data("image/svg+xml", page)}">'
        for i, page in enumerate(drawn["pages"])
    )
    more = '<p class="mg-note">More pages are in the MusicXML file.</p>' if drawn["more"] else ""
    return (
        f'<audio class="mg-player" controls preload="auto" src="{_data("audio/mpeg", drawn["sound"])}"></audio>'
        f'{files}<div class="mg-sheet">{pages}</div>{more}'
    )


def only_midi(midi: bytes, stem: str, why: str) -> str:
    """What there is of a piece that could not be drawn."""
    return _files(stem, ("MIDI", "mid", MIDI_TYPE, midi)) + note(why)


def _files(stem: str, *files: tuple[str, str, str, bytes]) -> str:
    """Links to files that travel in the page: label, ending, type and content of each."""
    stem = html.escape(stem, quote=True)
    links = "".join(
        f'<a class="mg-file" download="{stem}.{ending}" href="{_data(kind, data)}">{label}</a>'
        for label, ending, kind, data in files
    )
    return f'<nav class="mg-files" aria-label="Files"><span>Download</span>{links}</nav>'


def judgement(found: Judgement) -> str:
    """A piece beside real music, in words and on two scales."""
    span = found.span
    where = "No two notes in a row stand in it."
    if span.notes:
        key = "at the same pitches" if not span.transposition else f"moved by {span.transposition:+d} semitones"
        where = (
            f"{_bars(span.sample_bars).capitalize()}, as in {span.piece.split(':')[-1]}, {_bars(span.bars)}, {key}."
        )
    bleu_place = found.bleu_band.place(found.bleu)
    span_place = found.span_band.place(span.notes)
    bleu_words = {
        INSIDE: "As much in common with this music as real works have with each other.",
        ABOVE: "More in common with this music than real works have with each other: it may be copied.",
        BELOW: "Less in common with this music than real works have with each other.",
    }
    span_words = {
        INSIDE: "No longer than what real works share by chance or habit.",
        ABOVE: "Longer than what real works share: look there for a quotation.",
        BELOW: "Shorter than what real works share.",
    }
    unknown = "There is too little real music to say."
    if found.bleu_band.high < _NOTHING:
        bleu_words[INSIDE] = "So few bars tell nothing: real works score nothing with each other either."
    return (
        '<div class="mg-judge">'
        + _scale("Customised BLEU", f"{found.bleu:.3f}", found.bleu, found.bleu_band, bleu_place, "{:.3f}",
                 bleu_words.get(bleu_place, unknown))
        + _scale("Longest copied span", f"{span.notes} notes", span.notes, found.span_band, span_place, "{:.0f}",
                 f"{span_words.get(span_place, unknown)} {where}")
        + f'<p class="mg-note">Measured on the first {found.bars} new bars against {html.escape(found.against)}; the '
        f"bands are where 19 of 20 excerpts of {found.works} real works lie that were held out from the comparison. "
        "Being inside them is no praise: they tell likeness and copying, and nothing else.</p></div>"
    )  # fmt: skip


def note(text: str) -> str:
    """A sentence in small print."""
    return f'<p class="mg-note">{html.escape(text)}</p>'


def _scale(name: str, shown: str, value: float, band: Band, place: str, form: str, words: str) -> str:
    top = max(value, band.high if band.high == band.high else 0, 1e-9) * 1.15
    low, high, at = (100 * min(max(x, 0) / top, 1) if x == x else 0 for x in (band.low, band.high, value))
    limits = (
        f"real: {form.format(band.low)} to {form.format(band.high)}" if band.high == band.high else "real: unknown"
    )
    return (
        f'<section class="mg-scale {place}"><h3>{name}</h3><strong>{shown}</strong><em>{limits}</em>'
        f'<div class="track"><i class="band" style="left:{low:.1f}%;width:{max(high - low, 1):.1f}%"></i>'
        f'<i class="mark" style="left:{at:.1f}%"></i></div><p>{html.escape(words)}</p></section>'
    )


def _bars(span: tuple[int, int]) -> str:
    return f"bar {span[0]}" if span[0] == span[1] else f"bars {span[0]} to {span[1]}"


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
