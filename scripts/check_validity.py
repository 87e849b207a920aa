"""Sample many pieces from models, trained and untrained, and prove of each that it is valid music.

    python scripts/check_validity.py MODEL... --pieces 10000

A piece is valid if the grammar lets it pass a second time, id by id; if it has exactly the bars asked for and ends; if
it decodes; and if its MIDI file reads back as the very same notes and bars. Untrained models stand beside those that
are named: a GPT-2 and an LSTM with the weights of their birth, over the first model's tokenizer. Exits with 1 if any
piece fails.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import torch
from tqdm.auto import tqdm

from musegen import grid as g
from musegen.composing import compose, load_model
from musegen.grammar import Grammar
from musegen.models import build_model
from musegen.sampling import SamplingOptions
from musegen.scores import content_hash, parse_midi

TEMPERATURES = (0.5, 0.8, 1.0, 1.3, 1.6, 2.0)
BATCH = 16
SIZES = {"gpt-tiny": {"n_layer": 2, "n_embd": 64, "n_head": 2}, "lstm-tiny": {"hidden_size": 64}}


def untrained(tokenizer) -> Iterator[tuple[str, torch.nn.Module]]:
    """A small model of each kind with fresh weights."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, sizes in SIZES.items():
        torch.manual_seed(0)
        model = build_model(name, vocab_size=len(tokenizer), n_positions=512, **ids, **sizes)
        yield f"untrained {name}", model.eval()


def faults(tokenizer, piece, bars: int) -> list[str]:
    """What is wrong with a piece; nothing for a valid one."""
    found = []
    grammar = Grammar(tokenizer, steady_metre=True)
    state = grammar.read(())
    for token in piece.input_ids[1:]:
        if not grammar.allowed(state, bars)[token]:
            found.append(f"{tokenizer.token_names([token])} is out of place in bar {state.bars}")
            break
        state = grammar.advance(state, token)
    if not piece.ended or len(g.bar_grid(piece.score)) > bars or state.bars != bars:
        found.append(f"{state.bars} bars, ended {piece.ended}")
    if content_hash(parse_midi(piece.midi).score) != content_hash(piece.score):
        found.append("its MIDI file reads back as other music")
    return found


def main() -> int:
    """Parse arguments, sample, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders")
    parser.add_argument("--pieces", type=int, default=10_000, help="in all")
    parser.add_argument("--bars", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    named = [(name, *load_model(name)) for name in options.models]
    named += [(name, model, named[0][2]) for name, model in untrained(named[0][2])]
    rounds = -(-options.pieces // (len(named) * len(TEMPERATURES) * BATCH))
    checked = failed = notes = 0
    started = time.monotonic()
    with tqdm(total=rounds * len(named) * len(TEMPERATURES) * BATCH, unit="piece") as bar:
        for name, model, tokenizer in named:
            for temperature in TEMPERATURES:
                for turn in range(rounds):
                    sampling = SamplingOptions(temperature=temperature, top_p=1.0, seed=options.seed + turn)
                    for piece in compose(model, tokenizer, [None] * BATCH, bars=options.bars, options=sampling):
                        wrong = faults(tokenizer, piece, options.bars)
                        checked, failed = checked + 1, failed + bool(wrong)
                        notes += len(g.note_array(piece.score))
                        for fault in wrong:
                            tqdm.write(f"{name}, temperature {temperature}, seed {sampling.seed}: {fault}")
                    bar.update(BATCH)
    print(
        f"{checked:,} pieces of {options.bars} bars, {notes:,} notes, from {len(named)} models at temperatures "
        f"{', '.join(map(str, TEMPERATURES))}: {failed} not valid ({time.monotonic() - started:.0f} s)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
