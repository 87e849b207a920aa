"""The `evaluate` metric music_bleu: BLEU over music tokens, for orders 1 to 9.

Needs `evaluate`, `datasets` and `numpy` only. The counting is in `reference_index.py` and `ngram_tables.py`,
the arithmetic in `bleu_scoring.py`; this file holds what `evaluate` sees. `evaluate` fetches only those
siblings that this file imports itself, and takes a comment behind an import for an address to download.
"""

import hashlib
from fractions import Fraction
from pathlib import Path

import datasets
import evaluate

from .bleu_scoring import (
    SegmentStatistics,
    Smoothing,
    SmoothingUndefined,
    cumulative_weightings,
    parse_weights,
    scores,
)
from .ngram_tables import NgramTables
from .reference_index import (
    DEFAULT_MAX_ORDER,
    ReferenceIndex,
    as_tokens,
    distinct_tokens,
    read_manifest,
)

__all__ = ["DEFAULT_WEIGHTS", "VERSION", "MusicBleu", "NgramTables", "ReferenceIndex"]

VERSION = "1.0.0"

# The study's weights: orders 4 to 7 count twice, and single tokens, which any sample gets right, not at all.
DEFAULT_WEIGHTS = (0, 1 / 12, 1 / 12, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 12, 1 / 12)

_DESCRIPTION = """
BLEU over music tokens: the weighted geometric mean of clipped 1- to 9-gram precisions times the brevity
penalty, against references for each prediction or against one shared corpus, which can be indexed once and
memory-mapped. Equal to nltk's corpus_bleu and sentence_bleu. Higher is not better: a score above that of
real, held-out music means copying. Always report it next to the score of held-out real music.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of token sequences): tokens are strings or integers; 1 and "1" are different tokens.
    references (`list`, *optional*): for each prediction a list of token sequences, or one token sequence.
    reference_corpus (*optional*, instead of references): token sequences that serve every prediction; better,
        an index from `build_index` or `load_index`, or the path of a saved one.
    weights (`sequence` of `float`, or `list` of such): weights of orders 1, 2, ...; default
        (0, 1/12, 1/12, 1/6, 1/6, 1/6, 1/6, 1/12, 1/12). With several weightings, scores are lists.
    smoothing (`str`): "none" (default), "epsilon", "add1", "nist", "length", "average", "prior",
        "length_average", or nltk's names "method0" to "method7".
    epsilon, alpha, k (`float`): parameters of the smoothing; nltk's defaults .1, 5, 5.
    auto_reweigh (`bool`): nltk's option of that name; default False.
    encoding (`str`, *optional*): name of the token encoding, for the signature; default the index's.
Returns:
    score (`float`): of all predictions together (counts are summed, scores are not averaged).
    precisions (`list` of `float`): clipped n-gram precisions for orders 1, 2, ..., without smoothing.
    cumulative_scores (`list` of `float`): at position n-1, the score with weights 1/n for orders 1 to n.
    brevity_penalty (`float`), prediction_length, reference_length (`int`, tokens; of the closest references).
    matches, totals (`list` of `int`): numerators and denominators of the precisions.
    zero_orders (`list` of `int`): orders without any match. Without smoothing, the score is 0.0 if one of
        them has a positive weight.
    prediction_scores (`list` of `float`): the score of each prediction alone.
    per_prediction (`list` of `dict`): all of the above but prediction_scores for each prediction alone.
    signature (`str`): weights, orders, encoding, smoothing, references and version.
Examples:
    >>> metric = evaluate.load("musegen/metrics/music_bleu")
    >>> result = metric.compute(
    ...     predictions=[["p60", "wait6", "endp60", "p62"]],
    ...     references=[[["p60", "wait6", "endp60", "p64"]]],
    ...     weights=(0.5, 0.5),
    ... )
    >>> round(result["score"], 4), result["zero_orders"]
    (0.7071, [4, 5, 6, 7, 8, 9])
"""

_CITATION = """
@inproceedings{papineni-etal-2002-bleu,
    title = "{B}leu: a Method for Automatic Evaluation of Machine Translation",
    author = "Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing",
    booktitle = "Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics",
    year = "2002",
    pages = "311--318",
    url = "https://aclanthology.org/P02-1040",
    doi = "10.3115/1073083.1073135",
}
"""


