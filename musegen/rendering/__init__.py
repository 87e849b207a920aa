"""A score made visible and audible: sheet music, piano roll, audio.

    meters                           what musicians know of bars and note values
    quantization, streams            notes onto writable times; hands and violins pulled apart
    parts, voices, rhythm            staves, the voices of a bar, the symbols of a voice
    musicxml, sheet                  the document; its engraved pages
    roll                             the piano roll
    soundfont, audio                 the sampler; the sound file

Every file is written aside and renamed, so that a reader never meets half a file. Heavy libraries (verovio,
matplotlib, resvg, soundfile) are imported by the function that needs them.
"""

from __future__ import annotations

from pathlib import Path

import symusic

from musegen.rendering.audio import AudioInfo, render_audio, synthesize
from musegen.rendering.files import RenderingError, replacing
from musegen.rendering.musicxml import score_to_musicxml
from musegen.rendering.roll import render_roll
from musegen.rendering.sheet import engrave, render_sheet
from musegen.scores import midi_bytes

__all__ = [
    "AudioInfo",
    "RenderingError",
    "engrave",
    "render_all",
    "render_audio",
    "render_roll",
    "render_sheet",
    "score_to_musicxml",
    "synthesize",
]


def render_all(
    score: symusic.Score,
    out_dir: str | Path,
    stem: str,
    *,
    sheet: bool = True,
    roll: bool = True,
    audio: bool = True,
    title: str | None = None,
    composer: str | None = None,
    prompt_bars: int | None = None,
    audio_format: str = "wav",
    max_pages: int | None = None,
    max_seconds: float | None = None,
) -> dict[str, Path]:
    """Write a score in every form.

    Args:
        score: Any score in ticks.
        out_dir: The folder, created if need be.
        stem: Name of the files without ending.
        sheet: Whether to write `STEM.musicxml` and its pages `STEM.png`, `STEM-page2.png`, ...
        roll: Whether to write `STEM-roll.png`.
        audio: Whether to write `STEM.wav`, or with another `audio_format` that.
        title: On the sheet music and the piano roll.
        composer: On the sheet music.
        prompt_bars: How many bars at the beginning were given; shaded in the piano roll.
        audio_format: `wav`, `ogg` or `mp3`.
        max_pages: Pages of sheet music at the most; all by default.
        max_seconds: Where to fade the sound out.

    Returns:
        What was written, by kind: `midi` always; `musicxml`, `sheet` (with `sheet-2`, ... for more pages), `roll`,
        `audio` as asked for.

    Raises:
        RenderingError: The score has no notes, or a format is not supported.
    """
    folder = Path(out_dir)
    written = {"midi": folder / f"{stem}.mid"}
    with replacing(written["midi"]) as aside:
        aside.write_bytes(midi_bytes(score))
    if sheet:
        document = score_to_musicxml(score, title=title, composer=composer)
        written["musicxml"] = folder / f"{stem}.musicxml"
        with replacing(written["musicxml"]) as aside:
            aside.write_text(document, encoding="utf-8")
        pages = engrave(document, folder / f"{stem}.png", max_pages=max_pages)
        written.update((f"sheet-{i + 1}" if i else "sheet", page) for i, page in enumerate(pages))
    if roll:
        path = folder / f"{stem}-roll.png"
        written["roll"] = render_roll(score, path, title=title, prompt_bars=prompt_bars)
    if audio:
        path = folder / f"{stem}.{audio_format}"
        written["audio"] = render_audio(score, path, max_seconds=max_seconds).path
    return written
