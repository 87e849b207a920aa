"""Composing: what is asked for is obeyed, what is given comes back note for note."""

import threading

import numpy as np
import pytest
import symusic
import torch

from musegen import grid as g
from musegen.composing import compose, compose_bars, infill, vary
from musegen.controls import Controls, controls_of, parse_key, tonic_signature
from musegen.errors import RequestError
from musegen.likelihood import piece_likelihood
from musegen.models import build_model
from musegen.sampling import SamplingOptions
from musegen.scores import content_hash, parse_midi
from musegen.tokenizer_training import train_tokenizer
from musegen.wishes import Wishes

COLUMNS = ["onset", "duration", "pitch", "program", "velocity"]
OPTIONS = SamplingOptions(seed=4, max_tokens=600)


def rows(score, start=0, stop=2**30, programs=None):
    notes = g.note_array(score)
    inside = (notes["onset"] >= start) & (notes["onset"] < stop)
    if programs is not None:
        inside &= np.isin(notes["program"], list(programs))
    return notes[inside][COLUMNS].tolist()


def test_wishes_are_obeyed(lstm, tokenizer):
    wishes = Wishes(key="g minor", time_signature="3/4", tempo=96, instruments="violin, cello")
    for piece in compose(lstm, tokenizer, [None] * 3, bars=3, wishes=wishes, options=OPTIONS):
        bars = g.bar_grid(piece.score)
        assert set(zip(bars.numerators.tolist(), bars.denominators.tolist())) == {(3, 4)}
        assert {track.program for track in piece.score.tracks} <= {40, 42}
        assert piece.score.tempos[0].qpm == pytest.approx(96, abs=0.01) and piece.score.tempos[0].time == 0
        assert (piece.score.key_signatures[0].key, piece.score.key_signatures[0].tonality) == (-2, 1)
        assert piece.header.key == (7, True) and piece.header.programs == (40, 42)
        if piece.ended:
            assert len(bars) == 3


def test_a_model_tuned_to_a_composer_writes_as_him_unless_told_otherwise(scores):
    tokenizer = train_tokenizer([scores["k545"]], 1100, composers=["Mozart", "Haydn"], progress=False)
    torch.manual_seed(1)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = build_model("lstm-tiny", vocab_size=len(tokenizer), n_positions=128, hidden_size=16, **ids).eval()

    def header(**wishes):
        piece = compose(model, tokenizer, bars=1, wishes=Wishes(**wishes), options=OPTIONS)[0]
        return tokenizer.controls_in(piece.input_ids[1:2])  # what stands first, before the model says anything

    assert header(instruments="violin").composer is None
    model.config.task_specific_params = {"music-generation": {"composer": "mozart"}}
    assert header(instruments="violin").composer == "mozart"
    assert header(instruments="violin", composer="Haydn").composer == "haydn"
    assert header(instruments="violin", composer="Any").composer is None
    model.config.task_specific_params = {"music-generation": {"composer": "salieri"}}
    assert header(instruments="violin").composer is None


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"key": "H major"}, "D major"),
        ({"time_signature": "0/4"}, "3/4"),
        ({"time_signature": "five"}, "3/4"),
        ({"tempo": 0}, "from 20 to 300"),
        ({"tempo": float("nan")}, "from 20 to 300"),
        ({"tempo": "fast"}, "from 20 to 300"),
        ({"instruments": "kazoo"}, "not known"),
        ({"instruments": []}, "name one"),
    ],
)
def test_wishes_that_cannot_be(wish, message):
    with pytest.raises(RequestError, match=message):
        Wishes(**wish)


def test_wishes_that_this_model_cannot_meet(lstm, tokenizer, scores):
    with pytest.raises(RequestError, match="knows no composers"):
        compose(lstm, tokenizer, wishes=Wishes(composer="Mozart"))
    with pytest.raises(RequestError, match="1 to 12 over 4"):
        compose(lstm, tokenizer, wishes=Wishes(time_signature="13/4"))
    plain = train_tokenizer([scores["k545"]], 1100, controls=False, progress=False)
    with pytest.raises(RequestError, match="without control tokens"):
        Wishes(composer="Mozart", key="C").header(plain)
    with pytest.raises(RequestError, match="cannot look ahead"):
        infill(lstm, plain, scores["k545"], 2, 3)


@pytest.mark.parametrize("text", ["C major", "a", "F# minor", "Db", "B", "c#", "Bb minor", "E"])
def test_key_signatures_are_those_of_the_circle_of_fifths(text):
    names = {"C major": 0, "a": 0, "F# minor": 3, "Db": -5, "B": 5, "c#": 4, "Bb minor": -5, "E": 4}
    assert tonic_signature(parse_key(text)) == names[text]


@pytest.mark.parametrize("prompt_bars", [1, 3])
def test_an_opening_comes_back_note_for_note(lstm, tokenizer, scores, prompt_bars):
    """Unisons, long notes and velocities of the opening too, which tokens do not hold."""
    prompt = scores["k155/movement3"].copy()
    prompt.tracks[0].notes[0].velocity = 17
    prompt.tracks[1].notes[0].duration = 96 * 7 + 4
    piece = compose(lstm, tokenizer, prompt, bars=6, prompt_bars=prompt_bars, options=OPTIONS)[0]
    end = int(g.bar_grid(prompt).starts[prompt_bars])
    assert rows(piece.score, 0, end) == rows(g.slice_bars(prompt, 0, prompt_bars))
    assert rows(piece.score, end) and piece.prompt_bars == prompt_bars
    assert piece.header.key == controls_of(prompt).key
    assert content_hash(parse_midi(piece.midi).score) == content_hash(piece.score)


