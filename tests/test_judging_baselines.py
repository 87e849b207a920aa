"""The n-gram model against a plain one, and baselines that are what they say."""

import math
from collections import Counter

import numpy as np
import pytest

from musegen import grid, notewise
from musegen.judging import baselines as b
from musegen.judging.features import measure
from musegen.judging.ngram import NgramModel, max_order
from musegen.judging.originality import TrainingIndex
from musegen.judging.pieces import Piece, barred_notes, count_bars
from musegen.scores import content_hash


def naive_probability(texts, order, context, token, vocabulary=280):
    """Interpolated Witten-Bell in the words of the paper, counting with dictionaries."""
    padded = [["begin"] * (order - 1) + text for text in texts]
    history = ["begin"] * (order - 1) + context
    probability = 1 / vocabulary
    for n in range(order):
        tail = tuple(history[len(history) - n :])
        followers = Counter(
            text[i] for text in padded for i in range(order - 1, len(text)) if tuple(text[i - n : i]) == tail
        )
        if not followers:
            break
        total, types = sum(followers.values()), len(followers)
        probability = (followers[token] + types * probability) / (total + types)
    return probability


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngram_model_equals_a_plain_one(order):
    rng = np.random.default_rng(order)
    texts = [rng.integers(0, 5, 30).tolist() for _ in range(3)]
    model = NgramModel([np.array(t, dtype=np.uint16) for t in texts], order)
    ids = np.array([0, 1, 4, 2, 250, 3, 3, 0], dtype=np.uint16)  # 250 was never seen
    probabilities = model.probabilities(ids)
    for i, token in enumerate(ids.tolist()):
        expected = naive_probability(texts, order, ids[:i].tolist(), token)
        assert probabilities[i] == pytest.approx(expected, rel=1e-12)
        distribution = model.distribution(ids[:i].tolist())
        assert distribution.sum() == pytest.approx(1.0) and distribution[token] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 3])
def test_ngram_model_over_other_tokens_equals_a_plain_one(order):
    rng = np.random.default_rng(order)
    texts = [rng.choice([0, 7, 511, 512, 2999], 25).tolist() for _ in range(3)]
    model = NgramModel([np.array(t) for t in texts], order, vocabulary=3000)
    ids = [511, 512, 2999, 1500, 0, 7]
    expected = [naive_probability(texts, order, ids[:i], token, 3000) for i, token in enumerate(ids)]
    assert model.probabilities(np.array(ids)) == pytest.approx(expected, rel=1e-12)
    assert model.bits(np.array(ids)) == pytest.approx(-sum(map(math.log2, expected)), rel=1e-12)
    assert model.distribution(ids[:2]).sum() == pytest.approx(1.0)


def test_bits_per_note_by_hand():
    model = NgramModel([])
    ids = notewise.ids_of(["p60", "wait12", "endp60", "p62", "wait12", "endp62"])
    assert model.bits_per_note([ids]) == pytest.approx(3 * math.log2(280))  # uniform, three tokens a note
    assert math.isnan(model.bits_per_note([]))
    assert NgramModel([ids] * 50, 3).bits_per_note([ids]) < 1.0


def test_ngram_order_is_bounded():
    with pytest.raises(ValueError, match="order must be"):
        NgramModel([], 8)
    assert max_order(4096) == 4 and NgramModel([], 4, vocabulary=4096).order == 4
    with pytest.raises(ValueError, match="order must be"):
        NgramModel([], 5, vocabulary=4096)


@pytest.fixture(scope="module")
def train(scores):
    return [Piece(name, name.split("/")[0], score) for name, score in scores.items() if name != "k545"]


@pytest.fixture(scope="module")
def model(train, scores):
    return b.fit_markov([notewise.encode_ids(p.score) for p in train], [notewise.encode_ids(scores["k545"])])


@pytest.fixture(scope="module")
def made(train, model):
    return b.make_baselines(train, model, count=4, bars=12, seed=3)


def test_markov_takes_the_order_that_foretells_best(train, model, scores):
    held = [notewise.encode_ids(scores["k545"])]
    ids = [notewise.encode_ids(p.score) for p in train]
    bits = {order: NgramModel(ids, order).bits_per_note(held) for order in b.ORDERS}
    assert model.order == min(bits, key=bits.get)
    assert 5 < bits[model.order] < 3 * math.log2(280)


