"""Works that share music, and splits that keep them together.

A *group* holds works that share music: other editions, keys, tempos and arrangements of one work, its single parts,
its movements in one file or in several. Pieces are compared by their fingerprints: locality-sensitive hashing
(`datasketch`) names candidates, their overlap joins them or not, and a union of all joined works is a group. The
fingerprints tell the overlap about; who has the music at hand has all doubtful candidates counted exactly. Nothing
here looks at titles: what is the same is what sounds the same.

The *overlap* of two pieces is the share of the smaller one's shingles that the other has too, so that a cello part
overlaps with its quartet fully. It is not the resemblance (Jaccard index), which for that pair would be low.

Cost: near linear in the number of pieces, measured in docs/corpus-leakage.md. A bucket of the hash tables that holds
more than `GroupOptions.bucket` pieces, as of a tune that a thousand files hold, is parted by further minima until its
parts are small; what still is together then is joined as a chain instead of pair by pair.

Sources: Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from musegen import fingerprints
from musegen.errors import CorpusError
from musegen.fingerprints import set_overlap

SPLITS = ("train", "validation", "test")
_TABLES = (256, 64, 16, 8, 4, 2)  # hash tables held at once: as many as keep to
_ENTRIES = 2_000_000  # in them, each of about a kilobyte
# Minima by which candidates are looked for. Of pairs that have ten of all minima in common, one in a thousand has none
# of this half in common; the other half would double the cost.
_SEARCHED = 256
_DEPTH = 8  # minima by which a large bucket is parted before it is taken for one tune
_CHUNK = 1 << 14  # pairs compared at once: 16 MB of minima


@dataclasses.dataclass(frozen=True)
class GroupOptions:
    """When two pieces share music. The defaults are measured: docs/corpus-leakage.md.

    Args:
        overlap: Join two pieces from this overlap on.
        minima: Join them only if so many minima of their fingerprints are equal; a few may be by chance.
        shingles: Pieces with fewer are not compared: too little to tell a tune from a scale.
        bucket: Pieces of one hash bucket that are compared with each other all.
        sure: Overlaps below this one do not make groups of more than `crowd` works: among very many pieces some share
            enough by chance to string works of all kinds together. The leakage audit names what is kept apart so.
        crowd: Works.
        doubtful_minima: Pairs with so many equal minima are counted exactly, if they can be.
        doubtful_overlap: Likewise, from this estimated overlap on.
    """

    overlap: float = 0.25
    minima: int = 10
    shingles: int = 16
    bucket: int = 16
    sure: float = 0.5
    crowd: int = 50
    doubtful_minima: int = 5
    doubtful_overlap: float = 0.12


@dataclasses.dataclass(frozen=True)
class Link:
    """Two pieces that share music.

    Args:
        first: Index of a row.
        second: Index of a later row.
        overlap: 0 to 1; exact if the music was at hand, else estimated.
    """

    first: int
    second: int
    overlap: float


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How a corpus is parted.

    Works are named as the corpus names them; `*` and `?` stand for any letters, and case does not count. Who names
    works or composers for a split gives it these, with all that shares music with them, and nothing else.

    Args:
        validation: Share of the notes, about.
        test: Share of the notes, about.
        seed: Other seeds, other works; the same seed, the same works.
        test_works: Works to test on, such as `("*kv545",)`.
        validation_works: Likewise.
        test_composers: All works of these.
        validation_composers: Likewise.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    test_works: tuple[str, ...] = ()
    validation_works: tuple[str, ...] = ()
    test_composers: tuple[str, ...] = ()
    validation_composers: tuple[str, ...] = ()


def group_works(
    rows: Sequence[Any],
    options: GroupOptions | None = None,
    *,
    shingles_of: Callable[[int], np.ndarray] | None = None,
    links: Sequence[Link] | None = None,
    progress: bool = False,
) -> list[str]:
    """The group of each row.

    Args:
        rows: Mappings or objects with `work` and `fingerprint` (see `musegen.fingerprints`).
        options: When pieces share music.
        shingles_of: Tells of the index of a row the shingles (`musegen.fingerprints.shingles`) of its score, so that
            doubtful pairs can be counted; a few hundred are asked for of a thousand pieces.
        links: What `find_links` found, if it is known already.
        progress: Show a bar.

    Returns:
        Group names in the order of the rows: the first, by the alphabet, of the works in the group. Rows of one work
        are in one group always.

    Raises:
        CorpusError: If a fingerprint is of another version of musegen.
    """
    works = [_value(row, "work") for row in rows]
    leader = {work: work for work in works}

    def find(work: str) -> str:
        while leader[work] != work:
            leader[work] = leader[leader[work]]
            work = leader[work]
        return work

    if links is None:
        links = find_links(rows, options, shingles_of=shingles_of, progress=progress)
    options, size = options or GroupOptions(), dict.fromkeys(works, 1)
    for link in sorted(links, key=lambda link: (-link.overlap, sorted((works[link.first], works[link.second])))):
        one, other = sorted((find(works[link.first]), find(works[link.second])))
        together = size[one] + size[other]
        if one != other and (link.overlap >= options.sure or together <= options.crowd):
            leader[other], size[one] = one, together
    return [find(work) for work in works]


def find_links(
    rows: Sequence[Any],
    options: GroupOptions | None = None,
    *,
    shingles_of: Callable[[int], np.ndarray] | None = None,
    progress: bool = False,
) -> list[Link]:
    """Pairs of rows of different works that share music, as many as are needed to join all that do.

    Args:
        rows: As for `group_works`.
        options: When pieces share music.
        shingles_of: As for `group_works`.
        progress: Show a bar.

    Returns:
        Sorted by the rows' indices.

    Raises:
        CorpusError: If a fingerprint is of another version of musegen.
    """
    options = options or GroupOptions()
    if not len(rows):
        return []
    prints = _stack(rows)
    sizes, minima = prints[:, 1].astype(np.float64), np.ascontiguousarray(prints[:, 2:])
    del prints  # 2 KB a piece
    _, works = np.unique([_value(row, "work") for row in rows], return_inverse=True)
    members = np.flatnonzero(sizes >= options.shingles)
    links = []
    codes = _candidates(minima, members, works, options, progress)
    for start in range(0, len(codes), _CHUNK):
        first, second = np.divmod(codes[start : start + _CHUNK], len(rows))
        equal = (minima[first] == minima[second]).sum(axis=1)
        overlap = _overlap(equal / minima.shape[1], sizes[first], sizes[second])
        least = (options.minima, options.overlap)
        if shingles_of is not None:
            least = (options.doubtful_minima, options.doubtful_overlap)
        close = (equal >= least[0]) & (overlap >= least[1])
        found = zip(first[close].tolist(), second[close].tolist(), overlap[close].tolist())
        links += [Link(a, b, round(o, 4)) for a, b, o in found]
    return links if shingles_of is None else _counted(links, shingles_of, options.overlap)


def _counted(links: list[Link], shingles_of: Callable[[int], np.ndarray], least: float) -> list[Link]:
    """Those of the links whose exact overlap is large enough."""
    shingles = functools.lru_cache(maxsize=256)(shingles_of)
    exact = [dataclasses.replace(k, overlap=set_overlap(shingles(k.first), shingles(k.second))) for k in links]
    return [dataclasses.replace(k, overlap=round(k.overlap, 4)) for k in exact if k.overlap >= least]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The estimated overlap of two pieces.

    Args:
        one: A fingerprint.
        other: A fingerprint.

    Returns:
        0 to 1; 0 if one of them has no shingles.
    """
    if not one[1] or not other[1]:
        return 0.0
    alike = np.mean(np.asarray(one[2:]) == np.asarray(other[2:]))
    return float(_overlap(alike, np.float64(one[1]), np.float64(other[1])))


