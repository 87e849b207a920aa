"""Whether all instruments that are asked for play: python scripts/eval_entries.py MODEL.

Pieces from nothing for each ensemble, as the model writes them and with what late instruments gain
(`Grammar.late_entries`): in how many all play, and the bar of the last entry where all do.
"""

import argparse

import numpy as np

from musegen import grammar
from musegen import grid as g
from musegen.composing import compose, load_writer
from musegen.sampling import SamplingOptions
from musegen.wishes import Wishes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--ensembles", nargs="+", default=["string quartet", "piano trio", "wind quintet"])
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--bars", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    told = parser.parse_args()
    model, tokenizer = load_writer(told.model)
    usual = grammar._MOST_ENTRY_NATS
    print("| ensemble | late instruments gain | all play | last entry, mean bar |\n|---|---|---|---|")
    for ensemble in told.ensembles:
        wishes = Wishes(instruments=ensemble)
        for most in (0.0, usual):
            grammar._MOST_ENTRY_NATS = most
            options = SamplingOptions(seed=told.seed)
            pieces = compose(model, tokenizer, [None] * told.num, bars=told.bars, wishes=wishes, options=options)
            last = [bar for bar in map(last_entry, pieces, [set(wishes.programs)] * told.num) if bar]
            mean = f"{np.mean(last):.1f}" if last else ""
            print(f"| {ensemble} | {'yes' if most else 'no'} | {len(last)} of {told.num} | {mean} |", flush=True)


def last_entry(piece, programs: set[int]) -> int | None:
    """The bar, from 1, in which the last of some programs enters; None where one never does."""
    notes, starts = g.note_array(piece.score), g.bar_grid(piece.score).starts
    onsets = [notes["onset"][notes["program"] == program] for program in programs]
    if not all(map(len, onsets)):
        return None
    return int(np.searchsorted(starts, max(o.min() for o in onsets), side="right"))


if __name__ == "__main__":
    main()
