"""Which pieces are kept, and in which split: the one stage that looks at all pieces at once.

It sees light columns only, a few kilobytes a piece, never the music.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from musegen.corpus.reading import Reading
from musegen.corpus.schema import SPLITS
from musegen.fingerprints import shingles
from musegen.scores import parse_midi
from musegen.work_groups import SplitOptions, group_works, split_by_group


@dataclasses.dataclass(slots=True)
class LightRow:
    """What the global stage sees of a piece.

    Args:
        index: Of its file among all files found.
        source: Its name.
        work: As its source tells it.
        composer: Likewise.
        license: Likewise.
        notes: How many.
        fingerprint: uint32; see `musegen.fingerprints`.
    """

    index: int
    source: str
    work: str
    composer: str
    license: str
    notes: int
    fingerprint: np.ndarray


@dataclasses.dataclass
class Plan:
    """What becomes of every file.

    Args:
        found: Files.
        parts: Kept pieces of each split, in the order of the files.
        groups: Of each kept piece, by the index of its file: the group that no split cuts.
        duplicates: Index of a file -> index of the file whose music it repeats.
        reasons: How many files were quarantined, by reason.
        repairs: For each repair, in how many files it was made, and how often in all.
    """

    found: int
    parts: dict[str, list[LightRow]]
    groups: dict[int, str]
    duplicates: dict[int, int]
    reasons: dict[str, int]
    repairs: dict[str, tuple[int, int]]


def reduce_rows(
    readings: Iterable[Reading], options: SplitOptions, midi_of: Callable[[int], bytes] | None = None
) -> Plan:
    """Drop exact duplicates, group works that share music, and part the groups.

    Args:
        readings: Of all files, in their order; light ones will do.
        options: How to part them.
        midi_of: Gives the MIDI bytes of a file by its index, so that doubtful pairs of works are counted exactly;
            without it their fingerprints' estimates decide.
    """
    first: dict[bytes, int] = {}
    duplicates: dict[int, int] = {}
    reasons: collections.Counter = collections.Counter()
    files: collections.Counter = collections.Counter()
    times: collections.Counter = collections.Counter()
    rows: list[LightRow] = []
    texts: dict[str, str] = {}  # one object for each work, composer and licence
    found = 0
    for index, reading in enumerate(readings):
        found += 1
        if reading.row is None:
            reasons[reading.reason] += 1
            continue
        files.update(reading.repairs.keys())
        times.update(reading.repairs)
        earlier = first.setdefault(bytes.fromhex(reading.row["content_hash"]), index)
        if earlier != index:
            duplicates[index] = earlier
            continue
        work, composer, licence = (texts.setdefault(v, v) for v in _texts(reading.row))
        prints = np.frombuffer(reading.fingerprint, dtype="<u4")
        rows.append(LightRow(index, reading.source, work, composer, licence, reading.row["notes"], prints))
    music = None
    if midi_of is not None:

        def music(i: int) -> np.ndarray:
            return shingles(parse_midi(midi_of(rows[i].index), rows[i].source).score)

    groups = group_works(rows, shingles_of=music)
    parts = split_by_group(rows, groups, options) if rows else {}
    plan = Plan(
        found,
        {name: [rows[i] for i in sorted(parts[name])] for name in SPLITS if parts.get(name)},
        {row.index: group for row, group in zip(rows, groups)},
        duplicates,
        dict(reasons.most_common()),
        {name: (files[name], times[name]) for name in sorted(times)},
    )
    kept = sum(map(len, plan.parts.values()))
    if kept + len(duplicates) + sum(reasons.values()) != found:
        raise AssertionError(f"{kept} kept, {len(duplicates)} duplicate, {sum(reasons.values())} of {found}")
    return plan


def _texts(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["work"], row["composer"], row["license"]