def _overlap(resemblance, size, other):
    """Shared members over the smaller set, of the Jaccard index and the sizes of both sets."""
    shared = resemblance * (size + other) / (1 + resemblance)
    return np.minimum(shared / np.minimum(size, other), 1.0)


def _value(row: Any, name: str) -> Any:
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


def _stack(rows: Sequence[Any]) -> np.ndarray:
    """All fingerprints: uint32 (rows, fingerprints.SIZE)."""
    prints = np.empty((len(rows), fingerprints.SIZE), np.uint32)
    for i, row in enumerate(rows):
        found = np.asarray(_value(row, "fingerprint"))
        if found.shape != (fingerprints.SIZE,) or found[0] != fingerprints.VERSION:
            raise CorpusError(
                f"{_value(row, 'source')}: its fingerprint is of another version; build the corpus again"
            )
        prints[i] = found
    return prints


def _candidates(minima, members, works, options: GroupOptions, progress: bool) -> np.ndarray:
    """Pairs of rows of different works that meet in a bucket, as `first * rows + second`: int64 (pairs,), sorted."""
    from datasketch import MinHash, MinHashLSH
    from tqdm.auto import tqdm

    found = np.empty(0, np.int64)
    count = next((n for n in _TABLES if n * len(members) <= _ENTRIES), _TABLES[-1])
    permutations = MinHash(count, scheme="affine32").permutations  # not used, but a MinHash has to have some
    starts = range(0, _SEARCHED, count)
    for start in tqdm(starts, desc="shared music", unit="pass", disable=not progress):
        part = minima[:, start : start + count]
        tables = MinHashLSH(num_perm=count, params=(count, 1))
        for row in members.tolist():
            minhash = MinHash(hashvalues=part[row], permutations=permutations, scheme="affine32")
            tables.insert(row, minhash, check_duplication=False)
        pairs = [found]
        for offset, table in enumerate(tables.hashtables):
            buckets = (table.get(key) for key in list(table.keys()))
            for bucket in buckets:
                if len(bucket) > 1:
                    pairs += _pairs(np.array(sorted(bucket)), minima, start + offset, works, options.bucket)
        found = np.unique(np.concatenate(pairs))
    return found


