"""Draws against transformers' own warpers, and against the probabilities they should have."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper
from transformers import TopPLogitsWarper as TopP

from musegen.errors import RequestError
from musegen.grammar import Grammar, GrammarState
from musegen.id_tables import POSITION
from musegen.repetition import RUNS, BarLoops
from musegen.sampling import Row, SamplingOptions, draw, grammar_scores


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(tokenizer)


@pytest.fixture(scope="module")
def state(grammar, tokenizer):
    """In the middle of a bar, where hundreds of ids may come."""
    vocab = tokenizer.remi.vocab
    names = ("Bar_None", "TimeSig_4/4", "Position_0", "Program_0", "Pitch_60", "Duration_1.0.24")
    return grammar.read([vocab[name] for name in names])


def warped(scores, options):
    """What transformers leaves of scores, and how likely."""
    warpers = [TemperatureLogitsWarper(options.temperature)]
    if options.top_k:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        warpers.append(TopP(options.top_p))
    if options.min_p:
        warpers.append(MinPLogitsWarper(options.min_p))
    return LogitsProcessorList(warpers)(None, torch.from_numpy(scores)).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize(
    "settings",
    [{"top_p": 1.0}, {"top_p": 0.6}, {"top_p": 0.95}, {"top_p": 1.0, "top_k": 3}, {"top_p": 1.0, "min_p": 0.2},
     {"top_p": 0.7, "top_k": 20, "min_p": 0.05}],
)  # fmt: skip
def test_draws_are_transformers_warpers_and_then_a_race(grammar, state, temperature, settings):
    options = SamplingOptions(temperature=temperature, **settings)
    logits = np.random.default_rng(0).normal(0, 2, (300, len(grammar.legal))).astype(np.float32)
    rows = [Row(grammar, state, None, options, (1, i)) for i in range(300)]
    twins = [Row(grammar, state, None, options, (1, i)) for i in range(300)]
    found = draw(rows, logits, options)
    noise = np.stack([row.noise(logits.shape[1]) for row in twins])
    expected = (warped(grammar_scores(rows, logits), options) - np.log(noise)).argmax(1)
    assert found.tokens == expected.tolist()
    assert len(set(found.tokens)) > 30


def test_ids_are_drawn_as_often_as_they_are_likely(grammar, state):
    options = SamplingOptions(temperature=0.8, top_p=0.9)
    logits = np.random.default_rng(1).normal(0, 3, (1, len(grammar.legal))).astype(np.float32)
    row = Row(grammar, state, None, options, (5,))
    left = warped(grammar_scores([row], logits), options)[0].astype(float)
    likely = np.exp(left - left.max())
    likely /= likely.sum()
    counts = np.bincount([draw([row], logits, options).tokens[0] for _ in range(6000)], minlength=len(likely))
    error = np.sqrt(6000 * likely * (1 - likely))
    assert counts[likely == 0].sum() == 0
    assert np.all(np.abs(counts - 6000 * likely) <= 4.5 * error + 1)


@pytest.mark.parametrize("bars", [1, 2, None])
def test_what_ends_a_bar_shares_what_the_model_gives_to_ending_it(grammar, state, tokenizer, bars):
    """The end of the piece, the one number of bars left that is true, or what the model says of it."""
    logits = np.random.default_rng(2).normal(0, 2, (1, len(grammar.legal))).astype(np.float32)
    row = Row(grammar, state, bars, SamplingOptions())
    scores = grammar_scores([row], logits)[0]
    names = [tokenizer.token_names([i])[:1] for i in range(len(scores))]
    ways = [i for i, first in enumerate(names) if first and first[0].startswith(("Bar", "Left_", "EOS"))]
    legal = [i for i in ways if np.isfinite(scores[i])]
    told = {names[i][0] for i in legal}
    assert told == {1: {"EOS_None"}, 2: {"Left_1"}}.get(bars, told) and 0 < len(legal) < len(ways)
    assert np.logaddexp.reduce(scores[legal]) == pytest.approx(np.logaddexp.reduce(logits[0, ways]), abs=1e-4)
    assert np.ptp(scores[legal] - logits[0, legal]) < 1e-4  # in the model's own proportions
    others = np.isfinite(scores)
    others[legal] = False
    assert np.array_equal(scores[others], logits[0, others])


def test_doubts_are_settled_by_the_reference(grammar, state):
    """Two ids nearly as likely: the reference decides, and only then is it asked."""
    options = SamplingOptions(temperature=0)
    logits = np.full((2, len(grammar.legal)), -5, np.float32)
    a, b = np.flatnonzero(grammar.allowed(state))[:2]
    logits[0, [a, b]] = 1, 1 + 1e-6
    logits[1, [a, b]] = 1, 1.1
    asked = []

    def reference(row):
        asked.append(row)
        return np.where(np.arange(len(grammar.legal)) == a, 2, logits[row]).astype(np.float32)

    rows = [Row(grammar, state, None, options) for _ in range(2)]
    assert draw(rows, logits, options, reference).tokens == [a, b] and asked == [0]


def test_what_stands_still_is_punished_and_music_is_not(grammar, tokenizer):
    vocab = tokenizer.remi.vocab

    def bar(*pitches):
        """Two notes, an eighth apart."""
        notes = [(f"Position_{12 * i}", f"Pitch_{p}", "Duration_0.12.24") for i, p in enumerate(pitches)]
        return [vocab[n] for n in ("Bar_None", "TimeSig_2/4", *itertools.chain(*notes))]

    def punished(bars, begun=()):
        """Names of the single ids that lose, and whether nothing gains."""
        loops = BarLoops(grammar)
        for token in [tokenizer.bos_token_id, *itertools.chain(*bars), *begun]:
            loops.advance(token)
        scores = np.zeros(len(grammar.legal), np.float32)
        loops.punish(scores, 3.0)
        assert scores.max() == 0
        return {name for name, i in vocab.items() if scores[i]}, scores

    a, b, c, d = bar(60, 62), bar(64, 65), bar(67, 69), bar(71, 72)
    at = 3  # ids of a bar before its first pitch
    most = RUNS[1] + 1
    assert punished([a] * (most - 1), a[:at])[0] == set()
    assert punished([a] * most, a[:at])[0] == {"Pitch_60"}  # not the one that belongs elsewhere in the bar
    assert punished([a] * most, a[: at + 3])[0] == {"Pitch_62"}
    assert punished([a] * most)[0] == set()  # the bar is full: what comes next is free
    # Nearly equal bars stand still too; of the last one both notes are stale, of those before none.
    alike = [bar(60, 62), bar(60, 64), bar(60, 65), bar(60, 67)]
    assert punished(alike, a[:at])[0] == {"Pitch_60"} and punished(alike, a[: at + 3])[0] == {"Pitch_67"}
    assert punished([bar(60, 62), bar(61, 64), bar(60, 65), bar(61, 67)], a[:at])[0] == set()
    # Once half of a bar is its own, the rest may stay.
    assert punished([a] * most, [*b[: at + 2], a[at + 2]])[0] == set()
    # Two bars in turn, and a passage that returns.
    assert punished([a, b] * 3, a[:at])[0] == {"Pitch_60"} and punished([a, b] * 2, a[:at])[0] == set()
    assert punished([a, b, c, d, a, b, c, d], a[:at])[0] == set()
    # How many bars are left is no part of a bar.
    counted = [[vocab[f"Left_{9 - i}"], *a] for i in range(most)]
    assert punished(counted, [vocab["Left_5"], *a[:at]])[0] == {"Pitch_60"}
    # A merged id loses for each stale note that it strikes, counted here from its REMI tokens.
    names = tokenizer._base_names
    _, scores = punished([a] * most, a[:2])
    wanted = np.zeros_like(scores)
    for i, expansion in enumerate(tokenizer.expansions):
        place = 0
        for name in [names[base] for base in expansion]:
            if name.startswith("Position_"):
                place = int(name.partition("_")[2])
            elif name == "Bar_None" or name.startswith("Program_"):
                break
            elif (place, name) in ((0, "Pitch_60"), (12, "Pitch_62")):
                wanted[i] -= 3.0
    assert np.array_equal(scores, wanted)


@pytest.mark.parametrize(
    "settings",
    [{"min_p": -0.1}, {"min_p": 1.1}, {"repetition": -1}, {"seed": -1}, {"seed": 1.5}, {"temperature": 6}],
)
def test_bad_options_say_what_is_allowed(settings):
    with pytest.raises(RequestError, match=next(iter(settings))):
        SamplingOptions(**settings)


def test_rows_have_randomness_of_their_own(grammar):
    def noise(key):
        return Row(grammar, GrammarState(), None, SamplingOptions(), key).noise(5).tolist()

    assert noise((1, 2)) == noise((1, 2))
    assert len({tuple(noise(key)) for key in [(1, 2), (2, 1), (1, 3), (0, 0)]}) == 4


@pytest.mark.parametrize(("asked", "both"), [((40, 42), True), ((), False)])
def test_an_instrument_that_was_asked_for_comes_in_though_the_model_forgets_it(tokenizer, asked, both):
    """The model gives the cello e^-12 of what it gives the violin."""
    grammar = Grammar(tokenizer, {40, 42}, asked=asked)
    rng = np.random.default_rng(3)
    cello = np.array([42 in named for named in grammar._named])
    row = Row(grammar, grammar.read([tokenizer.bos_token_id]), 16, SamplingOptions(), (1, 1))
    entries = {}
    for _ in range(4000):
        logits = rng.normal(0, 1, (1, len(cello))).astype(np.float32) - 12 * cello
        row.advance(draw([row], logits, SamplingOptions()).tokens[0])
        for program in row.state.played:
            entries.setdefault(program, row.state.bars)
        if row.ended:
            break
    assert row.ended and row.state.bars == 16
    assert (set(entries) == {40, 42}) is both and 40 in entries
    assert not both or entries[42] > 2


@pytest.mark.parametrize(
    ("key", "outside"), [((2, False), {0, 3, 5, 8, 10}), ((7, True), {8, 11, 1}), ((0, False), {1, 3, 6, 8, 10})]
)
def test_notes_outside_the_key_that_was_asked_for_lose(tokenizer, key, outside):
    """G minor has both E flat and E, F and F sharp."""
    asked, plain = Grammar(tokenizer, key=key), Grammar(tokenizer)
    logits = np.random.default_rng(3).normal(0, 2, (1, len(plain.legal))).astype(np.float32)
    state = GrammarState(POSITION, 0, 48, bars=1, notes=True, program=0)
    with_key, without = (grammar_scores([Row(g, state, None, SamplingOptions())], logits)[0] for g in (asked, plain))
    open_ = np.isfinite(without)
    names, lost = tokenizer._base_names, np.zeros(len(logits[0]))
    for i, expansion in enumerate(tokenizer.expansions):
        pitches = [int(names[base][6:]) for base in expansion if names[base].startswith("Pitch_")]
        lost[i] = 0.5 * sum(pitch % 12 in outside for pitch in pitches)
    assert np.array_equal(np.isfinite(with_key), open_) and set(lost[open_]) >= {0.0, 0.5}
    assert np.allclose(with_key[open_], without[open_] - lost[open_], atol=1e-5)
    drums = dataclasses.replace(state, program=-1)
    assert np.array_equal(*(grammar_scores([Row(g, drums, None, SamplingOptions())], logits) for g in (asked, plain)))


def test_only_ids_that_bring_a_late_instrument_gain(tokenizer):
    grammar, plain = Grammar(tokenizer, asked={40, 42}), Grammar(tokenizer)
    logits = np.zeros((1, len(grammar.legal)), np.float32)
    bars_and_gains = ((1, {40}, 0), (2, {40}, 0), (3, {40}, 1), (5, {40}, 3), (40, {40}, 8), (40, {40, 42}, 0))
    for bars, played, nats in bars_and_gains:
        state = GrammarState(POSITION, 0, 48, bars=bars, notes=True, played=frozenset(played))
        pushed, without = (
            grammar_scores([Row(g, state, None, SamplingOptions())], logits)[0] for g in (grammar, plain)
        )
        open_ = np.isfinite(without)
        late = np.array([42 in named for named in grammar._named])[open_]
        assert late.any() and not late.all() and np.array_equal(np.isfinite(pushed), open_)
        assert np.allclose(pushed[open_], without[open_] + nats * late)
