"""Drawing one token a row: the grammar, the warpers, and randomness that belongs to the row alone.

A draw is a race: each id that may come next has its probability divided by an exponential variate of its own, and
the largest quotient wins (the Gumbel-max trick; Gumbel 1954, Maddison et al. 2014, arXiv:1411.0030). So a draw is an
argmax, and what differs in the last bits of the logits hardly ever changes it: within a batch of any size, and in
`generate`, the same seed gives the same piece.

Warpers follow transformers in meaning and order: temperature, top_k, top_p, min_p. An id is tested only when it
wins, so nothing is sorted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from musegen.controls import task_params
from musegen.errors import RequestError
from musegen.grammar import BAR_ENDS, Grammar, GrammarState
from musegen.id_tables import END
from musegen.repetition import BarLoops

# Rounding moves a logit by about 2e-6 of the largest one. Two ids closer than this are told apart by a computation in
# which the batch has no part.
TOLERANCE = 2e-5
# Where neither a person nor the model says anything.
DEFAULTS = {"temperature": 1.0, "top_p": 0.97, "top_k": 0, "min_p": 0.0, "repetition": 0.0}


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How ids are drawn.

    None leaves it to the model (`generation_config.json`; for `repetition`, which transformers has not,
    `task_specific_params` in `config.json`), and where that says nothing to `DEFAULTS`.

    Args:
        temperature: Above 1 bolder, below 1 safer; 0 always takes the likeliest.
        top_p: Draw from the likeliest ids that together have this probability.
        top_k: Draw from so many ids at the most; 0 for all.
        seed: The same seed gives the same music, whatever else is in the batch.
        max_tokens: New ids a piece at the most, whatever the bar budget.
        min_p: Draw from ids at least so likely, as a share of the likeliest; 0 for all.
        repetition: Nats taken from an id for each note that goes on with bars which have been alike for longer than
            those of real music (`musegen.repetition`); 0 for none. Motifs, phrases and returns are never punished.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    max_tokens: int = 16_384
    min_p: float | None = None
    repetition: float | None = None

    def __post_init__(self):
        if not (self.temperature is None or 0 <= self.temperature <= 5):
            raise RequestError(f"temperature: between 0 and 5, not {self.temperature}")
        if not (self.top_p is None or 0 < self.top_p <= 1):
            raise RequestError(f"top_p: above 0 and at most 1, not {self.top_p}")
        if not (self.top_k is None or self.top_k >= 0):
            raise RequestError(f"top_k: 0 or more, not {self.top_k}")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens: 1 or more, not {self.max_tokens}")
        if not (self.min_p is None or 0 <= self.min_p <= 1):
            raise RequestError(f"min_p: between 0 and 1, not {self.min_p}")
        if not (self.repetition is None or 0 <= self.repetition <= 20):
            raise RequestError(f"repetition: between 0 and 20, not {self.repetition}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise RequestError(f"seed: a whole number from 0 to 2**63 - 1, not {self.seed!r}")

    def filled(self, model=None) -> SamplingOptions:
        """The same with a number in place of each None.

        Args:
            model: Whose `generation_config` and `config` are asked first.

        Raises:
            RequestError: If the model's own settings are out of range.
        """
        missing = [name for name in DEFAULTS if getattr(self, name) is None]
        if not missing:
            return self
        own = getattr(model, "generation_config", None)
        told = {name: getattr(own, name, None) for name in missing}
        if "repetition" in missing:
            told["repetition"] = task_params(model).get("repetition")
        return dataclasses.replace(self, **{n: DEFAULTS[n] if v is None else v for n, v in told.items()})


class Row:
    """One piece being drawn: where it stands in the grammar, its bar budget, its randomness.

    Args:
        grammar: Of the tokenizer.
        state: After all ids so far.
        bars: Whole length in bars; None lets the model end.
        options: How to draw.
        key: Whole numbers that name the row's randomness.
    """

    def __init__(
        self,
        grammar: Grammar,
        state: GrammarState,
        bars: int | None,
        options: SamplingOptions,
        key: Sequence[int] = (0, 0),
    ):
        self.grammar, self.state, self.bars = grammar, state, bars
        self._random = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))
        self.loops = BarLoops(grammar) if options.repetition else None

    def allowed(self) -> np.ndarray:
        """Which ids may come next, bool (vocabulary,)."""
        return self.grammar.allowed(self.state, self.bars)

    @property
    def ended(self) -> bool:
        return self.state.kind == END

    def noise(self, size: int) -> np.ndarray:
        """The exponential variates of the next draw, float32 (size,)."""
        return np.maximum(self._random.standard_exponential(size, dtype=np.float32), 1e-30)

    def advance(self, token: int) -> None:
        """Take a token as the next."""
        self.state = self.grammar.advance(self.state, token)
        if self.loops:
            self.loops.advance(token)


@dataclasses.dataclass(frozen=True)
class Draw:
    """One id for each row.

    Args:
        tokens: (rows,).
        log_probs: Nats under the model, over the whole vocabulary, (rows,).
        legal_log_probs: Nats over what the grammar allows, before temperature and the other warpers, (rows,).
    """

    tokens: list[int]
    log_probs: list[float]
    legal_log_probs: list[float]


def grammar_scores(rows: Sequence[Row], logits: np.ndarray) -> np.ndarray:
    """Logits, float32 (rows, vocabulary), with -inf where the grammar says no.

    Instruments that were asked for and are late gain a little (`Grammar.late_entries`), and notes outside a key that
    was asked for lose a little (`Grammar.foreign_notes`).

    Where a bar may end, what the model would give to any way of ending it (a bar line, any number of bars left, the
    end of the piece) is given to the ways that are allowed. So the model decides when a bar is full, and the bar
    budget what comes then: one that does not expect the end yet would else fill its last bar with notes, to put it
    off.
    """
    allowed = [row.allowed() for row in rows]
    scores = np.where(np.stack(allowed) if len(rows) > 1 else allowed[0][None], logits, -np.inf)
    for i, row in enumerate(rows):
        late = row.grammar.late_entries(row.state)
        if late is not None:
            scores[i, late[0]] += late[1]
        foreign = row.grammar.foreign_notes(row.state)
        if foreign is not None:
            scores[i] -= foreign
        ways = row.grammar.ways_on
        kept = ways[allowed[i][ways]]
        if row.state.kind in BAR_ENDS and 0 < len(kept) < len(ways):
            scores[i, kept] += _log_sum_exp(logits[i : i + 1, ways])[0] - _log_sum_exp(logits[i : i + 1, kept])[0]
    return scores


def draw(
    rows: Sequence[Row],
    logits: np.ndarray,
    options: SamplingOptions,
    reference: Callable[[int], np.ndarray] | None = None,
) -> Draw:
    """Draw the next id of each row.

    Args:
        rows: The pieces; their randomness moves on, their state does not.
        logits: Of each, float32 (rows, vocabulary).
        options: How to draw.
        reference: Gives the logits of one row once more, computed so that no other row counts, for draws that
            rounding could decide; None to let it.
    """
    options, noise = options.filled(), None
    if options.temperature:
        noise = [row.noise(logits.shape[1]) for row in rows]
        noise = np.stack(noise) if len(rows) > 1 else noise[0][None]  # (rows, vocabulary)
    legal = grammar_scores(rows, logits)
    tokens, doubtful = _race(rows, legal, noise, options)
    if reference is not None:
        for i in np.flatnonzero(doubtful):
            again = grammar_scores(rows[i : i + 1], reference(int(i))[None])
            own = None if noise is None else noise[i : i + 1]
            tokens[i] = _race(rows[i : i + 1], again, own, options)[0][0]
    each = np.arange(len(rows))
    nats = logits[each, tokens] - _log_sum_exp(logits)
    legal_nats = legal[each, tokens] - _log_sum_exp(legal)
    return Draw(tokens.tolist(), nats.tolist(), legal_nats.tolist())


def _log_sum_exp(scores: np.ndarray) -> np.ndarray:
    top = scores.max(1, keepdims=True)
    return top[:, 0] + np.log(np.exp(scores - top).sum(1))


def _race(
    rows: Sequence[Row], scores: np.ndarray, noise: np.ndarray | None, options: SamplingOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Winners, (rows,), and whether rounding might have chosen them, bool (rows,)."""
    if options.repetition:
        scores = scores.copy()
        for i, row in enumerate(rows):
            row.loops.punish(scores[i], options.repetition)
    each = np.arange(len(scores))
    if noise is None:
        race = scores.copy()  # in nats: the quotient of two is their difference
        tokens = race.argmax(1)
        best = race[each, tokens]
        race[each, tokens] = -np.inf
        return tokens, best - race.max(1) < 2 * TOLERANCE
    scores = (scores - scores.max(1, keepdims=True)) / np.float32(options.temperature)
    weights = np.exp(scores)
    race = weights / noise
    slack = 2 * TOLERANCE / options.temperature
    tokens = race.argmax(1)
    doubtful = np.zeros(len(scores), bool)
    filters = options.top_p < 1 or options.top_k or options.min_p
    for i in each:
        while True:
            token = tokens[i]
            best, race[i, token] = race[i, token], 0
            second = race[i].argmax()
            doubtful[i] |= bool(race[i, second] > best * (1 - slack))
            if not filters:
                break
            inside, sure = _survives(scores[i], weights[i], token, options, slack)
            doubtful[i] |= not sure
            if inside:
                break
            tokens[i] = second
    return tokens, doubtful


