"""Blocks taken apart again, for tests."""

import collections

import numpy as np


def windows_of(block, layout):
    """A block in parts, each from an opening on."""
    return np.split(block, np.flatnonzero(layout.opens[block]))


def whole_bars(windows, tokenizer, layout):
    """The bars of windows as tuples of ids, without control tokens; the last of a window only if something follows."""
    for window in windows:
        special = np.isin(window, [tokenizer.eos_token_id, tokenizer.gap_id, tokenizer.sep_token_id])
        starts = np.flatnonzero(layout.begins_bar[window])
        ends = np.flatnonzero(layout.begins_bar[window] | (layout.left[window] > 0) | special)
        for start in starts:
            later = ends[ends > start]
            yield tuple(window[start : later[0]].tolist()) if len(later) else None


def bars_of(blocks, tokenizer, layout):
    """How often each bar stands whole in blocks; None counts those that the end of a block cut."""
    windows = [window for block in blocks for window in windows_of(block, layout) if len(window)]
    return collections.Counter(whole_bars(windows, tokenizer, layout))
