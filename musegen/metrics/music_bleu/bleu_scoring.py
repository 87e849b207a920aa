"""From n-gram counts to BLEU: statistics that add up, brevity penalty, smoothing, scores.

Source: Papineni, Roukos, Ward and Zhu, "BLEU: a Method for Automatic Evaluation of Machine Translation",
ACL 2002; smoothing after Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level
BLEU", WMT 2014.

Everything follows `nltk.translate.bleu_score` (checked against 3.9), including these points of nltk's own:

1. A prediction shorter than n counts 1, not 0, in the denominator of order n.
2. A score is 0 when no unigram matches, whatever the smoothing.
3. Over several predictions, `average`, `prior` and `length_average` take the n-gram order after the last, or
   the number of n-grams, from the last prediction alone; and the "order after the last" is always order 5.
4. A precision that is still 0 after smoothing (`length` with one token) is left out of the mean.

One departure: without smoothing, an order of positive weight with no match makes the score exactly 0.0, where
nltk warns and returns a small positive number that depends on the weight; an order of weight 0 is left out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

# nltk's method5 asks for this order after the last one, whichever order the last one is.
AVERAGE_EXTRA_ORDER = 5

NLTK_METHODS = {
    "none": "method0",
    "epsilon": "method1",
    "add1": "method2",
    "nist": "method3",
    "length": "method4",
    "average": "method5",
    "prior": "method6",
    "length_average": "method7",
}
_PARAMETER = {"epsilon": ("epsilon",), "length": ("k",), "prior": ("alpha",), "length_average": ("k",)}


class SmoothingUndefined(ValueError):
    """The smoothing has no value for these counts."""


@dataclass(frozen=True)
class SegmentStatistics:
    """The counts of one prediction, or the sum over several.

    Args:
        matches: Clipped n-gram matches for orders 1..N.
        totals: Denominators for orders 1..N: the number of n-grams, at least 1 for each prediction.
        prediction_length: Tokens.
        reference_length: Tokens of the reference of closest length.
    """

    matches: tuple[int, ...]
    totals: tuple[int, ...]
    prediction_length: int
    reference_length: int

    @classmethod
    def of_prediction(
        cls, matches: Sequence[int], prediction_length: int, reference_length: int
    ) -> "SegmentStatistics":
        """The counts of one prediction; the totals follow from its length."""
        totals = (max(1, prediction_length - n) for n in range(len(matches)))
        return cls(tuple(int(m) for m in matches), tuple(totals), prediction_length, reference_length)

    @classmethod
    def sum(cls, parts: Sequence["SegmentStatistics"]) -> "SegmentStatistics":
        """Sum over predictions: BLEU of a corpus is BLEU of the sum, not the mean of scores."""
        return cls(
            tuple(map(sum, zip(*(part.matches for part in parts), strict=True))),
            tuple(map(sum, zip(*(part.totals for part in parts), strict=True))),
            sum(part.prediction_length for part in parts),
            sum(part.reference_length for part in parts),
        )

    @property
    def zero_orders(self) -> list[int]:
        """The orders, counted from 1, with no match at all."""
        return [n for n, match in enumerate(self.matches, 1) if match == 0]

    @property
    def brevity_penalty(self) -> float:
        """1 for a prediction longer than its closest reference, else exp(1 - reference / prediction)."""
        if self.prediction_length > self.reference_length:
            return 1.0
        if self.prediction_length == 0:
            return 0.0
        return math.exp(1 - self.reference_length / self.prediction_length)


@dataclass(frozen=True)
class Smoothing:
    """How zero precisions are treated.

    Args:
        name: A key of `NLTK_METHODS`, or its value (`"method1"`).
        epsilon: Count added to a zero by `epsilon`.
        alpha: Weight of the prior in `prior`, in n-grams.
        k: Divisor in `length` and `length_average`.

    Raises:
        ValueError: Unknown name, or a parameter that is not positive.
    """

    name: str = "none"
    epsilon: float = 0.1
    alpha: float = 5
    k: float = 5

    def __post_init__(self):
        aliases = {method: name for name, method in NLTK_METHODS.items()}
        name = aliases.get(self.name, self.name)
        if name not in NLTK_METHODS:
            raise ValueError(
                f"smoothing {self.name!r} is unknown: use one of {', '.join(NLTK_METHODS)}, or nltk's names "
                "method0 to method7"
            )
        object.__setattr__(self, "name", name)
        for parameter in ("epsilon", "alpha", "k"):
            value = getattr(self, parameter)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
                raise ValueError(f"{parameter} must be a positive number, not {value!r}")

    def __str__(self) -> str:
        # All digits, so that two parameters never share a signature; 5 and 5.0 are one.
        values = ",".join(f"{p}={float(getattr(self, p))!r}".removesuffix(".0") for p in _PARAMETER.get(self.name, ()))
        return f"{self.name}({values})" if values else self.name

    def apply(self, stats: SegmentStatistics, last: SegmentStatistics, orders: int) -> list[float]:
        """Smooth the precisions of orders 1..orders.

        Args:
            stats: The counts to smooth.
            last: The counts of the last prediction in `stats` (see point 3 at the head of this module).
            orders: How many orders take part.

        Returns:
            Precisions, of length `orders`; a zero can remain.

        Raises:
            SmoothingUndefined: `prior` without a matching trigram.
            ValueError: A method that needs orders which were not counted.
        """
        matches, totals = stats.matches[:orders], stats.totals[:orders]
        precisions = [match / total for match, total in zip(matches, totals, strict=True)]
        if self.name == "epsilon":
            return [p if m else self.epsilon / t for p, m, t in zip(precisions, matches, totals, strict=True)]
        if self.name == "add1":
            rest = zip(matches[1:], totals[1:], strict=True)
            return precisions[:1] + [(match + 1) / (total + 1) for match, total in rest]
        if self.name == "nist":
            return _fill_zeros(precisions, totals, 1.0)
        if self.name == "prior":
            return self._prior(matches, precisions, last)
        if self.name in ("length", "length_average") and stats.prediction_length > 1:
            precisions = _fill_zeros(precisions, totals, math.log(stats.prediction_length) / self.k)
        if self.name in ("average", "length_average"):
            return _average(precisions, last)
        return precisions

    def _prior(self, matches, precisions, last):
        if len(matches) < 3:
            raise ValueError("smoothing 'prior' needs weights for three orders at the least")
        if matches[2] == 0:
            raise SmoothingUndefined("smoothing 'prior' is undefined without a matching trigram")
        smoothed = list(precisions)
        for i in range(2, len(matches)):
            prior = smoothed[i - 1] ** 2 / smoothed[i - 2] if smoothed[i - 2] else 0.0
            ngrams = max(0, last.prediction_length - i)
            smoothed[i] = (matches[i] + self.alpha * prior) / (ngrams + self.alpha)
        return smoothed


def _fill_zeros(precisions, totals, numerator):
    """Replace the zeros by numerator / 2, numerator / 4, ... over their totals, lowest order first."""
    filled = []
    zeros = 0
    for precision, total in zip(precisions, totals, strict=True):
        if precision == 0:
            zeros += 1
            precision = numerator / 2**zeros / total
        filled.append(precision)
    return filled


def _average(precisions, last):
    """Average every precision with its already averaged left and its raw right neighbour."""
    if len(last.matches) < AVERAGE_EXTRA_ORDER:
        raise ValueError(f"this smoothing needs counts up to order {AVERAGE_EXTRA_ORDER}: raise max_order")
    extra = last.matches[AVERAGE_EXTRA_ORDER - 1] / last.totals[AVERAGE_EXTRA_ORDER - 1]
    right = [*precisions[1:], extra]
    averaged = []
    left = precisions[0] + 1
    for precision, following in zip(precisions, right, strict=True):
        left = (left + precision + following) / 3
        averaged.append(left)
    return averaged


def scores(
    stats: SegmentStatistics,
    last: SegmentStatistics,
    weightings: Sequence[tuple[float, ...]],
    smoothing: Smoothing,
    auto_reweigh: bool = False,
) -> list[float]:
    """BLEU for each weighting: brevity penalty times the weighted geometric mean of the precisions.

    Args:
        stats: Counts of one prediction, or their sum.
        last: Counts of the last prediction in `stats`.
        weightings: Weights for orders 1, 2, ...; the smoothing sees as many orders as the longest has.
        smoothing: Treatment of zero precisions.
        auto_reweigh: As nltk's: a prediction shorter than 4 tokens under weights of (.25, .25, .25, .25) is
            scored with uniform weights over the orders that it has.

    Returns:
        One score for each weighting, from 0.0 to 1.0; `average`, `prior` and `length_average` can exceed 1.

    Raises:
        SmoothingUndefined: See `Smoothing.apply`.
    """
    if stats.matches[0] == 0:
        return [0.0] * len(weightings)
    precisions = smoothing.apply(stats, last, max(map(len, weightings)))
    results = []
    for weights in weightings:
        if auto_reweigh and stats.prediction_length < 4 and weights == (0.25,) * 4:
            weights = (1 / stats.prediction_length,) * stats.prediction_length
        weighted = [(w, p) for w, p in zip(weights, precisions) if w != 0]
        if smoothing.name == "none" and any(p == 0 for _, p in weighted):
            results.append(0.0)
            continue
        mean = math.fsum(w * math.log(p) for w, p in weighted if p > 0)
        results.append(stats.brevity_penalty * math.exp(mean))
    return results


def cumulative_weightings(orders: int) -> list[tuple[float, ...]]:
    """For each n in 1..orders, the uniform weights 1/n over orders 1..n."""
    return [(1 / n,) * n for n in range(1, orders + 1)]


def parse_weights(weights: Iterable) -> tuple[list[tuple[float, ...]], bool]:
    """Check weights and bring one weighting and several to one form.

    Args:
        weights: Weights for orders 1, 2, ..., or a sequence of such weightings.

    Returns:
        The weightings, and whether several were given.

    Raises:
        ValueError: Empty, negative, not finite or all zero.
    """
    rows = list(weights) if _is_row(weights) else weights
    several = _is_row(rows) and len(rows) > 0 and all(map(_is_row, rows))
    weightings = []
    for row in rows if several else [rows]:
        numbers = list(row) if _is_row(row) else []
        if not all(isinstance(w, Real) and 0 <= w < math.inf for w in numbers) or not any(numbers):
            raise ValueError(
                f"weights {row!r} must be non-negative numbers, one for each order from 1, not all of them zero; or a "
                "list of such weightings"
            )
        weightings.append(tuple(map(float, numbers)))
    return weightings, several


def _is_row(value) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes, dict))
