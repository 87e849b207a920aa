"""Measure music_bleu against nltk: speed of scoring, time and memory of the index, growth with the references.

The references are long sequences from a Markov chain of order 2, fitted to the notewise tokens of the Mozart
movements that the music21 package carries, cut into pieces; half of the predictions come from the same chain,
half are real openings. Everything is seeded. Run from the repository's root:

    python scripts/bench_bleu.py

Exits with 1 if a score differs from nltk's by more than 1e-9. A bound that is missed is printed as such; whether a
machine is fast enough for it is no matter of right or wrong. Times are seconds of wall clock.
"""

import argparse
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import evaluate
import music21
import numpy as np
from nltk.translate import bleu_score

from musegen import notewise, scores

METRIC = Path(__file__).resolve().parents[1] / "musegen" / "metrics" / "music_bleu"
# The original study: 11.36 million reference tokens, 513-token samples.
STUDY_TOKENS = 11_400_000
PREDICTIONS = 20
TOLERANCE = 1e-9
# What the metric promises, at the default sizes: seconds, gigabytes, seconds, times.
BOUNDS = {"index": 60.0, "memory": 4.0, "scoring": 1.0, "ratio": 1000.0}


def real_music() -> list[np.ndarray]:
    """The Mozart movements of the music21 package as notewise ids."""
    folder = Path(music21.__file__).parent / "corpus" / "mozart"
    return [notewise.encode_ids(scores.load_score(path).score) for path in sorted(folder.rglob("*.mxl"))]


