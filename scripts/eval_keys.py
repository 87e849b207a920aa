"""Whether a key that is asked for is heard: python scripts/eval_keys.py MODEL --corpus CORPUS.

The share of notes inside the scale of the key (of minor keys both forms), and how often the key that a distribution of
pitch classes fits best (`musegen.tonality.estimate_key`) is the one asked for: in pieces from nothing, as the model
writes them and with what notes outside the key lose (`Grammar.foreign_notes`); and in the first bars of real pieces of
the training split, by the key that they say of themselves.
"""

import argparse

import numpy as np

from musegen import grammar
from musegen import grid as g
from musegen.composing import compose, load_writer
from musegen.controls import controls_of, parse_key
from musegen.corpus import corpus_scores, load_corpus
from musegen.sampling import SamplingOptions
from musegen.tonality import estimate_key
from musegen.wishes import Wishes

KEYS = ("D major", "Eb major", "g minor", "C major")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--composer", default="Mozart")
    parser.add_argument("--instruments", nargs="+", default=["string quartet", "piano"])
    parser.add_argument("--nats", type=float, nargs="+", default=[0.0, grammar._FOREIGN_NATS])
    parser.add_argument("--num", type=int, default=16, help="pieces a key")
    parser.add_argument("--bars", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    told = parser.parse_args()
    print("| | notes outside lose | notes in the scale | key heard |\n|---|---|---|---|")
    rows = load_corpus(told.corpus)["train"].filter(lambda row: told.composer in row["composer"])
    real = [(controls_of(score).key, g.slice_bars(score, 0, told.bars)) for _, score in corpus_scores(rows)]
    line(f"{told.composer}, the first bars", "", [(key, score) for key, score in real if key and score.note_num()])
    model, tokenizer = load_writer(told.model)
    for instruments in told.instruments:
        for nats in told.nats:
            grammar._FOREIGN_NATS, made = nats, []
            for key in KEYS:
                wishes, options = Wishes(key=key, instruments=instruments), SamplingOptions(seed=told.seed)
                pieces = compose(model, tokenizer, [None] * told.num, bars=told.bars, wishes=wishes, options=options)
                made += [(parse_key(key), piece.score) for piece in pieces]
            line(instruments, f"{nats:g}", made)


def line(name: str, nats: str, pieces: list) -> None:
    """One row of the table, of pieces and the keys that they should have."""
    inside, heard = [], 0
    for (tonic, minor), score in pieces:
        notes = g.note_array(score)
        steps = (notes["pitch"].astype(int) - tonic) % 12
        inside.append(np.isin(steps, grammar._MINOR_SCALE if minor else grammar._MAJOR_SCALE).mean())
        fifths = ((tonic + (3 if minor else 0)) * 7 + 5) % 12 - 5
        heard += estimate_key(notes["pitch"], notes["duration"]) == (fifths, minor)
    print(f"| {name} | {nats} | {np.mean(inside):.3f} | {heard} of {len(pieces)} |", flush=True)


if __name__ == "__main__":
    main()
