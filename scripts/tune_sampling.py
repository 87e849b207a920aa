"""How a model should be sampled, by the validation works: python scripts/tune_sampling.py MODEL --corpus CORPUS.

For each temperature, top_p and repetition (nats against standing still), pieces are written from nothing, or in a form
(`--form`, of as many bars as `--bars`), and judged against the validation split, as
`musegen evaluate` does against the test split: how well a classifier tells them from real music (AUC, .5 is not at
all), how far the figures are from those of real music, and what they share with the training works. The table is in
order of the AUC; the report lies in --out. What is chosen goes into `generation_config.json`, by
`scripts/ship_model.py`.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

from musegen import repetition
from musegen.composing import load_model
from musegen.controls import TASK, task_params
from musegen.corpus import load_corpus
from musegen.evaluation import SampleOptions, corpus_pieces, draw_samples
from musegen.judging import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("sampling"))
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.9, 0.95, 1.0, 1.05])
    parser.add_argument("--top-p", type=float, nargs="+", default=[0.95, 0.97, 1.0])
    parser.add_argument("--repetition", type=float, nargs="+", default=[0.0])
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--bars", type=int, default=64)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--form")
    parser.add_argument("--runs", type=int, nargs=len(repetition.RUNS), help="alike bars in a row before it acts")
    told = parser.parse_args()
    if told.runs:
        repetition.RUNS = dict(zip(repetition.RUNS, told.runs))
    splits = load_corpus(told.corpus)
    model, tokenizer = load_model(told.model)
    groups = {}
    for temperature, top_p, nats in itertools.product(told.temperature, told.top_p, told.repetition):
        label = f"t{temperature:g}-p{top_p:g}-r{nats:g}"
        model.config.task_specific_params = {TASK: {**task_params(model), "repetition": nats}}
        options = SampleOptions(told.num, told.bars, temperature, top_p, told.seed, form=told.form)
        groups[label] = draw_samples(model, tokenizer, label, told.out / "samples" / label, options)
    results = judge(
        groups,
        train=corpus_pieces(splits["train"]),
        held_out=corpus_pieces(splits["validation"]),
        out_dir=told.out,
        bars=told.bars,
        seed=told.seed,
        title=f"How should {Path(told.model).name} be sampled?",
    )
    found = sorted((results["groups"][label]["two_sample"]["auc"], label) for label in groups)
    columns = ("sampling", "AUC", "distance", "figures inside", "similarity error, lags 4 to 32",
               "structureness, 5 to 16 bars", "customised BLEU", "longest copied span")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for auc, label in found:
        group = results["groups"][label]
        print(
            f"| {label} | {auc:.2f} | {group['distance']['value']:.2f} | {group['inside']} of {group['judged']} | "
            f"{group['similarity']['error_of_form']:.4f} | {group['metrics']['structureness_long']['mean']:.3f} | "
            f"{group['bleu']['mean']:.2f} | {(group['originality']['longest'] or {}).get('notes', 0)} |"
        )


if __name__ == "__main__":
    main()
    # pyarrow's threads, once a corpus was read, may abort a process that closes (docs/log.md).
    sys.stdout.flush()
    os._exit(0)