class MarkovChain:
    """A chain of order 2 whose next token is drawn from all that followed the last two in the music."""

    def __init__(self, ids: np.ndarray):
        """Fit to ids read as a ring, so that every context has a successor."""
        pair = ids.astype(np.int64) * len(notewise.VOCABULARY) + np.roll(ids, -1)  # (ids,)
        contexts, context_of = np.unique(pair, return_inverse=True)
        self._order = np.argsort(context_of, kind="stable")
        self._count = np.bincount(context_of)
        self._first = np.cumsum(self._count) - self._count
        # Where position i of the music is the context, i + 1 is the next context and ids[i + 2] the next token.
        self._context_of = context_of
        self._next_token = np.roll(ids, -2)
        self.contexts = len(contexts)

    def sample(self, lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """One sequence of each length, all drawn side by side."""
        by_length = np.argsort(-lengths, kind="stable")
        descending = lengths[by_length]
        out = np.zeros((len(lengths), descending[0]), dtype=np.uint16)
        place = rng.integers(len(self._next_token), size=len(lengths))  # a position in the music for each sequence
        for step in range(descending[0]):
            active = int(np.searchsorted(-descending, -step, side="left"))  # sequences longer than `step`
            context = self._context_of[place[:active]]
            choice = (rng.random(active) * self._count[context]).astype(np.int64)
            place = self._order[self._first[context] + choice]
            out[:active, step] = self._next_token[place]
            place = (place + 1) % len(self._next_token)
        sequences = [row[:length] for row, length in zip(out, descending, strict=True)]
        return [sequences[i] for i in np.argsort(by_length)]


def piece_lengths(tokens: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normal lengths that sum to `tokens`, none below a prediction's."""
    share = rng.lognormal(0, 0.7, pieces)
    lengths = np.maximum(notewise.OPENING_LENGTH, (share / share.sum() * tokens).astype(np.int64))
    lengths[np.argmax(lengths)] += tokens - lengths.sum()
    return lengths


def make_corpus(chain: MarkovChain, tokens: int, pieces: int, seed: int) -> list[list[str]]:
    """References as token strings."""
    rng = np.random.default_rng(seed)
    sequences = chain.sample(piece_lengths(tokens, pieces, rng), rng)
    return [notewise.tokens_of(sequence) for sequence in sequences]


def make_predictions(chain: MarkovChain, music: list[np.ndarray], seed: int) -> list[list[str]]:
    """Sequences of `OPENING_LENGTH` tokens: half from the chain, half real openings."""
    rng = np.random.default_rng(seed)
    openings = [ids for ids in music if len(ids) >= notewise.OPENING_LENGTH][: PREDICTIONS // 2]
    drawn = chain.sample(np.full(PREDICTIONS - len(openings), notewise.OPENING_LENGTH), rng)
    return [notewise.tokens_of(notewise.opening(ids)) for ids in drawn + openings]


def nltk_rows(corpus, predictions, weightings) -> Iterator[tuple[float, list[float]]]:
    """For each prediction, nltk's seconds and scores for all weightings; it counts the n-grams once for all."""
    for prediction in predictions:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zero counts
            values = bleu_score.sentence_bleu(corpus, prediction, weightings)
        yield time.perf_counter() - start, values


def compare(metric, index, corpus, predictions) -> tuple[float, float]:
    """nltk's seconds for each prediction, and the largest difference of any score."""
    default = sys.modules[type(metric).__module__].DEFAULT_WEIGHTS
    weightings = [default] + [(1 / n,) * n for n in range(1, 10)]
    rows = metric.compute(predictions=predictions, reference_corpus=index)["per_prediction"]
    print("scores compared:", " ".join(f"{row['score']:.4f}" for row in rows))
    seconds, difference = [], 0.0
    for row, (spent, expected) in zip(rows, nltk_rows(corpus, predictions, weightings), strict=True):
        found = [row["score"], *row["cumulative_scores"]]
        difference = max(difference, *(abs(a - b) for a, b in zip(found, expected, strict=True)))
        seconds.append(spent)
    return float(np.mean(seconds)), difference


def timed(call, repeats: int = 1) -> tuple:
    """The result of a call and its median time."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def peak_gigabytes() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def describe(corpus: list[list[str]]) -> str:
    """Size of a corpus in a line."""
    lengths = [len(piece) for piece in corpus]
    spread = f"{min(lengths)} / {int(np.median(lengths))} / {max(lengths)}"
    return f"{sum(lengths):,} tokens in {len(lengths):,} pieces (min / median / max {spread})"


def timed_index(metric, corpus) -> tuple:
    """An index, the seconds that it took and the processor's seconds, which other work disturbs less."""
    before = time.process_time()
    index, seconds = timed(lambda: metric.build_index(corpus, encoding="notewise"))
    return index, seconds, time.process_time() - before


def measure_growth(metric, chain, predictions, options) -> list[tuple[int, float, float]]:
    """Build smaller indexes: (tokens, processor's seconds to build, seconds to score)."""
    rows = []
    for tokens in (options.tokens // 10, options.tokens // 3):
        corpus = make_corpus(chain, tokens, max(1, options.pieces * tokens // options.tokens), options.seed)
        index, _, processor = timed_index(metric, corpus)
        rows.append((tokens, processor, time_scoring(metric, index, predictions)))
    return rows


def time_scoring(metric, references, predictions) -> float:
    """Median seconds of one `compute` over all predictions; the first, which warms the caches, not counted."""

    def call():
        return metric.compute(predictions=predictions, reference_corpus=references)

    call()
    return timed(call, repeats=5)[1]


def measure_full(metric, chain, predictions, options, found: dict):
    """Index all references, save, open again and score; prints, returns index, corpus and a row of growth.

    What is bounded goes into `found`.
    """
    corpus = make_corpus(chain, options.tokens, options.pieces, options.seed)
    print(f"references: {describe(corpus)}")
    before = peak_gigabytes()
    index, seconds, processor = timed_index(metric, corpus)
    print(f"index built in {seconds:.1f} s ({processor:.1f} s of processor time)")
    found |= {"index": seconds, "memory": peak_gigabytes()}
    print(f"peak memory of the process {found['memory']:.2f} GB ({before:.2f} GB before the index)")
    print(f"{index}: {index.nbytes / 1e6:.0f} MB, distinct 9-grams {len(index.tables.counts[8]):,}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        _, saving = timed(lambda: index.save(path))
        opened, opening = timed(lambda: metric.load_index(path))
        _, first = timed(lambda: metric.compute(predictions=predictions, reference_corpus=opened))
        found["scoring"] = scoring = time_scoring(metric, opened, predictions)
    print(f"saved in {saving:.2f} s; opened, with all checksums, in {opening:.2f} s")
    print(f"{len(predictions)} predictions of {notewise.OPENING_LENGTH} tokens scored in {scoring:.3f} s, "
          f"the first time in {first:.3f} s")  # fmt: skip
    return index, corpus, (options.tokens, processor, scoring)


def measure_nltk(metric, chain, predictions, options, found: dict) -> float:
    """Score predictions with nltk and with the metric; prints, returns the largest difference."""
    corpus = make_corpus(chain, options.nltk_tokens, max(1, options.pieces // 10), options.seed)
    print(f"\nagainst nltk: {describe(corpus)}")
    index, seconds, _ = timed_index(metric, corpus)
    each = time_scoring(metric, index, predictions) / len(predictions)
    chosen = predictions[:: max(1, len(predictions) // options.nltk_predictions)][: options.nltk_predictions]
    nltk_each, difference = compare(metric, index, corpus, chosen)
    print(f"index built in {seconds:.2f} s (not counted below)")
    print(f"nltk {nltk_each:.2f} s a prediction (mean of {len(chosen)}), music_bleu {each * 1e3:.2f} ms")
    found["ratio"] = nltk_each / each
    print(f"ratio {nltk_each / each:,.0f} times faster a scored prediction")
    print(f"largest difference from nltk over the default and nine cumulative scores: {difference:.1e}")
    return difference


def told_bounds(found: dict[str, float]) -> str:
    """Each bounded figure beside its bound, and whether it keeps it."""
    units = {"index": " s", "memory": " GB", "scoring": " s", "ratio": " times"}
    words = []
    for name, bound in BOUNDS.items():
        kept = found[name] >= bound if name == "ratio" else found[name] < bound
        sign = "at least" if name == "ratio" else "below"
        words.append(f"{name} {found[name]:.4g}{units[name]} ({sign} {bound:g}: {'kept' if kept else 'MISSED'})")
    return "; ".join(words)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=STUDY_TOKENS, help="reference tokens")
    parser.add_argument("--pieces", type=int, default=1_000, help="reference pieces")
    parser.add_argument("--nltk-tokens", type=int, default=1_000_000, help="reference tokens against nltk")
    parser.add_argument("--nltk-predictions", type=int, default=PREDICTIONS, help="predictions that nltk scores")
    parser.add_argument(
        "--full-check", type=int, default=0, help="predictions to check with nltk on all references: a minute each"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    metric = evaluate.load(str(METRIC))
    music = real_music()
    chain = MarkovChain(np.concatenate(music))
    distinct = len(np.unique(np.concatenate(music)))
    print(f"real music: {sum(map(len, music)):,} notewise tokens of {len(music)} movements, {distinct} distinct; "
          f"chain of order 2 with {chain.contexts:,} contexts")  # fmt: skip
    predictions = make_predictions(chain, music, options.seed + 1)

    found: dict[str, float] = {}
    growth = measure_growth(metric, chain, predictions, options)
    index, corpus, row = measure_full(metric, chain, predictions, options, found)
    growth.append(row)
    print("growth:", "; ".join(f"{t:,} tokens: build {b:.2f} s (processor), score {s:.3f} s" for t, b, s in growth))
    tokens, building, scoring = np.log(np.array(growth).T)
    print(f"exponent of the build time {np.polyfit(tokens, building, 1)[0]:.2f}, "
          f"of the scoring time {np.polyfit(tokens, scoring, 1)[0]:.2f} (1 is linear)")  # fmt: skip

    difference = measure_nltk(metric, chain, predictions, options, found)
    if options.full_check:
        seconds, full = compare(metric, index, corpus, predictions[: options.full_check])
        print(f"on all references: nltk {seconds:.0f} s a prediction, largest difference {full:.1e}")
        difference = max(difference, full)
    print(f"bounds: {told_bounds(found)}")
    print("equal to nltk" if difference <= TOLERANCE else "NOT EQUAL TO NLTK")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
