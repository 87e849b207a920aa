"""The results of a model card: the figures that decide, next to real music's, as a table and as the Hub's model index.

All words and figures are those of `results.json` (`musegen.judging.results`), so that card and report cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from musegen.judging.verdict import number

# Figures of `told` that go to the model index, and their names there: what they are, without what real music has.
_INDEXED = {
    "music_bleu": ("music_bleu", "customised BLEU against the training works"),
    "copied_notes_transposed": ("longest_copied_span", "longest span copied from the training works, notes"),
    "similarity_error": ("similarity_error", "similarity error of bars by lag"),
    "auc": ("two_sample_auc", "AUC of a classifier between its music and real music, 0.5 is chance"),
}


def metric_results(results: dict[str, Any] | None, group: str) -> Iterator[tuple[str, str, float]]:
    """Type, name and value of each figure for the model index; undefined ones are left out.

    Args:
        results: The content of `results.json`, or None.
        group: The model's name in it.
    """
    if results is None:
        return
    bits = (results["likelihood"].get(group) or {}).get("bits_per_note")
    if bits is not None:
        yield "bits_per_note", "bits a note on held-out works", round(bits, 4)
    for row in results["groups"][group]["verdict"]["told"]:
        if row["name"] in _INDEXED and row["value"] is not None:
            kind, name = _INDEXED[row["name"]]
            yield kind, name, round(row["value"], 4)


def results_section(results: dict[str, Any] | None, group: str) -> str:
    """The section of a card: setting, table, verdict.

    Args:
        results: The content of `results.json`, or None.
        group: The model's name in it.
    """
    if results is None:
        return "## Results\n\nNot measured; `musegen evaluate` does it against held-out works."
    setting, found = results["setting"], results["groups"][group]
    text = (
        "## Results\n\n"
        f"{found['verdict']['headline']} {_likelihood(results, group)}\n\n"
        f"Measured by `musegen evaluate` on {found['samples']} pieces of {setting['bars']} bars composed from nothing "
        f"and {setting['held_out_excerpts']} excerpts of {len(setting['held_out_works'])} held-out "
        f"work{'' if len(setting['held_out_works']) == 1 else 's'}. The band is where 95 % of groups of real music of "
        "this size lie. Higher is not better: above real music, BLEU and copied spans mean copying.\n\n"
    )
    lines = ["| figure | this model | real music | band of real music | it is |", "|---|---|---|---|---|"]
    for row in found["verdict"]["told"]:
        band = f"{number(row['low'])} to {number(row['high'])}" if row["high"] is not None else "\N{EN DASH}"
        lines.append(f"| {row['label']} | {number(row['value'])} | {number(row['real'])} | {band} | {row['words']} |")
    sentences = " ".join(found["verdict"]["sentences"])
    bleu = found["bleu"]
    return (
        f"{text}{chr(10).join(lines)}\n\nIn words: {sentences}\n\n"
        f"BLEU is `{bleu['signature']}`, over {setting['bleu_tokens']} notewise tokens."
    )


def _likelihood(results: dict[str, Any], group: str) -> str:
    own = results["likelihood"].get(group) or {}
    bits, markov = own.get("bits_per_note"), own.get("markov_bits_per_note")
    if bits is None:
        return ""
    text = f"It needs {number(bits)} bits for a note of the held-out works"
    return f"{text}; an n-gram model on the same tokens needs {number(markov)}." if markov is not None else f"{text}."
