"""The customised BLEU of the samples, by the published metric `musegen/metrics/music_bleu`.

Every piece is cut to one number of notewise tokens, 513 as in the study or fewer if the samples are shorter,
and scored against the whole training corpus as one shared set of references. Whole pieces are longer than what
is scored, which the brevity penalty would punish without any meaning: a perfect copy of a passage would score
next to nothing. So the references also hold the longest training piece cut to every length up to that number:
an opening holds no n-gram that its piece does not hold as often, so that all it changes is the length of the
closest reference, and the brevity penalty is 1.

The score is no merit: real music that was not trained on scores what it scores, and more than that is copying.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musegen import notewise

ENCODING = f"notewise-{notewise.STEPS_PER_BEAT}"
# Shorter than this, nine orders of n-grams have too few n-grams to say anything.
MIN_LENGTH = 64


def common_length(samples: Sequence[np.ndarray]) -> int:
    """How many tokens of each piece are compared: half of the samples have at least so many.

    Args:
        samples: Notewise ids.

    Returns:
        Between `MIN_LENGTH` and `notewise.OPENING_LENGTH`.
    """
    lengths = [len(ids) for ids in samples] or [notewise.OPENING_LENGTH]
    return int(np.clip(np.median(lengths), MIN_LENGTH, notewise.OPENING_LENGTH))


class BleuJudge:
    """The metric over one training corpus and one length.

    Attributes:
        length: Tokens of each piece that are scored.
    """

    def __init__(self, train: Sequence[np.ndarray], length: int = notewise.OPENING_LENGTH):
        """Index the references.

        Args:
            train: Notewise ids of the training pieces; at least one of them not empty.
            length: Tokens of each piece that will be scored.
        """
        # evaluate and datasets take seconds to import, and only this needs them.
        from musegen.metrics.music_bleu.music_bleu import MusicBleu

        self.length = length
        self._metric = MusicBleu(keep_in_memory=True)
        pieces = [notewise.tokens_of(ids) for ids in train if len(ids)]
        longest = max(pieces, key=len)
        references = pieces + [longest[:cut] for cut in range(1, min(length, len(longest)) + 1)]
        self._index = self._metric.build_index(references, encoding=ENCODING)

    def score(self, pieces: Sequence[np.ndarray]) -> dict:
        """Score a group of pieces.

        Args:
            pieces: Notewise ids, at least one array.

        Returns:
            What the metric returns: `score` of all together, `cumulative_scores` for 1..9, `precisions`,
            `prediction_scores`, `signature` and more.
        """
        openings = [notewise.tokens_of(notewise.opening(ids, self.length)) for ids in pieces]
        return self._metric.compute(predictions=openings, reference_corpus=self._index)
