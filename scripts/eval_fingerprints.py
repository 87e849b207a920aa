"""How well fingerprints find shared music, and what they take for shared that is not; docs/corpus-leakage.md.

    python scripts/eval_fingerprints.py [SOURCE...] [--limit PIECES] [--only TABLE] [--json FILE]

Every piece is altered in the ways of `VARIANTS` and must be found again among all pieces. The works are halved by
their names: on one half thresholds are looked at, on the other the default ones are judged. Then all pieces as they
are: which works are joined, how large groups get, and what a fingerprint and a group cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import symusic
from tqdm.auto import tqdm

from musegen import fingerprints, leakage, work_groups
from musegen.errors import ScoreError
from musegen.grid import TICKS_PER_QUARTER
from musegen.scores import load_score
from musegen.sources import find_scores

SOURCES = ("music21:mozart", "music21:haydn", "music21:beethoven", "music21:bach")
THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
MINIMA = (4, 6, 10, 16, 24)


@dataclasses.dataclass
class Piece:
    """A row as `group_works` reads it, and the score behind it."""

    source: str
    work: str
    composer: str
    notes: int
    fingerprint: np.ndarray
    score: symusic.Score
    half: int
    shingles: np.ndarray


def rebuilt(score: symusic.Score, change) -> symusic.Score | None:
    """A copy with every track's notes changed: `change` maps (onset, duration, pitch) to the same, or to None."""
    out = symusic.Score(TICKS_PER_QUARTER)
    for track in score.tracks:
        if track.is_drum or not len(track.notes):
            continue
        soa = track.notes.numpy()
        found = change(*(soa[name].astype(np.int64) for name in ("time", "duration", "pitch")))
        if found is not None and len(found[0]):
            out.tracks.append(track_of(*found, program=track.program))
    return out if len(out.tracks) else None


def track_of(onset, duration, pitch, program: int = 0) -> symusic.Track:
    track = symusic.Track("", program, False)
    keep = (pitch >= 0) & (pitch < 128) & (onset >= 0)
    columns = (onset[keep].astype(np.int32), np.maximum(duration[keep], 1).astype(np.int32))
    track.notes = symusic.Note.from_numpy(
        *columns, pitch[keep].astype(np.int8), np.full(int(keep.sum()), 64, np.int8)
    )  # fmt: skip
    track.notes.sort()
    return track


def transposed(score, rng):
    step = int(rng.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]))
    return rebuilt(score, lambda on, du, pi: (on, du, pi + step))


