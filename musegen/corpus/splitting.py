"""Splits by group of works; where nothing better is installed, a group is a work."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from musegen.corpus.schema import SPLITS

try:
    from musegen.work_groups import SplitOptions, group_works, split_by_group
except ImportError:

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

    def group_works(rows: Sequence[Any]) -> list[str]:
        """The group of each row: its work."""
        return [row.work for row in rows]

    def split_by_group(rows: Sequence[Any], groups: Sequence[str], options: SplitOptions) -> dict[str, list[int]]:
        """Part rows into train, validation and test so that no group is in two of them.

        Groups are taken in an order that depends on the seed alone, so that adding a work moves few others. Where no
        handful of groups comes near the share asked for, as in a corpus of five works, the one nearest to it is taken.

        Args:
            rows: With `notes`.
            groups: Of each row.
            options: Shares and seed.

        Returns:
            Indices of the rows of each split. Validation and test are empty for fewer than three groups.
        """
        sizes: dict[str, int] = collections.Counter()
        for row, group in zip(rows, groups):
            sizes[group] += row.notes
        names = sorted(sizes, key=lambda group: hashlib.sha256(f"{options.seed}:{group}".encode()).digest())
        total, left, split_of = sum(sizes.values()), list(names), {}
        for split in ("test", "validation") if len(names) >= 3 else ():
            members = _fill(left, sizes, getattr(options, split) * total)
            split_of.update(dict.fromkeys(members, split))
            left = [group for group in left if group not in split_of]
        parts: dict[str, list[int]] = {split: [] for split in SPLITS}
        for i, group in enumerate(groups):
            parts[split_of.get(group, "train")].append(i)
        return {split: part for split, part in parts.items() if part}


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


__all__ = ["SplitOptions", "group_works", "split_by_group"]
