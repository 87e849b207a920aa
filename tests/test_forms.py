"""Form: what letters mean, and that sections return as they were."""

import dataclasses
import threading

import numpy as np
import pytest
import symusic

from musegen import grid as g
from musegen.composing import compose, compose_bars
from musegen.errors import RequestError
from musegen.forms import FORMS, Section, parse_form
from musegen.grammar import Grammar
from musegen.sampling import SamplingOptions
from musegen.wishes import Wishes

OPTIONS = SamplingOptions(seed=3, max_tokens=4000)


def bar_notes(score):
    """Of each bar its notes, from its bar line on."""
    notes, grid = g.note_array(score), g.bar_grid(score)
    bars = [[] for _ in grid.numerators]
    for note, bar in zip(notes, np.searchsorted(grid.starts, notes["onset"], side="right") - 1):
        start = int(grid.starts[bar])
        row = (int(note["onset"]) - start, int(note["duration"]), int(note["pitch"]), int(note["program"]))
        bars[bar].append(row)
    return [sorted(bar) for bar in bars]


def test_letters_primes_and_numbers():
    assert parse_form("AABA") == (
        Section("A", 1, 8),
        Section("A", 9, 8, "A", 8),
        Section("B", 17, 8),
        Section("A", 25, 8, "A", 8),
    )
    assert parse_form(" A4 A’ B3, A''-A' ") == (
        Section("A", 1, 4),
        Section("A'", 5, 4, "A", 2),
        Section("B", 9, 3),
        Section("A''", 12, 4, "A", 2),
        Section("A'", 16, 4, "A'", 4),
    )
    assert [section.new for section in parse_form("A5 A' A")] == [5, 3, 0]
    minuet = parse_form("Minuet")
    assert sum(section.bars for section in minuet) == 120 and sum(section.new for section in minuet) == 40
    assert all(parse_form(form) for form in FORMS.values())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("", "letters such as"),
        ("aaba", "letters such as"),
        ("A A B!", "letters such as"),
        ("sonata", "letters such as .* minuet"),
        (7, "not 7"),
        ("A8 B A4", "A has 8 bars and cannot have 4"),
        ("A' B", "A' is another A, which has to come before it"),
        ("A0 B", "1 to 128 bars, not 0"),
        ("A999", "1 to 128 bars, not 999"),
        ("AB" * 33, "at most 64 sections, not 66"),
    ],
)
def test_forms_that_cannot_be(form, message):
    with pytest.raises(RequestError, match=message):
        parse_form(form)


@pytest.mark.parametrize("kind", ["lstm", "gpt"])
def test_sections_return_as_they_were_and_others_are_new(kind, lstm, tiny_model, tokenizer):
    model = lstm if kind == "lstm" else tiny_model
    pieces = compose(model, tokenizer, [None] * 3, form="A3 A' B2 A A'", options=OPTIONS)
    grammar = Grammar(tokenizer, steady_metre=True)
    for piece in pieces:
        bars = bar_notes(piece.score)
        bars += [[]] * (14 - len(bars))  # silence at the end has no notes to be known by
        assert len(bars) == 14 and piece.ended
        a, other, b, again, last = bars[:3], bars[3:6], bars[6:8], bars[8:11], bars[11:]
        assert again == a and last == other and other[:1] == a[:1] and other[1:] != a[1:] and b != a[:2]
        assert [(s.name, s.first_bar) for s in piece.sections] == [
            ("A", 1), ("A'", 4), ("B", 7), ("A", 9), ("A'", 12)
        ]  # fmt: skip
        starts = g.bar_grid(piece.score).starts
        marks = [(m.time, m.text) for m in symusic.Score.from_midi(piece.midi).markers]
        assert marks == [(int(starts[s.first_bar - 1]), s.name) for s in piece.sections]
        # Nothing rings from one section into the next, so that what returns does not meet itself.
        notes = g.note_array(piece.score)
        edges = {int(starts[s.first_bar - 1]) for s in piece.sections[1:]}
        for edge in edges:
            assert not np.any((notes["onset"] < edge) & (notes["onset"] + notes["duration"] > edge))
        # The ids are those of one whole piece, legal from the first to the last, though two silences that meet at a
        # seam may be longer than one that is written; with nats for the new notes alone.
        state = grammar.read(())
        for token in piece.input_ids[1:]:
            assert grammar.allowed(state, 14)[token] or state.empty > 1
            state = grammar.advance(state, token)
        new = sum(len(bar) for bar in [*a, *other[1:], *b])
        assert len(piece.note_log_probs) == new and np.all(piece.note_log_probs < 0)
    assert len({str(bar_notes(piece.score)) for piece in pieces}) == 3