def halved(score, rng):
    return rebuilt(score, lambda on, du, pi: (on // 2, du // 2, pi))


def octaves(score, rng):
    """Every track an octave up or down, as when another instrument plays it."""
    return rebuilt(score, lambda on, du, pi: (on, du, pi + 12 * int(rng.choice([-1, 1]))))


def repeated(score, rng):
    """All twice, as with repeats written out."""
    end = max(track.end() for track in score.tracks)
    return rebuilt(
        score, lambda on, du, pi: (np.concatenate([on, on + end]), np.tile(du, 2), np.tile(pi, 2))
    )  # fmt: skip


def first_part(score, rng):
    """The first 60 % alone, as without a last section or repeat."""
    end = 0.6 * max(track.end() for track in score.tracks)
    return rebuilt(score, lambda on, du, pi: (on[on < end], du[on < end], pi[on < end]))


def one_part(score, rng):
    """One track alone, of several."""
    tracks = [t for t in score.tracks if not t.is_drum and len(t.notes) >= 60]
    if len(tracks) < 2:
        return None
    out = symusic.Score(TICKS_PER_QUARTER)
    out.tracks.append(tracks[int(rng.integers(len(tracks)))])
    return out


def merged(score, rng):
    """All tracks in one, as in a reduction."""
    if len(score.tracks) < 2:
        return None
    soa = [t.notes.numpy() for t in score.tracks if not t.is_drum]
    out = symusic.Score(TICKS_PER_QUARTER)
    out.tracks.append(
        track_of(*(np.concatenate([s[name].astype(np.int64) for s in soa]) for name in ("time", "duration", "pitch")))
    )
    return out


def melody(score, rng):
    """The top line alone."""
    top = fingerprints.lines(score)[0]
    out = symusic.Score(TICKS_PER_QUARTER)
    out.tracks.append(track_of(top.onset, np.append(np.diff(top.onset), TICKS_PER_QUARTER), top.pitch))
    return out


def ornamented(score, rng):
    """A grace note before one note in ten."""

    def change(on, du, pi):
        chosen = rng.random(len(on)) < 0.1
        return (
            np.concatenate([on, on[chosen] - 6]),
            np.concatenate([du, np.full(chosen.sum(), 6)]),
            np.concatenate([pi, pi[chosen] + rng.choice([-2, -1, 1, 2], chosen.sum())]),
        )

    return rebuilt(score, change)


def thinned(score, rng):
    """One note in twenty left out."""

    def change(on, du, pi):
        keep = rng.random(len(on)) >= 0.05
        return on[keep], du[keep], pi[keep]

    return rebuilt(score, change)


def misread(score, rng):
    """One note in twenty a step off, another one in twenty too late by a 32nd."""

    def change(on, du, pi):
        wrong, late = rng.random(len(on)) < 0.05, rng.random(len(on)) < 0.05
        return on + 12 * late, du, pi + np.where(wrong, rng.choice([-2, -1, 1, 2], len(on)), 0)

    return rebuilt(score, change)


def arranged(score, rng):
    """Transposed, all tracks in one, three inner notes of ten left out, one note in twenty misread."""
    out = merged(score, rng) or score.copy()
    kept = {}
    for line in fingerprints.lines(out)[:2]:
        kept.update(dict.fromkeys(zip(line.onset.tolist(), line.pitch.tolist())))

    def change(on, du, pi):
        outer = np.array([pair in kept for pair in zip(on.tolist(), pi.tolist())], dtype=bool)
        keep = outer | (rng.random(len(on)) < 0.7)
        return on[keep], du[keep], pi[keep]

    return transposed(misread(rebuilt(out, change), rng), rng)


VARIANTS = (
    transposed, halved, octaves, repeated, first_part, one_part,
    merged, melody, ornamented, thinned, misread, arranged,
)  # fmt: skip


def read(sources: list[str], limit: int | None) -> tuple[list[Piece], float]:
    """Pieces of the sources, each music once, and the seconds that all fingerprints took."""
    files = [file for source in sources for file in find_scores(source)]
    if limit:
        files = files[:: max(len(files) // limit, 1)]
    pieces, seconds = [], 0.0
    for file in tqdm(files, desc="scores", unit="file"):
        try:
            score = load_score(file.path, isolate=False).score
        except ScoreError:
            continue
        start = time.perf_counter()
        members = fingerprints.shingles(score)
        found = fingerprints.sketch(members)
        seconds += time.perf_counter() - start
        # The same number may name other works in two sources.
        work = f"{file.source.split(':')[0].split('/')[0]}:{file.work}"
        half = hashlib.sha256(work.encode()).digest()[0] % 2
        notes = sum(len(track.notes) for track in score.tracks)
        pieces.append(Piece(file.source, work, file.composer, notes, found, score, half, members))
    return pieces, seconds


def varied(pieces: list[Piece], kind, half: int) -> list[tuple[int, Piece]]:
    """The altered pieces of a half, each with the index of its original."""
    found = []
    for i, piece in enumerate(pieces):
        rng = np.random.default_rng(list(hashlib.sha256(piece.source.encode()).digest()[:8]))
        if piece.half != half or piece.fingerprint[1] < work_groups.GroupOptions.shingles:
            continue
        score = kind(piece.score, rng)
        if score is not None:
            name = f"{kind.__name__} {piece.source}"
            members = fingerprints.shingles(score)
            changed = {"source": name, "work": name, "shingles": members, "fingerprint": fingerprints.sketch(members)}
            found.append((i, dataclasses.replace(piece, **changed)))
    return found


def linked(pieces: list[Piece], options=None) -> list[work_groups.Link]:
    """Links as a build finds them, doubtful ones counted."""
    return work_groups.find_links(pieces, options, shingles_of=lambda i: pieces[i].shingles)


def judged(pieces, altered, links, groups, overlap: float) -> tuple[int, int, int]:
    """How many altered pieces were joined to their original's group, to another one, and to another composer's."""
    right, wrong, across = set(), set(), set()
    for link in links:
        if link.first < len(pieces) <= link.second and link.overlap >= overlap:
            i = link.second - len(pieces)
            same = groups[link.first] == groups[altered[i][0]]
            (right if same else wrong).add(i)
            if pieces[link.first].composer != altered[i][1].composer:
                across.add(i)
    return len(right), len(wrong), len(across)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", default=SOURCES)
    parser.add_argument("--limit", type=int, help="about so many pieces, evenly taken")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--only", choices=("variants", "works", "strangers", "minima", "costs"), help="one table")
    arguments = parser.parse_args()
    pieces, seconds = read(arguments.sources, arguments.limit)
    works = {piece.work for piece in pieces}
    notes = sum(p.notes for p in pieces)
    print(f"\n{len(pieces)} pieces, {len(works)} works, {notes:,} notes")
    print(f"a fingerprint: {1e3 * seconds / len(pieces):.1f} ms a piece, {1e6 * seconds / notes:.1f} us a note")
    default = work_groups.GroupOptions()
    loose = dataclasses.replace(default, overlap=min(THRESHOLDS))
    groups = work_groups.group_works(pieces, default, links=linked(pieces))
    figures = {"pieces": len(pieces), "works": len(works), "notes": notes, "kinds": {}, "tuning": {}}
    tables = {
        "variants": lambda: variants_table(pieces, groups, loose, default, figures),
        "works": lambda: joined_works(pieces, groups, default, figures),
        "strangers": lambda: strangers(pieces, loose, figures),
        "minima": lambda: minima_table(pieces, figures),
        "costs": lambda: costs(pieces, figures),
    }
    for name, table in tables.items():
        if arguments.only in (None, name):
            table()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def variants_table(pieces, groups, loose, default, figures) -> None:
    print("\n## Found again, by overlap from which pieces are joined (tuning half | judged half at the default)\n")
    header = (
        "altered",
        *map(str, THRESHOLDS),
        "pieces",
        "judged: found",
        "pieces",
        "others too",
        "of other composers",
    )
    print(f"| {' | '.join(header)} |")
    print("|---" * len(header) + "|")
    for kind in VARIANTS:
        cells = []
        for half in (0, 1):
            altered = varied(pieces, kind, half)
            links = linked([*pieces, *(a for _, a in altered)], loose)
            limits = THRESHOLDS if half == 0 else (default.overlap,)
            found = [judged(pieces, altered, links, groups, limit) for limit in limits]
            count = max(len(altered), 1)
            cells += [f"{right / count:.3f}" for right, *_ in found] + [str(len(altered))]
        cells += map(str, found[0][1:])
        figures["kinds"][kind.__name__] = cells
        print(f"| {kind.__name__.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


def joined_works(pieces, groups, default, figures) -> None:
    members: dict[str, set[str]] = {}
    for piece, group in zip(pieces, groups):
        members.setdefault(group, set()).add(piece.work)
    joined = sorted(sorted(works) for works in members.values() if len(works) > 1)
    largest = max(map(len, members.values()))
    print(f"\n## Works as they are: {len(members)} groups, {len(joined)} of several works, the largest of {largest}\n")
    for names in joined:
        print(f"- {', '.join(names)}")
    links = sorted(linked(pieces), key=lambda k: k.overlap)
    estimated = {(k.first, k.second) for k in work_groups.find_links(pieces, default)}
    missed = sum((k.first, k.second) not in estimated for k in links)
    wrong = len(estimated - {(k.first, k.second) for k in links})
    print(f"\n{len(links)} links; by the fingerprints alone {missed} fewer and {wrong} others. The weakest:\n")
    for link in links[:20]:
        print(f"- {link.overlap:.2f} {pieces[link.first].source}, {pieces[link.second].source}")
    figures["groups"], figures["largest"], figures["joined"] = len(members), largest, joined


def strangers(pieces, loose, figures) -> None:
    """Links between composers, who share no music that is known of; exact overlaps of the best of them."""
    options = dataclasses.replace(loose, overlap=0.05, doubtful_minima=2, doubtful_overlap=0.03)
    links = linked(pieces, options)
    across = [k for k in links if pieces[k.first].composer != pieces[k.second].composer]
    same = [k for k in links if pieces[k.first].composer == pieces[k.second].composer]
    print("\n## Pieces of different composers, who share no music that is known of\n")
    for limit in THRESHOLDS:
        count = sum(k.overlap >= limit for k in across)
        print(f"- overlap {limit}: {count} joined, {sum(k.overlap >= limit for k in same)} of one composer")
    print("\nThe largest between composers:\n")
    for link in sorted(across, key=lambda link: -link.overlap)[:8]:
        print(f"- {link.overlap:.3f} {pieces[link.first].source}, {pieces[link.second].source}")
    figures["strangers"] = sorted((k.overlap for k in across), reverse=True)[:50]


def minima_table(pieces, figures) -> None:
    """How many different composers' pieces are joined, and parts missed, by the least number of equal minima."""
    print("\n## Equal minima asked for where nothing is counted (single parts of the tuning half)\n")
    groups = work_groups.group_works(pieces, links=linked(pieces))
    altered = varied(pieces, one_part, 0)
    for minima in MINIMA:
        options = work_groups.GroupOptions(minima=minima)
        links = work_groups.find_links([*pieces, *(a for _, a in altered)], options)
        own = [k for k in links if k.second < len(pieces)]
        across = sum(pieces[k.first].composer != pieces[k.second].composer for k in own)
        right, wrong, _ = judged(pieces, altered, links, groups, options.overlap)
        print(f"- {minima}: {right} of {len(altered)} parts found, {wrong} joined to others too, ", end="")
        print(f"{across} pieces of different composers joined")


def costs(pieces, figures) -> None:
    """Time a piece to group real pieces, and synthetic ones that share stock phrases as real ones do."""
    print("\n## Grouping, ms a piece\n")
    rng = np.random.default_rng(0)
    sets = [piece.shingles for piece in pieces]
    pool = np.concatenate(sets)  # a phrase that many pieces have is drawn as often
    for count in (250, 500, 1000):
        if count <= len(pieces):
            chosen = [pieces[i] for i in rng.permutation(len(pieces))[:count]]
            print(f"- {count} real: {timed(chosen):.2f}")
    held, training = ([(p.source, p.score) for p in pieces if p.half == half] for half in (0, 1))
    start = time.perf_counter()
    leakage.audit({"test": held}, training)
    print(f"- audit of {len(held)} pieces: {1e3 * (time.perf_counter() - start) / len(pieces):.2f}")
    rows = []
    for i in range(20_000):
        size = len(sets[int(rng.integers(len(sets)))])
        stock = rng.choice(pool, size // 10)
        own = rng.integers(0, 2**40, size - len(stock), dtype=np.uint64)
        prints = fingerprints.sketch(np.unique(np.concatenate([stock, own])))
        rows.append({"source": str(i), "work": str(i), "fingerprint": prints})
    for count in (2_500, 5_000, 10_000, 20_000):
        print(f"- {count:,} synthetic: {timed(rows[:count]):.2f}", flush=True)


def timed(rows) -> float:
    start = time.perf_counter()
    work_groups.find_links(rows)
    return 1e3 * (time.perf_counter() - start) / len(rows)


if __name__ == "__main__":
    main()
