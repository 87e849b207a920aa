"""One file to one outcome: what a worker does, on this machine or another."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import symusic

from musegen import grid as g
from musegen.canonical import DEFAULT_QPM, LoadedScore, ScoreLimits
from musegen.errors import MusegenError, ScoreError, TokenizerError, WorkerError
from musegen.fingerprints import fingerprint
from musegen.scores import content_hash, load_score, midi_bytes, read_score
from musegen.sources import SourceFile

REMI = "remi"  # in place of a tokenizer's folder: the package's own vocabulary before BPE
_KEYS = {
    0: ["C", "G", "D", "A", "E", "B", "F#", "C#", "Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F"],
    1: ["a", "e", "b", "f#", "c#", "g#", "d#", "a#", "ab", "eb", "bb", "f", "c", "g", "d"],
}


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What reading depends on.

    Args:
        limits: What a score may hold.
        tokenizer: A tokenizer's folder, or `remi` for the package's own vocabulary: its ids before BPE become the
            column `input_ids`. None for a corpus without ids.
    """

    limits: ScoreLimits = dataclasses.field(default_factory=ScoreLimits)
    tokenizer: str | None = None


@dataclasses.dataclass(frozen=True)
class Reading:
    """What became of one file when it was read: a row, or the reason why there is none.

    Args:
        source: The file's name in the corpus.
        stamp: Of the file as it was read.
        row: Columns of the corpus but for the three below, and the hash of the `vocabulary` if there are ids; None
            if there is no row.
        midi: The canonical score as a MIDI file.
        fingerprint: uint32, little-endian.
        input_ids: uint16, little-endian; empty without a tokenizer.
        reason: One word, if there is no row.
        detail: A sentence.
        repairs: How often each silent repair was made; without zeros.
    """

    source: str
    stamp: str
    row: dict[str, Any] | None = None
    midi: bytes = b""
    fingerprint: bytes = b""
    input_ids: bytes = b""
    reason: str = ""
    detail: str = ""
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)


def read_file(file: SourceFile, options: ReadOptions | None = None) -> Reading:
    """Read one file; whatever is wrong with it is told in the outcome.

    Args:
        file: Of `musegen.sources.discover`.
        options: See `ReadOptions`; its defaults by default.
    """
    options = options or ReadOptions()
    if file.refused is not None:
        return Reading(file.source, file.stamp, reason=file.refused[0], detail=file.refused[1])
    try:
        if file.data is None:
            loaded = load_score(file.path, options.limits, isolate=False)
        else:
            loaded = read_score(file.data, file.source, options.limits, isolate=False)
        row = piece_row(loaded, file)
        ids = b""
        if options.tokenizer is not None:
            base_ids, row["vocabulary"] = _tokenizer(options.tokenizer)
            ids = np.ascontiguousarray(base_ids(loaded.score), dtype="<u2").tobytes()
    except (ScoreError, WorkerError) as error:
        return failed_reading(file, error)
    repairs = {name: count for name, count in loaded.repairs.items() if count}
    return Reading(
        file.source,
        file.stamp,
        row=row,
        midi=midi_bytes(loaded.score),
        fingerprint=np.ascontiguousarray(fingerprint(loaded.score), dtype="<u4").tobytes(),
        input_ids=ids,
        repairs=repairs,
    )


def failed_reading(file: SourceFile, error: MusegenError) -> Reading:
    """The outcome of a file on which the reader, or its worker, failed.

    The detail is the same whenever and wherever the same thing happens: no paths, no addresses, no library's words.
    """
    reason = getattr(error, "reason", "error")
    detail = getattr(error, "detail", str(error))
    if isinstance(error, WorkerError) and reason in ("crashed", "memory"):
        detail = detail.partition(":")[0]
    return Reading(file.source, file.stamp, reason=reason, detail=detail.replace(file.path, file.source))


def prepare(options: ReadOptions) -> None:
    """Load once in a fresh worker what each file needs, so that no file's time pays for it."""
    if options.tokenizer is not None:
        _tokenizer(options.tokenizer)


def piece_row(loaded: LoadedScore, file: SourceFile) -> dict[str, Any]:
    """The light columns of a piece: see `musegen.corpus.schema.COLUMNS`."""
    score, about = loaded.score, loaded.about
    notes, bars = g.note_array(score), g.bar_grid(score)
    key = score.key_signatures[0] if len(score.key_signatures) and score.key_signatures[0].time == 0 else None
    return {
        "content_hash": content_hash(score),
        "work": file.work,
        "composer": file.composer or about.get("composer", ""),
        "title": file.title or about.get("title", ""),
        "source": file.source,
        "provenance": file.provenance,
        "license": file.license,
        "notes": len(notes),
        "bars": len(bars),
        "beats": float(bars.starts[-1] / g.TICKS_PER_QUARTER),
        "seconds": playing_time(score),
        "key": "" if key is None else key_name(key.key, key.tonality),
        "metre": about["metre"],
        "programs": np.unique(notes["program"]).tolist(),
    }


def playing_time(score: symusic.Score) -> float:
    """Seconds from the beginning to the end of the last note, at the score's own tempos."""
    end = g.last_end(score)
    times = [0] + [int(t.time) for t in score.tempos if 0 < t.time < end]
    before = [t.qpm for t in score.tempos if t.time <= 0][-1:] or [DEFAULT_QPM]
    qpm = np.array(before + [t.qpm for t in score.tempos if 0 < t.time < end])
    lengths = np.diff([*times, end])
    return float((lengths / g.TICKS_PER_QUARTER / qpm * 60.0).sum())


def key_name(sharps: int, minor: int) -> str:
    """`D major` for two sharps; negative for flats."""
    name = _KEYS[1 if minor else 0][sharps]
    return f"{name} {'minor' if minor else 'major'}"


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> tuple[Callable[[Any], np.ndarray], str]:
    """What gives a score's ids before BPE, and the SHA-256 of the names and ids that those are written in."""
    from musegen.remi import vocabulary_hash

    if name == REMI:
        from musegen.remi import remi_ids, untrained_remi

        remi = untrained_remi()
        base_ids = functools.partial(remi_ids, remi)
    else:
        from musegen.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(name)
        remi, base_ids = tokenizer.remi, tokenizer.base_ids
    return base_ids, vocabulary_hash(remi.vocab)


def tokenizer_files(name: str) -> str:
    """A hash of the files of a tokenizer, without loading it; empty for the package's own vocabulary.

    Raises:
        TokenizerError: If there is no such tokenizer.
    """
    if name == REMI:
        return ""
    digest = hashlib.sha256()
    for file in ("tokenizer.json", "miditok.json"):
        path = Path(name) / file
        if not path.is_file():
            raise TokenizerError(f"{name}: no music tokenizer there ({file} missing)")
        digest.update(path.read_bytes())
    return digest.hexdigest()
