"""What is inside a corpus, in words and counts."""

from __future__ import annotations

import collections

INSTRUMENTS_SHOWN = 12


def describe(corpus) -> str:
    """A table for a person.

    Args:
        corpus: A `DatasetDict` of `musegen.corpus.load_corpus`.

    Returns:
        Lines: pieces, works, notes and bars of each split; composers, keys, metres, programs and licences in all.
    """
    lines = [f"{'split':<12}{'pieces':>8}{'works':>8}{'notes':>12}{'bars':>10}{'beats':>12}"]
    for name, rows in corpus.items():
        table = rows.remove_columns(["midi"])
        lines.append(
            f"{name:<12}{len(rows):>8,}{len(set(table['work'])):>8,}{sum(table['notes']):>12,}"
            f"{sum(table['bars']):>10,}{sum(table['beats']):>12,.0f}"
        )
    rows = [row for split in corpus.values() for row in split.remove_columns(["midi"])]
    lines.append("")
    for title, values in (
        ("composers", [row["composer"] or "unknown" for row in rows]),
        ("keys", [row["key"] or "unknown" for row in rows]),
        ("metres", [row["metre"] for row in rows]),
        ("programs", [instrument(p) for row in rows for p in row["programs"]]),
        ("licences", [row["license"] or "not stated" for row in rows]),
    ):
        counted = collections.Counter(values).most_common()
        shown = ", ".join(f"{value} {count}" for value, count in counted[:INSTRUMENTS_SHOWN])
        more = f", and {len(counted) - INSTRUMENTS_SHOWN} more" if len(counted) > INSTRUMENTS_SHOWN else ""
        lines.append(f"{title + ':':<12}{shown}{more}")
    return "\n".join(lines)


def instrument(program: int) -> str:
    """The General MIDI name of a program; -1 for drums."""
    from miditok.constants import MIDI_INSTRUMENTS

    return "Drums" if program < 0 else MIDI_INSTRUMENTS[program]["name"]