def _survives(
    scores: np.ndarray, weights: np.ndarray, token: int, options: SamplingOptions, slack: float
) -> tuple[bool, bool]:
    """Whether top_k, top_p and min_p leave an id, and whether that is beyond rounding.

    Args:
        scores: (vocabulary,), 0 at the likeliest id.
        weights: Their exponentials.
        token: The id.
        options: How to draw.
        slack: What rounding can do to a difference of two scores.
    """
    own, inside, sure = scores[token], True, True
    if options.min_p:
        floor = np.log(options.min_p)
        inside, sure = bool(own >= floor), bool(abs(own - floor) > slack)
    total = None
    above = scores > own
    if options.top_k:
        rank = int(np.count_nonzero(above))
        inside &= rank < options.top_k
        near = int(np.count_nonzero(np.abs(scores - own) < slack))  # the id itself among them
        sure &= near == 1 or not rank - near < options.top_k <= rank + near
        if options.top_p < 1 and options.top_k < len(weights):
            total = float(np.partition(weights, -options.top_k)[-options.top_k :].sum())
    if options.top_p < 1:
        total = float(weights.sum()) if total is None else total
        mass = float(weights[above].sum()) / total
        near = float(weights[np.abs(scores - own) < slack].sum() - weights[token]) / total
        inside &= mass < options.top_p
        sure &= abs(mass - options.top_p) > slack + near
    return inside, sure
