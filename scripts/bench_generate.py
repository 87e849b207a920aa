"""How fast music is written: this package's loop beside `model.generate()`, on the same weights and settings.

`python scripts/bench_generate.py` prints, for GPT-2 in three sizes at batch 1 and 16, new ids a second and the time to
the first finished bar; for the LSTM the time of an id at contexts of 100 and 4,000; what the grammar and drawing
take of a step; what windows cost a piece of ten contexts. Both sides write 1,000 new ids under the grammar,
and the ids of both must be the same: the likeliest ids in one row, and seeded draws in all the others, where
`generate()` is given the very draws as a logits processor. `plain` is `generate()` with its defaults and no processor.

Weights are drawn at random and scaled up until the model is as sure as a trained one; the tokenizer is trained on the
quartets in the music21 package. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from pathlib import Path

# As `musegen generate` sets it: threads that wait a moment for more work before they sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from transformers import LogitsProcessorList

from musegen.generation import Generation, sample, stream
from musegen.grammar import Grammar
from musegen.inference import stepper_for
from musegen.models import build_model
from musegen.sampling import DrawLogitsProcessor, Row, SamplingOptions
from musegen.scores import load_score
from musegen.tokenizer_training import train_tokenizer

MOVEMENTS = ("k80/movement1", "k155/movement1", "k156/movement1", "k155/movement3")
NEW, CONTEXT = 1000, 1024
SIZES = {"demo (2 x 256)": ("gpt-tiny", {"n_layer": 2}), "gpt-tiny": ("gpt-tiny", {}), "gpt-small": ("gpt-small", {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=3000)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--new", type=int, default=NEW)
    arguments = parser.parse_args()
    corpus = Path(importlib.util.find_spec("music21").origin).parent / "corpus" / "mozart"
    scores = [load_score(corpus / f"{name}.mxl", isolate=False).score for name in MOVEMENTS]
    tokenizer = train_tokenizer(scores, arguments.vocab_size, progress=False)
    grammar = Grammar(tokenizer)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {len(tokenizer)} ids, {arguments.new} new ids"
    )
    print("model           batch  draws   generate  own loop  ratio | plain  ratio | first bar  bfloat16")
    for size in arguments.sizes:
        name, settings = SIZES[size]
        model = build(name, tokenizer, **settings)
        for batch in arguments.batches:
            compare(size, model, grammar, batch, arguments.new)
    shares(build("gpt-small", tokenizer), grammar)
    recurrent(build("lstm-small", tokenizer), grammar)
    window(build("gpt-tiny", tokenizer, n_layer=2, n_positions=256), grammar)


def build(name: str, tokenizer, **settings):
    torch.manual_seed(0)
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    model = build_model(name, vocab_size=len(tokenizer), **ids, **{"n_positions": CONTEXT, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    return model


def compare(size: str, model, grammar: Grammar, batch: int, new: int) -> None:
    """One row of the table for greedy and one for seeded draws."""
    prompts, budgets = [[grammar.bos]] * batch, [10_000] * batch  # more bars than there are ids: no row ends early
    plain = batch * new / timed(lambda: by_generate(model, grammar, batch, new, None))[1]
    for label, options in (
        ("greedy", SamplingOptions(temperature=0, max_tokens=new)),
        ("seeded", SamplingOptions(temperature=1.0, top_p=0.97, seed=1, max_tokens=new)),
    ):
        theirs, their_time = timed(lambda o=options: by_generate(model, grammar, batch, new, o))
        ours, our_time = timed(lambda o=options: sample(model, grammar, prompts, budgets, o), 2)
        assert all(len(piece) == new + 1 for piece in [*theirs, *ours])
        assert ours == theirs, f"{size}, batch {batch}, {label}: other ids than generate()'s"
        _, half_time = timed(lambda o=options: sample(model, grammar, prompts, budgets, o, dtype=torch.bfloat16))
        begun = time.perf_counter()
        next(stream(model, grammar, prompts, budgets, options), None)
        first = time.perf_counter() - begun
        count = batch * new
        theirs, ours, half = (count / seconds for seconds in (their_time, our_time, half_time))
        print(
            f"{size:15} {batch:5}  {label} {theirs:8.0f} {ours:9.0f} {ours / theirs:6.2f}"
            f" | {plain:5.0f} {ours / plain:6.2f} | {first:7.2f} s {half:8.0f}",
            flush=True,
        )


def timed(work, times: int = 1):
    """What `work` returns, and the shortest of its times in seconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        found = work()
        taken.append(time.perf_counter() - begun)
    return found, min(taken)