class MusicBleu(evaluate.Metric):
    """BLEU over music tokens; `compute` takes and returns what `inputs_description` says."""

    def _info(self):
        tokens = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # One schema for strings and integers: tokens travel tagged with their type (see _tag).
            features=datasets.Features({"predictions": tokens, "references": datasets.Sequence(tokens)}),
            reference_urls=[
                "https://aclanthology.org/P02-1040",
                "https://www.nltk.org/api/nltk.translate.bleu_score.html",
            ],
        )

    def build_index(self, references, *, max_order=DEFAULT_MAX_ORDER, encoding=None):
        """Index a shared corpus; see `ReferenceIndex.build`. Save the result with its `save(folder)`."""
        return ReferenceIndex.build(references, max_order=max_order, encoding=encoding)

    def load_index(self, folder, *, verify=True):
        """Memory-map a saved index; see `ReferenceIndex.load`."""
        return ReferenceIndex.load(folder, verify=verify)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Score predictions.

        Raises:
            TypeError: A prediction or reference is not a sequence of strings or integers, or the predictions are
                all of one kind and the references all of the other.
            ValueError: No predictions, no references for one, or an argument that is out of its range.
        """
        result = super().compute(predictions=predictions, references=references, **kwargs)
        if isinstance(result, Exception):
            raise result
        return result

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add predictions, with or without references, to what `compute` will score.

        Raises:
            TypeError: A prediction or reference is not a sequence of strings or integers.
            ValueError: No predictions, or not as many references as predictions.
        """
        predictions = _outer_list(() if predictions is None else predictions, "predictions")
        if not predictions:
            raise ValueError("there are no predictions")
        references = [()] * len(predictions) if references is None else _outer_list(references, "references")
        if len(references) != len(predictions):
            raise ValueError(f"there are {len(predictions)} predictions and references for {len(references)}")
        super().add_batch(
            predictions=[_tag(tokens, f"prediction {i}") for i, tokens in enumerate(predictions)],
            references=[_tag_references(given, i) for i, given in enumerate(references)],
            **kwargs,
        )

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one prediction, with or without its references, to what `compute` will score."""
        super().add(
            prediction=_tag(prediction, "prediction"),
            reference=_tag_references(() if reference is None else reference, 0),
            **kwargs,
        )

    def _compute(self, **inputs):
        # `evaluate` keeps its cache file, locked, when this raises: the error travels as the result instead.
        try:
            return self._score(**inputs)
        except Exception as error:
            return error

    def _score(
        self,
        predictions,
        references,
        *,
        reference_corpus=None,
        weights=DEFAULT_WEIGHTS,
        smoothing="none",
        epsilon=0.1,
        alpha=5,
        k=5,
        auto_reweigh=False,
        encoding=None,
    ):
        weightings, several = parse_weights(weights)
        smoothing = Smoothing(smoothing, epsilon=epsilon, alpha=alpha, k=k)
        encoding = _checked_name(encoding)
        predictions = [_untag(tokens) for tokens in predictions]
        orders = max(DEFAULT_MAX_ORDER, *map(len, weightings))
        if reference_corpus is not None:
            if any(references):
                raise ValueError("give references or reference_corpus, not both")
            index = self._index(reference_corpus, orders, encoding)
            encoding = _one_encoding(index, encoding)
            segments = _segments(index, predictions)
            names = f"shared-{index.pieces}-{index.content_hash[:16]}"
        else:
            segments, names = _segments_by_prediction(predictions, references, orders)
        orders = len(segments[0].matches)
        if max(map(len, weightings)) > orders:
            raise ValueError(f"weights go beyond order {orders}, the index's last: build it with max_order")

        def row(stats, last):
            return _row(stats, last, weightings, several, smoothing, auto_reweigh)

        result = row(SegmentStatistics.sum(segments), segments[-1])
        result["per_prediction"] = [_row_or_none(row, stats) for stats in segments]
        result["prediction_scores"] = [each["score"] for each in result["per_prediction"]]
        result["signature"] = "|".join(
            [
                "music_bleu",
                "weights:" + ";".join(",".join(map(_exact, weighting)) for weighting in weightings),
                f"orders:{orders}",
                f"enc:{encoding or 'unnamed'}",
                f"smooth:{smoothing}",
                f"reweigh:{'yes' if auto_reweigh else 'no'}",
                f"refs:{names}",
                f"version:{VERSION}",
            ]
        )
        return result

    def _index(self, corpus, orders, encoding):
        """The index of a shared corpus; one given by path is opened once for as long as it stays the same."""
        # Known by what it does: `evaluate` loads a copy of this module, so the class need not be this one.
        if hasattr(corpus, "closest_length"):
            return corpus
        if not isinstance(corpus, (str, Path)):
            return ReferenceIndex.build(corpus, max_order=orders, encoding=encoding)
        folder = Path(corpus).resolve()
        state = read_manifest(folder)["manifest_sha256"]
        cache = self.__dict__.setdefault("_opened", {})
        if cache.get(folder, (None, None))[0] != state:
            cache[folder] = (state, ReferenceIndex.load(folder))
        return cache[folder][1]


def _outer_list(values, name):
    if isinstance(values, (str, bytes, dict)):
        raise TypeError(f"{name} is a {type(values).__name__}, not a list of token sequences")
    return list(values)


def _tag(sequence, where):
    """A token sequence as strings that still tell strings from integers."""
    tokens = as_tokens(sequence, where)
    tags = {
        token: "s" + plain if isinstance(plain, str) else f"i{plain}"
        for token, plain in distinct_tokens(tokens, where).items()
    }
    return [tags[token] for token in tokens]


def _tag_references(given, number):
    """The references of one prediction: several token sequences, or one."""
    where = f"a reference of prediction {number}"
    given = as_tokens(given, where)
    if given and (isinstance(given[0], str) or not hasattr(given[0], "__iter__")):
        given = [given]
    return [_tag(sequence, where) for sequence in given]


def _untag(tokens):
    plain = {token: token[1:] if token[0] == "s" else int(token[1:]) for token in set(tokens)}
    return [plain[token] for token in tokens]


def _checked_name(encoding):
    """An encoding's name as it can stand in a signature, whose fields `|` parts."""
    if encoding is None:
        return None
    if not isinstance(encoding, str) or not encoding.isprintable() or "|" in encoding:
        raise ValueError(f"encoding is {encoding!r}: it is a name, printable and without '|'")
    return encoding


