"""The dataset card of a corpus: what is in it, under which licences, how it was split, and whether the split leaks.

Writes `README.md` (the card, with the metadata that the Hub reads), `leakage.json` (the whole audit) and the picture
of `musegen.corpus_plots` into the folder, each aside and then renamed.

Source: the metadata of dataset cards, https://huggingface.co/docs/hub/datasets-cards, by `huggingface_hub`'s own
classes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from musegen.corpus_plots import PICTURE, draw
from musegen.corpus_stats import Summary, parquet_files, read_batches, summarize
from musegen.errors import CorpusError
from musegen.leakage import FLAG_OVERLAP, Nearest, audit
from musegen.scores import parse_midi

CARD = "README.md"
AUDIT = "leakage.json"
LISTED = 40  # works, makers and audited pieces that the card names of each kind; the files name all
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
# As the Hub spells those licences that it knows; others are `other` there.
_HUB_LICENSES = {
    "cc0": "cc0-1.0", "cc0-1.0": "cc0-1.0", "cc-by-2.0": "cc-by-2.0", "cc-by-2.5": "cc-by-2.5",
    "cc-by-3.0": "cc-by-3.0", "cc-by-4.0": "cc-by-4.0", "cc-by-sa-3.0": "cc-by-sa-3.0", "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0", "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0", "mit": "mit", "apache-2.0": "apache-2.0",
}  # fmt: skip
_FIELDS = {
    "midi": "a MIDI file: whole bars from tick 0 on, notes on a grid of 24 positions a beat",
    "input_ids": "the piece as base tokens, before BPE",
    "content_hash": "SHA-256 of notes and bars; equal music, equal hash",
    "work": "the work that the piece belongs to, as its source tells it",
    "group": "the group of works that share music; no group is in two splits",
    "composer": "composer, if known",
    "title": "title, if known",
    "source": "where the file lay, from what was named to the build",
    "provenance": "who made the file and where it was published",
    "license": "licence of the file, as its source tells it",
    "notes": "notes",
    "bars": "bars",
    "beats": "quarter notes",
    "seconds": "playing time at its own tempos",
    "key": "first key signature, if there is one",
    "metre": "first metre",
    "programs": "General MIDI programs from 0, -1 for drums",
    "fingerprint": "MinHash of the music, the same in any key or tempo (`musegen.fingerprints`)",
}


def write_card(folder: str | Path, *, name: str = "", repository: str = "", progress: bool = True) -> str:
    """Audit a corpus and write its card.

    Args:
        folder: Of the corpus.
        name: Title of the card; the folder's name by default.
        repository: Name on the Hub by which the card tells how to load it; the folder's name by default.
        progress: Show a bar.

    Returns:
        A few lines for a person: what was written, and what the audit found.

    Raises:
        CorpusError: If there is no corpus, or the card cannot be written.
        ScoreError: If the music of a row is damaged.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    summary = summarize(folder)
    nearest = audit_corpus(folder, progress=progress)
    works = _works(folder)
    draw(summary, folder / PICTURE, name)
    entries = {"flag_overlap": FLAG_OVERLAP, "pieces": [dataclasses.asdict(entry) for entry in nearest]}
    _write(folder / AUDIT, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    _write(folder / CARD, card(folder, summary, nearest, works, name, repository or folder.resolve().name))
    refresh_sums(folder, (AUDIT, CARD, PICTURE))
    flagged = sum(entry.flagged for entry in nearest)
    worst = max(nearest, key=lambda entry: entry.overlap, default=None)
    lines = [f"card: {folder / CARD}", f"audit: {len(nearest)} held-out pieces, {flagged} flagged"]
    if worst is not None:
        lines.append(f"largest overlap with a training piece: {worst.overlap:.2f} ({worst.source}, {worst.nearest})")
    return "\n".join(lines)


def audit_corpus(folder: str | Path, *, progress: bool = False) -> list[Nearest]:
    """`musegen.leakage.audit` of a corpus in a folder, which may be larger than memory.

    Raises:
        CorpusError: If there is no corpus.
        ScoreError: If the music of a row is damaged.
    """
    files = parquet_files(folder)
    held_out = {name: _scores(files[name]) for name in ("test", "validation") if name in files}
    return audit(held_out, _scores(files.get("train", [])), progress=progress)


def card(
    folder: Path,
    summary: Summary,
    nearest: list[Nearest],
    works: dict[str, dict[str, list[str]]],
    name: str,
    repository: str,
) -> str:
    """The text of a card with its metadata.

    Args:
        folder: Of the corpus.
        summary: What is inside.
        nearest: The audit.
        works: Split -> group -> works, sorted.
        name: Title.
        repository: By which it is loaded.
    """
    sections = [
        _metadata(summary, name),
        f"# {name}\n\n{_intro(summary)}\n\n![What is inside]({PICTURE})",
        _inside(summary),
        _loading(repository),
        _fields(folder),
        _licences(summary),
        _split_section(works),
        _audit_section(nearest),
        _making(summary),
        _citing(summary),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(summary: Summary, name: str) -> str:
    from huggingface_hub import DatasetCardData

    known = {_HUB_LICENSES.get(license_.lower(), "other") for _, license_ in summary.licenses}
    licenses = sorted(known, key=lambda value: (value == "other", value))
    size = next((label for limit, label in _SIZES if summary.total.pieces < limit), "n>10M")
    data = DatasetCardData(
        pretty_name=name,
        license=licenses[0] if len(licenses) == 1 else licenses,
        size_categories=[size],
        tags=["music", "midi", "symbolic-music", "musegen"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in summary.splits],
            }
        ],
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---"


def _intro(summary: Summary) -> str:
    total, few = summary.total, summary.composer_pieces.most_common(6)
    composers = ", ".join(f"{_plain(name)} ({count:,})" for name, count in few)
    more = f" and {len(summary.composer_pieces) - 6:,} more" if len(summary.composer_pieces) > 6 else ""
    return (
        f"{total.pieces:,} pieces of music as scores, {total.notes:,} notes, made with `musegen`: one row a piece, "
        f"ready to train on. Pieces by composer: {composers}{more}."
    )


def _inside(summary: Summary) -> str:
    rows = []
    for name, own in {**summary.splits, "all": summary.total}.items():
        hours = (own.seconds or own.beats / 2) / 3600
        rows.append(
            (name, f"{own.pieces:,}", f"{own.works:,}", f"{own.groups:,}" if own.groups else "", f"{own.notes:,}",
             f"{own.bars:,}", f"{hours:,.1f}")
        )  # fmt: skip
    note = "" if summary.total.seconds else "\n\nHours at 120 quarter notes a minute."
    return (
        f"## What is inside\n\n{_table(('split', 'pieces', 'works', 'groups', 'notes', 'bars', 'hours'), rows)}{note}"
    )


def _loading(repository: str) -> str:
    return (
        "## How to load it\n\n```python\nfrom datasets import load_dataset\n\n"
        f'corpus = load_dataset("{repository}")  # a name on the Hub, or the folder\n'
        'row = corpus["train"][0]\nprint(row["composer"], row["title"], row["notes"])\n\n'
        "import symusic\n\n"
        'score = symusic.Score.from_midi(row["midi"])\n```\n\n'
        "With `streaming=True` rows come one by one, from a corpus of any size."
    )


def _fields(folder: Path) -> str:
    from pyarrow import parquet

    schema = parquet.read_schema(next(iter(parquet_files(folder).values()))[0])
    rows = [
        (f"`{field.name}`", re.sub(r"<.*: (\w+)>", r" of \1", str(field.type)), _FIELDS.get(field.name, ""))
        for field in schema
    ]
    return f"## Fields\n\n{_table(('field', 'type', 'meaning'), rows)}"


def _licences(summary: Summary) -> str:
    rows = [
        (_plain(source), _plain(license_), f"{count:,}")
        for (source, license_), count in sorted(summary.licenses.items(), key=lambda item: (item[0][0], -item[1]))
    ]
    text = (
        "## Licences\n\nEach row has its own `license` and `provenance`; what you may do with a piece is what its row "
        f"says.\n\n{_table(('source', 'licence', 'pieces'), rows)}"
    )
    asking = {key: count for key, count in summary.credits.items() if key[0].upper().startswith("CC-BY") and key[1]}
    if not asking:
        return text
    text += "\n\nThese licences ask that the makers are named. They made the files under them:\n"
    for license_ in sorted({key[0] for key in asking}):
        makers = sorted(((count, maker) for (name, maker), count in asking.items() if name == license_), reverse=True)
        names = ", ".join(f"{_plain(maker)} ({count:,})" for count, maker in makers)
        text += f"\n- {_plain(license_)}: {names}"
    share_alike = any("-SA" in name.upper() for name, _ in asking)
    if share_alike:
        text += "\n\nCC-BY-SA asks besides that what is made from these pieces is shared under the same licence."
    return text


def _split_section(works: dict[str, dict[str, list[str]]]) -> str:
    text = (
        "## Splits\n\nWorks that share music, as other editions, keys, arrangements and single parts do, make a "
        "group; a group is in one split as a whole. They are found by fingerprints of the music, not by titles."
    )
    joined = [members for groups in works.values() for members in groups.values() if len(members) > 1]
    for split, groups in works.items():
        if split != "train":
            names = sorted(work for members in groups.values() for work in members)
            text += f"\n\nWorks in {split}: {_some(names)}."
    if joined:
        lines = "".join(f"\n- {_some(members)}" for members in sorted(joined)[:LISTED])
        more = f"\n- and {len(joined) - LISTED:,} more groups" if len(joined) > LISTED else ""
        text += f"\n\nGroups of more than one work:\n{lines}{more}"
    return text


def _audit_section(nearest: list[Nearest]) -> str:
    text = (
        "## Leakage audit\n\nFor each held-out piece, the training piece that overlaps with it most. The overlap is "
        "the share of the smaller piece's runs of 9 notes, told by intervals and ratios of lengths in any key and "
        "tempo, that the other piece has too; the span is the longest run of notes of one line that both share. Both "
        f"are counted exactly. Pieces with an overlap of {FLAG_OVERLAP} or more are flagged: pieces of different "
        f"composers do not reach it. `{AUDIT}` has all pieces."
    )
    if not nearest:
        return f"{text}\n\nNothing is held out in this corpus."
    rows = []
    for split in dict.fromkeys(entry.split for entry in nearest):
        values = sorted(entry.overlap for entry in nearest if entry.split == split)
        flagged = sum(entry.flagged for entry in nearest if entry.split == split)
        middle, high = values[len(values) // 2], values[-1]
        rows.append((split, f"{len(values):,}", f"{flagged:,}", f"{middle:.3f}", f"{high:.3f}"))
    text += f"\n\n{_table(('split', 'pieces', 'flagged', 'median overlap', 'largest overlap'), rows)}"
    ordered = sorted(nearest, key=lambda entry: (-entry.overlap, entry.source))
    rows = [
        (entry.split, _plain(entry.source), _plain(entry.nearest), f"{entry.overlap:.3f}", f"{entry.span}",
         "flagged" if entry.flagged else "")
        for entry in ordered[:LISTED]
    ]  # fmt: skip
    header = ("split", "held-out piece", "nearest training piece", "overlap", "span", "")
    return f"{text}\n\nThe nearest:\n\n{_table(header, rows)}"


def _making(summary: Summary) -> str:
    text = (
        "## How it was made\n\n`musegen corpus build` read every file in an isolated process, laid it on whole bars "
        "and a grid, dropped pieces whose notes and bars are those of another, and split the rest by groups of works."
    )
    if summary.files:
        counts = [(name, f"{count:,}") for name, count in summary.files.items()]
        text += f" Of {summary.report.get('found', 0):,} files:\n\n{_table(('files', 'count'), counts)}"
    repairs = {name: count for name, count in (summary.report.get("repairs") or {}).items() if count}
    if repairs:
        rows = [(name.replace("_", " "), f"{count:,}") for name, count in repairs.items()]
        text += f"\n\nRepairs that were made on the way:\n\n{_table(('repair', 'times'), rows)}"
    return text


def _citing(summary: Summary) -> str:
    makers = collections.Counter()
    for (_, maker), count in summary.credits.items():
        if maker:
            makers[maker] += count
    text = (
        "## How to cite it\n\nName the makers of the scores that you use, as their licences ask, and the tool:\n\n"
        "```bibtex\n@software{musegen,\n  title = {musegen: composing music with Hugging Face models},\n"
        "  author = {{The musegen developers}},\n  license = {Apache-2.0}\n}\n```"
    )
    if makers:
        names = [f"{_plain(maker)} ({count:,})" for maker, count in makers.most_common()]
        text += f"\n\nMakers of the scores, by pieces: {_some(names)}."
    return text


def _scores(files: list[Path]) -> Iterator[tuple[str, Any]]:
    for batch in read_batches(files, ("source", "midi"), size=256):
        for source, midi in zip(batch["source"], batch["midi"]):
            yield source, parse_midi(midi, source).score


def _works(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Split -> group -> works; each work its own group if the corpus tells no groups."""
    found: dict[str, dict[str, list[str]]] = {}
    for split, files in parquet_files(folder).items():
        groups: dict[str, set[str]] = {}
        for batch in read_batches(files, ("work", "group")):
            for work, group in zip(batch["work"], batch.get("group", batch["work"])):
                groups.setdefault(group or work, set()).add(work)
        found[split] = {group: sorted(works) for group, works in sorted(groups.items())}
    return found


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return f"{shown}, and {len(names) - LISTED:,} more" if len(names) > LISTED else shown


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written ({error})") from None


def refresh_sums(folder: Path, names: Iterable[str]) -> None:
    """Keep `SHA256SUMS` of a corpus true, if there is one, of files that were written anew.

    Args:
        folder: Of the corpus.
        names: Of the files.
    """
    path = folder / "SHA256SUMS"
    if not path.is_file():
        return
    pairs = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if "  " in line)
    sums = {name: digest for digest, name in pairs}
    for name in names:
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _write(path, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
