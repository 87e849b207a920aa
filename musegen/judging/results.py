"""`results.json`: its keys; plain, rounded values; files that appear whole or not at all.

- `schema`, `title`, `seed`, `about`: what this is.
- `setting`: `bars` (length of all that is compared), `bleu_tokens` (notewise tokens that BLEU compares), `lags`,
  `train_pieces`, `train_notes`, `held_out_pieces`, `held_out_works` (names), `held_out_excerpts`, `stand_in_works`
  and `stand_in_excerpts` (see `musegen.judging.material`), `warnings` (sentences).
- `metrics`: by name, `label`, `unit` and `kind` (`feature`, `structure`, `originality`).
- `real`: `excerpts`; `band_size` (samples in the groups whose bands are given here); `metrics` by name: `mean` (over
  works), band `low` and `high`, `smallest` and `largest` of single excerpts; `similarity_by_lag` (`mean`,
  `low`, `high`: lists over lags 1, 2, ...); `bleu`; `pieces`, as in groups.
- `groups`: by name of the model or baseline:
  - `role` (`model` or `baseline`), `label`, `samples`; of models: how many were `cut` to the common length, were
    `shorter` than it, or `silent` and left out;
  - `inside` of `judged`: figures of sound and structure in their bands;
  - `distance`: `value`, mean over these figures of the distance from real music, in standard deviations of
    real excerpts; `high`, what 97.5 % of groups of real excerpts stay below; `place`;
  - `metrics` by name: `mean`, bootstrap 95 % interval `low` and `high` over the samples, `band` (`mean`, `low`, `high`
    of real music for groups of this size), `place` (`inside`, `below`, `above`, `undefined`), `fault`
    (whether that place speaks against the group: `below` does not for originality);
  - `similarity`: `curve` over lags, with the band `low` and `high`; Museformer's similarity `error`, the
    `error_of_real` excerpts, the `error_limit` that 97.5 % of them keep, `place`; `error_of_form`, the error over lags
    of 4 to 32 bars alone;
  - `originality`: `longest` and `longest_exact` copied span (`sample`, `notes`, `transposition` in semitones, `piece`,
    `bars` there, `sample_bars`; bars from 1), `real_longest` of any real excerpt, `to_check`: samples above that;
  - `bleu`: `score` (counts summed), `mean` and `deviation` of the samples' own scores, `cumulative` for 1 to 9-grams
    (counts summed) and `mean_cumulative` (mean of the samples' own), `precisions`, `signature` of the metric; in
    `real` also `band` of the latter (`mean`, `low`, `high`);
  - `two_sample`: `auc`, `low`, `high`, `generated`, `real`, `works`, `grouped`, `give_aways` (`feature`, `auc`,
    `coefficient`), see `musegen.judging.two_sample`; the `band` (`mean`, `low`, `high`) of real works told from other
    real works, and the `place` in it;
  - `beats` (models): whether the model is better than each baseline, or null where that is not known;
  - `verdict`: `headline`, `sentences`, `copying` (names of metrics above real music); `told`: the figures that
    decide, each with `name`, `label`, `value`, `real`, `low` and `high` of the band, and `words` (`inside`, `below`,
    `above`, or `above: check for copying`);
  - `median_sample`: name; `pieces`: `name`, `work`, `tokens`, `metrics`, `copied`, `copied_exact`.
- `likelihood`: by group `bits_per_note`, `nats_per_token`, `markov_bits_per_note` (the n-gram model's on the same
  tokens) and what else was handed in; `markov`: the n-gram model's `bits_per_note` on notewise tokens and its `order`.
- `learning_curves`: by group, rows as handed in.

A value that is not defined is null.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

# Enough for any reader; fewer than a double holds, so that another CPU's last bit does not change the file.
DIGITS = 6


def plain(value):
    """Any nesting of numpy values, tuples and floats as JSON knows them; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return float(f"{number:.{DIGITS}g}") + 0.0 if math.isfinite(number) else None
    return value if value is None else str(value)


def write_text(text: str, path: Path) -> None:
    """Write a file so that a reader never sees half of it."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(results: dict, path: Path) -> None:
    """Write the results; the same results give the same bytes."""
    write_text(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)