def test_every_baseline_is_a_canonical_score_of_the_length_asked_for(made):
    assert list(made) == list(b.LABELS)
    for name, pieces in made.items():
        assert len({p.name for p in pieces}) == 4
        for piece in pieces:
            notes = barred_notes(piece.score)
            assert 9 <= count_bars(piece.score) <= 12, name  # the last bars may be silent
            assert len(notes) > 40 and notes.duration.min() > 0
            assert piece.score.ticks_per_quarter == grid.TICKS_PER_QUARTER
            assert (notes.onset + notes.duration).max() <= notes.grid.starts[-1]


def test_baselines_come_from_the_seed(train, model, made):
    def hashes(music):
        return {name: [content_hash(p.score) for p in pieces] for name, pieces in music.items()}

    assert hashes(b.make_baselines(train, model, count=4, bars=12, seed=3)) == hashes(made)
    other = hashes(b.make_baselines(train, model, count=4, bars=12, seed=4))
    assert all(other[name] != own for name, own in hashes(made).items())
    # More pieces are not other pieces.
    more = hashes(b.make_baselines(train, model, count=6, bars=12, seed=3))
    assert {name: own[:4] for name, own in more.items()} == hashes(made)


def test_copy_machine_copies_and_the_others_do_not(train, made):
    index = TrainingIndex.build([(p.name, p.score) for p in train])
    spans = {name: [index.copied_span(p.score) for p in pieces] for name, pieces in made.items()}
    for i, (piece, span) in enumerate(zip(made["copy_machine"], spans["copy_machine"])):
        assert span.notes > 0.8 * len(notewise.spans(piece.score))
        assert (span.transposition != 0) == bool(i % 2)
        assert span.piece.split("/")[0] == piece.work
    for name in ("markov", "random_in_key"):
        assert max(span.notes for span in spans[name]) < 16


def test_shuffled_bars_are_real_bars_in_another_order(train):
    source = train[0]
    shuffled = b.shuffled_bars(source, 10**6, np.random.default_rng(0))
    notes, real = barred_notes(shuffled), barred_notes(source.score)

    def bars(n):
        return [
            tuple(sorted(zip(n.position[n.bar == i].tolist(), n.pitch[n.bar == i].tolist()))) for i in range(n.bars)
        ]

    mine, theirs = Counter(bars(notes)), Counter(bars(real))
    assert mine - theirs == Counter()
    assert sum((theirs - mine).values()) <= 2  # bars without an onset at the end are not written
    assert bars(notes) != bars(real)[: notes.bars]


def test_random_notes_keep_key_density_and_range(train, made):
    style = b.Style.of(train)
    found = [measure(p.score) for p in made["random_in_key"]]
    assert all(f["scale_consistency"] == 1.0 for f in found)
    assert np.mean([f["note_density"] for f in found]) == pytest.approx(style.density, rel=0.15)
    pitches = np.concatenate([barred_notes(p.score).pitch for p in made["random_in_key"]])
    assert style.low <= pitches.min() and pitches.max() <= style.high


def test_markov_pieces_hold_no_endless_notes_and_no_clusters(train, made):
    style = b.Style.of(train)
    for piece in made["markov"]:
        notes = notewise.spans(piece.score)
        # Only a wait token separates the end that is due from the end that is written.
        assert (notes["end"] - notes["onset"]).max() <= style.longest + notewise.MAX_WAIT
        assert measure(piece.score)["polyphony"] <= style.voices


def test_markov_draws_only_tokens_of_the_training_music(train, model):
    known = {token for p in train for token in notewise.encode(p.score)}
    ids = b.markov_ids(model, b.Style.of(train), 400, np.random.default_rng(1))
    assert set(notewise.tokens_of(ids)) <= known


def test_transpositions_stay_on_the_keyboard(train):
    for semitones in (-60, 60):
        score = b.copy_machine(train[0], 8, np.random.default_rng(0), semitones)
        assert 0 <= barred_notes(score).pitch.min() and barred_notes(score).pitch.max() <= 127
