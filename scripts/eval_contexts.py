"""How far back a model looks for what it writes: bits a note by context, on the validation works.

    python scripts/eval_contexts.py mozart-gpt mozart-lstm --corpus runs/mozart/corpus

Pieces are read in windows of so many tokens that overlap by half (`musegen.likelihood`). A model that knew short
patterns only would lose nothing in short windows.
"""

import argparse
import os
import sys

from musegen.composing import load_model
from musegen.corpus import load_corpus
from musegen.evaluation import encoded_pieces
from musegen.layout import StreamLayout
from musegen.likelihood import context_of, score_pieces


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="tokens")
    told = parser.parse_args()
    rows = load_corpus(told.corpus)["validation"]
    print(f"| model |{''.join(f' {context:,} |' for context in told.contexts)}\n|---|{'---|' * len(told.contexts)}")
    for name in told.models:
        model, tokenizer = load_model(name)
        pieces = list(encoded_pieces(tokenizer, rows))
        line = f"| {name} |"
        for context in told.contexts:
            if context > (context_of(model) or context):
                line += " |"
                continue
            found = score_pieces(model, pieces, context=context, layout=StreamLayout(tokenizer))
            line += f" {found.bits_per_note:.2f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
    # pyarrow's threads, once a corpus was read, may abort a process that closes (docs/log.md).
    sys.stdout.flush()
    os._exit(0)