def test_the_same_seed_gives_the_same_piece_in_any_company(lstm, tokenizer):
    alone = compose(lstm, tokenizer, form="A2 B2 A", options=OPTIONS)[0]
    third = compose(
        lstm, tokenizer, [None] * 3, form="A2 B2 A", options=OPTIONS, keys=[(9, 9), (9, 8), (OPTIONS.seed, 0)]
    )[2]
    assert alone.input_ids == third.input_ids
    assert alone.input_ids != compose(
        lstm, tokenizer, form="A2 B2 A", options=dataclasses.replace(OPTIONS, seed=4)
    )[0].input_ids  # fmt: skip


def test_bars_come_as_they_are_made_and_what_returns_at_once(lstm, tokenizer, scores):
    whole = compose(lstm, tokenizer, scores["k545"], form="A3 B2 A", prompt_bars=2, options=OPTIONS)[0]
    made, seen = [], []
    settings = {"form": "A3 B2 A", "prompt_bars": 2, "options": OPTIONS}
    for bar in compose_bars(lstm, tokenizer, scores["k545"], finish=made.extend, **settings):
        seen.append((bar.number, bar.ended))
        heard, wanted = g.note_array(bar.score), (bar_notes(whole.score) + [[]] * 8)[bar.number - 1]
        struck = sorted(zip(heard["onset"].tolist(), heard["pitch"].tolist()))
        assert struck == sorted((onset, pitch) for onset, _, pitch, _ in wanted)  # notes are cut at the bar's end
    assert seen == [(number, number == 8) for number in range(3, 9)]
    assert made[0].input_ids == whole.input_ids and made[0].sections == whole.sections
    stop, made = threading.Event(), []
    for bar in compose_bars(lstm, tokenizer, form="A4 B4 A", options=OPTIONS, stop=stop, finish=made.extend):
        if bar.number == 5:
            stop.set()
    assert not made[0].ended and [section.name for section in made[0].sections] == ["A", "B"]
    assert 5 <= len(bar_notes(made[0].score)) < 12


def test_an_opening_is_the_beginning_of_the_first_section(lstm, tokenizer, scores):
    theme = scores["k545"]
    piece = compose(lstm, tokenizer, theme, form="A4 B2 A", prompt_bars=2, options=OPTIONS)[0]
    given, bars = bar_notes(theme), bar_notes(piece.score)
    assert bars[:2] == given[:2] and bars[6:8] == given[:2] and bars[6:] == bars[:4] and piece.prompt_bars == 2
    end = int(g.bar_grid(theme).starts[2])
    columns = ["onset", "duration", "pitch", "program", "velocity"]
    rows = [notes[notes["onset"] < end][columns].tolist() for notes in map(g.note_array, (theme, piece.score))]
    assert rows[0] == rows[1] and len(rows[0]) > 10
    # All of the section given: nothing is left to write in it.
    whole = compose(lstm, tokenizer, theme, form="A2 B2", prompt_bars=2, options=OPTIONS)[0]
    assert bar_notes(whole.score)[:2] == given[:2] and len(bar_notes(whole.score)) == 4
    with pytest.raises(RequestError, match=r"an opening of 3 bars, where the first section has 2; .*A3"):
        compose(lstm, tokenizer, theme, form="A2 B2", prompt_bars=3, options=OPTIONS)


def test_wishes_hold_in_all_sections(lstm, tokenizer):
    wishes = Wishes(key="g minor", time_signature="3/4", tempo=96, instruments="violin, cello")
    piece = compose(lstm, tokenizer, form="A2 B2 A", wishes=wishes, options=OPTIONS)[0]
    grid = g.bar_grid(piece.score)
    assert set(zip(grid.numerators.tolist(), grid.denominators.tolist())) == {(3, 4)} and len(grid) == 6
    assert {track.program for track in piece.score.tracks} <= {40, 42}
    assert piece.score.tempos[0].qpm == pytest.approx(96, abs=0.01) and len(piece.score.tempos) == 1


def test_out_of_ids_it_is_whole_as_far_as_it_goes(lstm, tokenizer):
    options = dataclasses.replace(OPTIONS, max_tokens=30)
    piece = compose(lstm, tokenizer, form="A4 B4 A", options=options)[0]
    assert not piece.ended and len(bar_notes(piece.score)) < 12
    with pytest.raises(RequestError, match="a piece has at most"):
        compose(lstm, tokenizer, form="A128" + "B128" + "AB" * 8, options=options)
