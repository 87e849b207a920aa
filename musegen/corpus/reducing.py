"""Which pieces are kept, and in which split: the one stage that looks at all pieces at once.

It sees light columns only, a few kilobytes a piece, never the music.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from musegen.corpus.reading import Reading
from musegen.corpus.schema import SPLITS


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How a corpus is parted.

    Args:
        validation: Share of the notes, about.
        test: Share of the notes, about.
        seed: Other seeds, other works; the same seed, the same works.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0


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


def reduce_rows(readings: Iterable[Reading], options: SplitOptions) -> Plan:
    """Drop exact duplicates, group works that share music, and part the groups.

    Args:
        readings: Of all files, in their order; light ones will do.
        options: How to part them.
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
    groups = _group(rows)
    parts = _split(rows, groups, options)
    plan = Plan(
        found,
        {name: sorted(parts[name], key=lambda row: row.index) for name in SPLITS if parts.get(name)},
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


def _group(rows: Sequence[LightRow]) -> list[str]:
    try:
        from musegen.work_groups import group_works
    except ImportError:
        return [row.work for row in rows]
    return group_works(rows)


def _split(rows: Sequence[LightRow], groups: Sequence[str], options: SplitOptions) -> dict[str, list[LightRow]]:
    try:
        from musegen.work_groups import split_by_group
    except ImportError:
        split_of = _splits([{"work": group, "notes": row.notes} for group, row in zip(groups, rows)], options)
        parts: dict[str, list[LightRow]] = {name: [] for name in SPLITS}
        for row, group in zip(rows, groups):
            parts[split_of.get(group, "train")].append(row)
        return parts
    return split_by_group(rows, groups, options)


def split_by_work(rows: list[dict[str, Any]], options: SplitOptions) -> dict[str, list[dict[str, Any]]]:
    """Part rows into train, validation and test so that no work is in two of them.

    Works are taken in an order that depends on the seed alone, so that adding a work moves few others. Where no
    handful of works comes near the share asked for, as in a corpus of five works, the one nearest to it is taken.

    Args:
        rows: With `work` and `notes`.
        options: Shares and seed.

    Returns:
        Rows of each split. Validation and test are empty for fewer than three works.
    """
    split_of = _splits(rows, options)
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    for row in rows:
        parts[split_of.get(row["work"], "train")].append(row)
    return {name: part for name, part in parts.items() if part}


def _splits(rows: Sequence[dict[str, Any]], options: SplitOptions) -> dict[str, str]:
    """Which works are for validation and test."""
    sizes: dict[str, int] = collections.Counter()
    for row in rows:
        sizes[row["work"]] += row["notes"]
    works = sorted(sizes, key=lambda work: hashlib.sha256(f"{options.seed}:{work}".encode()).digest())
    total, left, chosen = sum(sizes.values()), list(works), {}
    for name in ("test", "validation"):
        if len(works) < 3:
            break
        members = _fill(left, sizes, getattr(options, name) * total)
        chosen.update(dict.fromkeys(members, name))
        left = [work for work in left if work not in chosen]
    return chosen


def _fill(works: list[str], sizes: dict[str, int], target: float) -> list[str]:
    chosen, filled = [], 0
    for work in works:
        if filled + sizes[work] <= 1.25 * target:
            chosen.append(work)
            filled += sizes[work]
        if filled >= target:
            break
    if filled >= 0.6 * target:
        return chosen
    return [min(works, key=lambda work: abs(math.log(sizes[work] / target)))] if target > 0 else []