def _pairs(bucket: np.ndarray, minima: np.ndarray, column: int, works, limit: int, depth: int = 0) -> Iterator:
    """The pairs of a bucket's rows, all of them in a small one, as `_candidates` codes them."""
    if len(bucket) <= limit:
        first, second = _all_pairs(len(bucket))
    elif depth < _DEPTH:
        column = (column + 1) % minima.shape[1]
        values = minima[bucket, column]
        order = np.argsort(values, kind="stable")
        edges = np.flatnonzero(np.diff(values[order])) + 1
        parts = np.split(bucket[order], edges)
        for part in parts:
            if len(part) > 1:
                yield from _pairs(part, minima, column, works, limit, depth + 1)
        # Parts of one tune would be told apart; one pair each keeps them together, if they are.
        second = np.array(sorted(int(part.min()) for part in parts))[1:]
        yield from _coded(np.full(len(second), bucket.min()), second, works)
        return
    else:
        first, second = np.arange(len(bucket) - 1), np.arange(1, len(bucket))
    yield from _coded(bucket[first], bucket[second], works)


@functools.lru_cache(maxsize=64)
def _all_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)


def _coded(first: np.ndarray, second: np.ndarray, works: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs that are of different works, as `_candidates` codes them."""
    other = works[first] != works[second]
    yield first[other].astype(np.int64) * len(works) + second[other]


def split_by_group(rows: Sequence[Any], groups: Sequence[str], options: SplitOptions) -> dict[str, list[int]]:
    """Part rows into train, validation and test so that no group is in two of them.

    Groups are taken in an order that depends on the seed alone, so that adding a work moves few others. Where no
    handful of groups comes near the share asked for, as in a corpus of five works, the one nearest to it is taken.

    Args:
        rows: Mappings or objects with `work`, `composer` and `notes`.
        groups: Of each row, as `group_works` names them.
        options: Shares, seed, and what must be held out.

    Returns:
        Indices of the rows of each split that is not empty. Unless works are named for them, validation and test are
        empty for fewer than three groups.

    Raises:
        CorpusError: If no row is of a named work or composer, if one is named, itself or by what shares its music,
            for both splits, or if nothing would be left to train on.
    """
    sizes: dict[str, int] = {}
    for row, group in zip(rows, groups):
        sizes[group] = sizes.get(group, 0) + _value(row, "notes")
    chosen = _named(rows, groups, options)
    left = sorted(sizes, key=lambda group: hashlib.sha256(f"{options.seed}:{group}".encode()).digest())
    left = [group for group in left if not any(group in named for named in chosen.values())]
    if not left:
        raise CorpusError("nothing is left to train on: all works are named for validation or testing")
    total = sum(sizes.values())
    for name in ("test", "validation"):
        if name not in chosen and len(sizes) >= 3 and len(left) >= 2:
            chosen[name] = _fill(left, sizes, getattr(options, name) * total)
            left = [group for group in left if group not in chosen[name]]
    of_group = {group: name for name, members in chosen.items() for group in members}
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for i, group in enumerate(groups):
        parts[of_group.get(group, "train")].append(i)
    return {name: part for name, part in parts.items() if part}


def _named(rows: Sequence[Any], groups: Sequence[str], options: SplitOptions) -> dict[str, set[str]]:
    """The groups that the options name for each split; no entry for a split for which they name nothing."""
    known = {}
    for kind, column in (("works", "work"), ("composers", "composer")):
        known[kind] = {}
        for row, group in zip(rows, groups):
            known[kind].setdefault(_value(row, column), set()).add(group)
    chosen: dict[str, set[str]] = {}
    for name in ("test", "validation"):
        for kind, of_value in known.items():
            for pattern in getattr(options, f"{name}_{kind}"):
                matches = [v for v in of_value if fnmatch.fnmatchcase(v.lower(), pattern.lower())]
                if not matches:
                    shown = ", ".join(sorted(of_value)[:5])
                    raise CorpusError(f"{name}: no {kind[:-1]} is called {pattern!r}; there are {shown}, ...")
                chosen.setdefault(name, set()).update(*(of_value[v] for v in matches))
    both = chosen.get("test", set()) & chosen.get("validation", set())
    if both:
        raise CorpusError(
            f"{', '.join(sorted(both)[:5])}: named for test and for validation, or shares music with both"
        )
    return chosen


def _fill(groups: list[str], sizes: dict[str, int], target: float) -> set[str]:
    chosen, filled = set(), 0
    for group in groups:
        if filled + sizes[group] <= 1.25 * target:
            chosen.add(group)
            filled += sizes[group]
        if filled >= target:
            break
    if filled >= 0.6 * target:
        return chosen
    return {min(groups, key=lambda group: abs(math.log(sizes[group] / target)))} if target > 0 else set()