@pytest.mark.parametrize(("first", "last"), [(1, 2), (5, 8), (20, 20)])
def test_around_a_gap_nothing_changes(lstm, tiny_model, tokenizer, scores, first, last):
    score = scores["k155/movement3"]
    starts = g.bar_grid(score).starts
    start, stop = int(starts[first - 1]), int(starts[last])
    for model in (lstm, tiny_model):  # one without a bound, one that sees 128 ids
        one, two = infill(model, tokenizer, score, first, last, num=2, options=OPTIONS)
        for piece in (one, two):
            assert rows(piece.score, 0, start) == rows(score, 0, start)
            assert rows(piece.score, stop) == rows(score, stop)
            assert g.bar_grid(piece.score).starts.tolist() == starts.tolist()
            assert rows(piece.score, start, stop) != rows(score, start, stop)
            assert all(onset + duration <= stop for onset, duration, *_ in rows(piece.score, start, stop))
            assert {program for *_, program, _ in rows(piece.score, start, stop)} <= {40, 41, 42}
        assert last - first < 3 or rows(one.score) != rows(two.score)


def test_gaps_that_are_not_there(lstm, tokenizer, scores):
    score = scores["k155/movement3"]
    for first, last in ((0, 2), (3, 2), (5, 10_000), (1, 65)):
        with pytest.raises(RequestError, match="the piece has bars 1 to"):
            infill(lstm, tokenizer, score, first, last)


@pytest.mark.parametrize("keep", ["violin", "viola, cello"])
def test_what_is_kept_stays_and_the_rest_is_new(lstm, tokenizer, scores, keep):
    score = g.slice_bars(scores["k155/movement3"], 0, 5)
    kept = {"violin": {40}, "viola, cello": {41, 42}}[keep]
    piece = vary(lstm, tokenizer, score, keep, options=SamplingOptions(seed=1, max_tokens=3000))[0]
    assert rows(piece.score, programs=kept) == rows(score, programs=kept)
    others = {40, 41, 42} - kept
    assert rows(piece.score, programs=others) and rows(piece.score, programs=others) != rows(score, programs=others)
    assert piece.ended and len(g.bar_grid(piece.score)) == 5


def test_variations_that_cannot_be(lstm, tokenizer, scores):
    with pytest.raises(RequestError, match="the piece has Acoustic Grand Piano, and none of 'violin'"):
        vary(lstm, tokenizer, scores["k545"], "violin")
    with pytest.raises(RequestError, match="nothing is left to write"):
        vary(lstm, tokenizer, scores["k545"], "piano")


def test_bars_come_as_they_are_made(lstm, tokenizer, scores):
    """The bars that are handed out are those of the piece that is composed at once."""
    prompt, finished = scores["k155/movement3"], []
    settings = {"bars": 4, "prompt_bars": 2, "options": SamplingOptions(seed=2, max_tokens=3000)}
    found = list(compose_bars(lstm, tokenizer, prompt, finish=finished.extend, **settings))
    whole = compose(lstm, tokenizer, prompt, **settings)[0]
    assert [bar.number for bar in found] == [3, 4, 5, 6] and [bar.ended for bar in found] == [False] * 3 + [True]
    assert content_hash(finished[0].score) == content_hash(whole.score)
    starts = np.append(g.bar_grid(whole.score).starts, [2**30] * 4)  # the last bars may be silent
    for bar in found:
        low, high = (int(t) for t in starts[bar.number - 1 : bar.number + 1])
        expected = [(o - low, p, i) for o, _, p, i, _ in rows(whole.score, low, high)]
        assert [(o, p, i) for o, _, p, i, _ in rows(bar.score)] == expected


def test_stopping_leaves_a_whole_piece(lstm, tokenizer):
    stop, finished = threading.Event(), []
    for bar in compose_bars(lstm, tokenizer, bars=50, stop=stop, finish=finished.extend, options=OPTIONS):
        if bar.number == 2:
            stop.set()
    assert not finished[0].ended and rows(finished[0].score)


def test_the_nats_of_notes_are_those_of_the_model(lstm, tokenizer):
    """Against a plain forward pass over the whole piece."""
    piece = compose(lstm, tokenizer, bars=3, options=SamplingOptions(seed=3, max_tokens=2000))[0]
    assert piece.ended and len(piece.note_log_probs) == len(g.note_array(piece.score))
    durations = [any(n.startswith("Duration") for n in tokenizer.token_names([i])) for i in piece.input_ids]
    last = len(durations) - durations[::-1].index(True)  # what comes after the last note belongs to none
    expected = piece_likelihood(lstm, piece.input_ids[:last], 1).nats
    assert -piece.note_log_probs.sum() == pytest.approx(expected, rel=1e-4)
    assert (piece.note_log_probs < 0).all()


def test_prompts_that_are_no_music(lstm, tokenizer):
    with pytest.raises(RequestError, match="without a note"):
        compose(lstm, tokenizer, symusic.Score(96))
    for bars in (0, -1, 2001, True, 1.5):
        with pytest.raises(RequestError, match="from 1 to 2000"):
            compose(lstm, tokenizer, bars=bars)


def test_a_header_is_read_back(tokenizer):
    for controls in (Controls(), Controls(key=(3, True), tempo=120.0, programs=(-1, 0, 40)), Controls(programs=(5,))):
        ids = tokenizer.header_ids(controls)
        assert tokenizer.controls_in([*ids, tokenizer.left_id(3)]) == controls
