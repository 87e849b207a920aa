"""What `musegen export MODEL --check` prints, for a GPT-2 and an LSTM of use: greedy ids and tokens/s beside torch's.

Weights are drawn at random and scaled up until the model is as sure as a trained one; the tokenizer is trained on the
quartets in the music21 package. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

# As `musegen export` sets it: threads that wait a moment for more work before they sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from musegen.exporting import check_export, export_model
from musegen.models import build_model
from musegen.scores import load_score
from musegen.tokenizer_training import train_tokenizer
from musegen.training import save_model

MOVEMENTS = ("k80/movement1", "k155/movement1", "k156/movement1", "k155/movement3")
CONTEXT = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["gpt-tiny", "gpt-small", "lstm-small"])
    parser.add_argument("--vocab-size", type=int, default=1300)
    parser.add_argument("--tokens", type=int, nargs="*", default=[200, 1000])
    arguments = parser.parse_args()
    corpus = Path(importlib.util.find_spec("music21").origin).parent / "corpus" / "mozart"
    scores = [load_score(corpus / f"{name}.mxl", isolate=False).score for name in MOVEMENTS]
    tokenizer = train_tokenizer(scores, arguments.vocab_size, progress=False)
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    with tempfile.TemporaryDirectory() as root:
        for size in arguments.sizes:
            torch.manual_seed(0)
            model = build_model(size, vocab_size=len(tokenizer), n_positions=CONTEXT, **ids).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter *= 1.5
            folder, export = Path(root) / size, Path(root) / f"{size}-onnx"
            save_model(model, tokenizer, folder)
            export_model(folder, export)
            megabytes = sum(file.stat().st_size for file in export.iterdir()) / 1e6
            print(f"{size}: {sum(p.numel() for p in model.parameters()):,} parameters, {megabytes:.0f} MB", flush=True)
            for tokens in arguments.tokens:
                print(check_export(folder, export, tokens), flush=True)


if __name__ == "__main__":
    main()