def _refuse_other_kind(predictions, vocabulary):
    """Strings never match integers: a score of 0 for that reason alone would only mislead."""
    known = {isinstance(token, str) for token in vocabulary}
    found = {isinstance(token, str) for tokens in predictions for token in set(tokens)}
    if known and found and not known & found:
        mine, theirs = ("strings", "integers") if found == {True} else ("integers", "strings")
        raise TypeError(f"the predictions are {mine} and the references {theirs}: no token could ever match")


def _one_encoding(index, encoding):
    if encoding and index.encoding and encoding != index.encoding:
        raise ValueError(f"the index holds {index.encoding!r} tokens and the predictions are {encoding!r}")
    return encoding or index.encoding


def _segments(index, predictions):
    """Statistics of predictions that share one corpus."""
    _refuse_other_kind(predictions, index.vocabulary)
    return [
        SegmentStatistics.of_prediction(matches, len(tokens), index.closest_length(len(tokens)))
        for matches, tokens in zip(index.matches(predictions).tolist(), predictions, strict=True)
    ]


def _segments_by_prediction(predictions, references, orders):
    """Statistics of predictions that have references of their own, and a name for all these references."""
    segments = []
    digest = hashlib.sha256()
    for number, (tokens, own) in enumerate(zip(predictions, references, strict=True)):
        if not own:
            raise ValueError(f"prediction {number} has no references, and there is no reference_corpus")
        index = ReferenceIndex.build([_untag(reference) for reference in own], max_order=orders)
        digest.update(bytes.fromhex(index.content_hash))
        segments += _segments(index, [tokens])
    return segments, f"own-{len(predictions)}-{digest.hexdigest()[:16]}"


def _row(stats, last, weightings, several, smoothing, auto_reweigh):
    """What the metric reports of one prediction or of their sum."""
    values = scores(stats, last, weightings, smoothing, auto_reweigh)
    cumulative = cumulative_weightings(len(stats.matches))
    return {
        "score": values if several else values[0],
        "cumulative_scores": scores(stats, last, cumulative, smoothing, auto_reweigh),
        **_counts(stats),
    }


def _row_or_none(row, stats):
    """A prediction's row; one for which the smoothing is undefined must not fail all the others."""
    try:
        return row(stats, stats)
    except SmoothingUndefined:
        return {"score": None, "cumulative_scores": None, **_counts(stats)}


def _counts(stats):
    return {
        "precisions": [match / total for match, total in zip(stats.matches, stats.totals, strict=True)],
        "brevity_penalty": stats.brevity_penalty,
        "prediction_length": stats.prediction_length,
        "reference_length": stats.reference_length,
        "matches": list(stats.matches),
        "totals": list(stats.totals),
        "zero_orders": stats.zero_orders,
    }


def _exact(weight):
    """A weight as a short fraction where that is exact, else with all its digits."""
    fraction = Fraction(weight).limit_denominator(1000)
    return str(fraction) if float(fraction) == weight else repr(weight)
