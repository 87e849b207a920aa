"""What a GPT-2 loses at positions that its training never reached, and which filling of them loses least.

    python scripts/eval_positions.py runs/mozart/gpt-1 --corpus runs/mozart/corpus --trained 512

prints bits a note on the validation works, in windows as long as training had and as long as the model allows, with
the upper position embeddings as they are and filled in several ways from the trained ones.
"""

import argparse
from collections.abc import Callable

import torch

from musegen.composing import load_model
from musegen.corpus import load_corpus
from musegen.evaluation import encoded_pieces
from musegen.layout import StreamLayout
from musegen.likelihood import score_pieces
from musegen.models.tuning import stretched


def fillings(known: torch.Tensor, positions: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to make (positions, width) out of the trained (trained, width), by name."""
    trained = len(known)
    times = -(-positions // trained)

    def repeated(rows: torch.Tensor) -> torch.Tensor:
        more = rows.repeat(-(-(positions - trained) // len(rows)), 1)[: positions - trained]
        return torch.cat([known, more])  # (positions, width)

    return {
        "stretched": lambda: stretched(known, positions, trained),
        "mirrored": lambda: torch.cat([known, known.flip(0)] * times)[:positions],
        "last 64 repeated": lambda: repeated(known[-64:]),
        "copied": lambda: repeated(known),
        "mean of the upper half": lambda: repeated(known[trained // 2 :].mean(0, keepdim=True)),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--trained", type=int, required=True, help="positions that training reached")
    told = parser.parse_args()
    model, tokenizer = load_model(told.model)
    rows = load_corpus(told.corpus)["validation"]
    pieces = list(encoded_pieces(tokenizer, rows))
    layout, table = StreamLayout(tokenizer), model.transformer.wpe.weight.data  # (positions, width)

    def show(name: str, context: int) -> None:
        bits = score_pieces(model, pieces, context=context, layout=layout).bits_per_note
        print(f"{name:<24} context {context:>5}  {bits:.2f} bits a note", flush=True)

    show("as it is", told.trained)
    show("as it is", len(table))
    known = table[: told.trained].clone()
    for name, fill in fillings(known, len(table)).items():
        table.copy_(fill())
        show(name, len(table))


if __name__ == "__main__":
    main()