def by_generate(model, grammar: Grammar, batch: int, new: int, options: SamplingOptions | None) -> list[list[int]]:
    ids = torch.full((batch, 1), grammar.bos)
    processors = []
    if options is not None:
        states = [grammar.read([grammar.bos])] * batch
        processors = [DrawLogitsProcessor(grammar, states, [10_000] * batch, 1, options)]
    settings = {"min_new_tokens": new} if options is None else {}
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=options is None,
        logits_processor=LogitsProcessorList(processors),
        pad_token_id=grammar.pad,
        eos_token_id=grammar.eos,
        **settings,
    )
    return out.tolist()


def shares(model, grammar: Grammar, steps: int = 300) -> None:
    """What of a step goes to the model, to the grammar, and to drawing."""
    options = SamplingOptions(seed=1)
    for batch in (1, 16):
        work = Generation(model, grammar, [[grammar.bos]] * batch, [10_000] * batch, options)
        spent = dict.fromkeys(("grammar", "drawing, grammar included", "model"), 0.0)

        def count(name, function, spent=spent):
            def counted(*arguments):
                begun = time.perf_counter()
                try:
                    return function(*arguments)
                finally:
                    spent[name] += time.perf_counter() - begun

            return counted

        work.step()
        allowed, advance = Row.allowed, Row.advance
        Row.allowed, Row.advance = count("grammar", allowed), count("grammar", advance)
        work._draw = count("drawing, grammar included", work._draw)
        work._stepper.step = count("model", work._stepper.step)
        begun = time.perf_counter()
        for _ in range(steps):
            work.step()
        whole = time.perf_counter() - begun
        Row.allowed, Row.advance = allowed, advance
        parts = ", ".join(f"{name} {value / whole:.1%}" for name, value in spent.items())
        print(f"a step of gpt-small at batch {batch}: {whole / steps * 1e3:.2f} ms; {parts}")


@torch.inference_mode()
def recurrent(model, grammar: Grammar) -> None:
    """The LSTM: an id at a short and at a long context, and against generate()."""
    stepper = stepper_for(model, 1)
    random = np.random.default_rng(0)
    ids = random.integers(4, len(grammar.legal), 4200).tolist()
    found = []
    for length in (100, 4000):
        stepper.start(0, ids[:length])
        found.append(min(timed(lambda: [stepper.step([i]) for i in ids[:100]])[1] / 100 for _ in range(5)))
    print(f"lstm-small, time of an id: {found[0] * 1e3:.2f} ms at 100 ids, {found[1] * 1e3:.2f} ms at 4,000")
    for batch in (1, 16):
        compare("lstm-small", model, grammar, batch, NEW)


def window(model, grammar: Grammar) -> None:
    """Ten contexts: ids a second of the first and of the last tenth, and memory."""
    import resource

    total = 10 * model.config.n_positions
    work = Generation(model, grammar, [[grammar.bos]], [10_000], SamplingOptions(seed=3, max_tokens=total))
    marks = []
    begun = time.perf_counter()
    for i in range(total):
        work.step()
        if (i + 1) % (total // 10) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            marks.append((time.perf_counter() - begun, peak / 1024))
    seconds = np.diff([mark[0] for mark in marks], prepend=0)
    print(
        f"{total} ids in windows of {model.config.n_positions}: {total / 10 / seconds[1]:.0f} ids/s in the second"
        f" tenth, {total / 10 / seconds[-1]:.0f} in the last; peak memory grew by {marks[-1][1] - marks[1][1]:.1f} MB"
    )


if __name__ == "__main__":
    main()
