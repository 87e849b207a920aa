"""The grammar: whatever a model wants, what comes out is music, of the length asked for."""

import dataclasses
import itertools

import numpy as np
import pytest
import symusic
import torch

from musegen import grid as g
from musegen.blocks import infill_ids
from musegen.composing import compose
from musegen.controls import controls_of
from musegen.errors import RequestError
from musegen.generation import sample
from musegen.grammar import Grammar, GrammarState
from musegen.id_tables import DURATION, END, LEFT
from musegen.keeping import KeepingGrammar
from musegen.models import build_model
from musegen.sampling import SamplingOptions
from musegen.scores import content_hash, midi_bytes, parse_midi
from musegen.wishes import Wishes


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(tokenizer)


@pytest.fixture(scope="module")
def tiny_lstm(tokenizer):
    torch.manual_seed(1)
    return build_model(
        "lstm-tiny",
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        n_positions=128,
        hidden_size=32,
        embedding_size=32,
    ).eval()


def check_stream(names):
    """The grammar once more, in another form: an error for the first token that is out of place."""
    bar_start, bar_length, step, position, program, previous, left = 0, 0, 4, -1, None, "BOS", None
    sounding, header, metres = {}, [], set()
    follows = {
        "BOS": {"Composer", "Key", "Tempo", "Program", "Left"},
        "Composer": {"Key", "Tempo", "Program", "Left"},
        "Key": {"Tempo", "Program", "Left"},
        "HeadTempo": {"Program", "Left"},
        "HeadProgram": {"Program", "Left"},
        "Left": {"Bar"},
        "Bar": {"TimeSig"},
        "TimeSig": {"Position", "Left", "Bar", "EOS"},
        "Position": {"Tempo", "Program", "Pitch"},
        "Tempo": {"Program", "Pitch", "Position", "Left", "Bar", "EOS"},
        "Program": {"Pitch"},
        "Pitch": {"Duration"},
        "Duration": {"Pitch", "Program", "Position", "Left", "Bar", "EOS"},
    }
    for name in names:
        kind, _, value = name.partition("_")
        assert kind in follows[previous], (previous, name)
        if kind == "Left":
            assert left is None or int(value) < left
            left = int(value)
        elif kind == "Bar":
            if previous != "Left":
                assert left >= 16
            bar_start, position, program = bar_start + bar_length * step, -1, None
        elif kind == "TimeSig":
            beats, unit = map(int, value.split("/"))
            bar_length, step = beats * 24, 384 // (24 * unit)
            metres.add(value)
        elif kind == "Position":
            assert position < int(value) < bar_length
            position = int(value)
        elif kind == "Program" and bar_length == 0:
            assert not header or int(value) > header[-1]
            header.append(int(value))
            kind = "HeadProgram"
        elif kind == "Tempo" and bar_length == 0:
            kind = "HeadTempo"
        elif kind == "Program":
            program = int(value)
            assert not header or program in header
        elif kind == "Pitch":
            assert program is not None
            onset = bar_start + position * step
            assert sounding.get((program, value), 0) <= onset, "a pitch is struck while it sounds"
            pitch = value
        elif kind == "Duration":
            beats, part, parts = map(int, value.split("."))
            sounding[program, pitch] = onset + (beats * 24 + part * 24 // parts) * step
        previous = kind
        if kind == "EOS":
            # Where the metre may change nobody knows the end before the last bar; decoding cuts what rings on.
            assert left == 1
            assert len(metres) > 1 or max(sounding.values()) <= bar_start + bar_length * step
            break


def without_unisons(score):
    """A copy in which no program strikes a pitch that it sounds, as the grammar has it."""
    out = score.copy()
    out.tracks = type(score.tracks)()
    for program in {track.program for track in score.tracks}:
        track, ends = symusic.Track("", program, False), {}
        notes = sorted((n for t in score.tracks if t.program == program for n in t.notes), key=lambda n: n.start)
        for note in notes:
            if ends.get(note.pitch, 0) <= note.start:
                ends[note.pitch] = note.end
                track.notes.append(note)
        out.tracks.append(track)
    return out


@pytest.mark.parametrize("told", [True, False])
def test_real_music_obeys_the_grammar(grammar, tokenizer, scores, told):
    """Whether the number of bars is told or the model is to find an end."""
    for score in scores.values():
        state = GrammarState()
        ids = tokenizer.encode_score(without_unisons(score))
        bars = len(g.bar_grid(score))
        for token in ids[1:]:
            assert grammar.allowed(state, bars if told else None)[token], tokenizer.token_names([token])
            state = grammar.advance(state, token)
        assert state.bars == bars and state.kind == END


def test_filling_a_gap_obeys_the_grammar(grammar, tokenizer, scores):
    score = without_unisons(scores["k155/movement3"])
    bars = tokenizer.merge_bars(tokenizer.base_ids(score))
    header = tokenizer.header_ids(controls_of(score))
    ids = infill_ids(tokenizer, bars, header, 5, 8)
    given = infill_ids(tokenizer, bars, header, 5, 8, filled=False)
    before = grammar.read(tokenizer.stream(bars, header, stop=5))
    state = dataclasses.replace(grammar.read(given), total=len(bars) - 5)
    assert (state.sounding, state.bar_end, state.bars) == (before.sounding, before.bar_end, 0)
    for token in ids[len(given) :]:
        assert grammar.allowed(state, 3)[token]
        state = grammar.advance(state, token)
    assert state.kind == END


@pytest.mark.parametrize("seed", range(8))
def test_every_walk_through_the_grammar_is_legal(grammar, tokenizer, seed):
    """Uniform draws from what is allowed, by far the wildest model, judged by the second form above."""
    rng = np.random.default_rng(seed)
    state, ids = GrammarState(), [tokenizer.bos_token_id]
    bars = None if seed % 2 else 6
    for _ in range(400):
        ids.append(int(rng.choice(np.flatnonzero(grammar.allowed(state, bars)))))
        state = grammar.advance(state, ids[-1])
        if ids[-1] == tokenizer.eos_token_id:
            break
    check_stream(tokenizer.token_names(ids)[1:])


def test_masks_forbid_what_they_should(grammar, tokenizer):
    """Each single base token after each kind of state, against the second form."""
    vocab = tokenizer.remi.vocab

    def kinds(names, bars=None):
        state = grammar.read([vocab[n] for n in names])
        return {n for n, i in vocab.items() if grammar.allowed(state, bars)[i]}

    opening = ["Left_1", "Bar_None", "TimeSig_3/4", "Position_24", "Program_40", "Pitch_60"]
    after = kinds(opening)
    # Two quarters are left of the last bar.
    assert {n.partition("_")[0] for n in after} == {"Duration"}
    assert "Duration_2.0.24" in after and "Duration_2.1.24" not in after
    after = kinds([*opening, "Duration_1.0.24"])
    assert {int(n[9:]) for n in after if n.startswith("Position_")} == set(range(25, 72))
    assert "EOS_None" in after and "PAD_None" not in after and "Pitch_60" not in after and "Pitch_61" in after
    # The pitch is free again once its note has ended; another program may take it up at once.
    assert "Pitch_60" not in kinds([*opening, "Duration_1.0.24", "Position_47", "Program_40"])
    assert "Pitch_60" in kinds([*opening, "Duration_1.0.24", "Position_47", "Program_41"])
    assert "Pitch_60" in kinds([*opening, "Duration_1.0.24", "Position_48", "Program_40"])
    # Bars left are counted: a bar that the budget asks for, then the next step.
    assert kinds([], 20) - {n for n in kinds([], 20) if n.startswith(("Composer", "Key", "Tempo", "Program"))} == {
        "Left_20"
    }
    note = ["Bar_None", "TimeSig_3/4", "Position_0", "Program_40", "Pitch_60", "Duration_1.0.24"]
    assert {n for n in kinds(["Left_20", *note], 20) if n.startswith(("Left", "Bar", "EOS"))} == {"Left_16"}
    assert {n for n in kinds(["Left_20", *note], 21) if n.startswith(("Left", "Bar", "EOS"))} == {"Bar_None"}
    # What the header names is all that plays.
    after = kinds(["Program_40", "Program_42", "Left_2", "Bar_None", "TimeSig_3/4", "Position_0"])
    assert {n for n in after if n.startswith("Program")} == {"Program_40", "Program_42"}


@pytest.mark.parametrize("bars", [1, 2, 16, 17, 20, 40, 300])
def test_bars_left_are_told_as_in_training(grammar, tokenizer, bars):
    """Given a budget, the grammar forces the very tokens that `stream` writes."""
    vocab = tokenizer.remi.vocab
    note = ["Bar_None", "TimeSig_3/4", "Position_0", "Program_40", "Pitch_60", "Duration_1.0.24"]
    bar = [vocab[name] for name in note]
    state = GrammarState()
    for token in [*tokenizer.stream([bar] * bars, bos=False, eos=False), tokenizer.eos_token_id]:
        allowed = np.flatnonzero(grammar.allowed(state, bars))
        if state.kind in (DURATION, LEFT):
            assert token in allowed
            assert not {vocab["Bar_None"], *grammar._left_ids.values(), tokenizer.eos_token_id} & {*allowed} - {token}
        state = grammar.advance(state, token)


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_untrained_models_write_music_of_exactly_the_bars_asked_for(
    tiny_model, tiny_lstm, tokenizer, kind, temperature
):
    model = {"gpt": tiny_model, "lstm": tiny_lstm}[kind]
    options = SamplingOptions(temperature=temperature, seed=5, max_tokens=700)
    for piece in compose(model, tokenizer, [None] * 3, bars=2, options=options):
        check_stream(tokenizer.token_names(piece.input_ids)[1:])
        if piece.ended:
            names = tokenizer.token_names(piece.input_ids)
            assert names.count("Bar_None") == 2 and names[-1] == "EOS_None"
        assert content_hash(parse_midi(piece.midi).score) == content_hash(piece.score)


def test_a_piece_longer_than_the_context_goes_on(tiny_model, tokenizer):
    """The model holds 128 tokens; the piece is longer and still one stream."""
    pieces = compose(tiny_model, tokenizer, bars=30, options=SamplingOptions(max_tokens=450, seed=2))
    assert len(pieces[0].input_ids) > 256
    check_stream(tokenizer.token_names(pieces[0].input_ids)[1:])


@pytest.mark.parametrize("prompt_bars", [1, 3])
def test_the_prompt_comes_back_note_for_note(tiny_lstm, tokenizer, scores, prompt_bars):
    prompt = scores["k80/movement3"]
    options = SamplingOptions(max_tokens=600, seed=1)
    for piece in compose(tiny_lstm, tokenizer, prompt, bars=2, prompt_bars=prompt_bars, options=options):
        given = g.note_array(g.slice_bars(prompt, 0, prompt_bars))
        kept = g.note_array(g.slice_bars(piece.score, 0, prompt_bars))
        columns = ["onset", "duration", "pitch", "program"]
        assert given[columns].tolist() == kept[columns].tolist() and piece.prompt_bars == prompt_bars
        check_stream(tokenizer.token_names(piece.input_ids)[1:])


def test_same_seed_same_music(tiny_model, tokenizer):
    def ids(seed):
        return compose(tiny_model, tokenizer, bars=2, options=SamplingOptions(seed=seed, max_tokens=120))[0].input_ids

    assert ids(1) == ids(1) != ids(2)


def test_only_the_programs_asked_for_play(tiny_lstm, tokenizer):
    options = SamplingOptions(max_tokens=400, seed=0, temperature=2.0)
    piece = compose(tiny_lstm, tokenizer, bars=3, wishes=Wishes(instruments=[40, 42]), options=options)[0]
    assert {track.program for track in piece.score.tracks} <= {40, 42}


@pytest.mark.parametrize("steady", [True, False])
def test_the_metre_stays_if_asked_to(tiny_lstm, tokenizer, steady):
    options = SamplingOptions(max_tokens=900, seed=3, temperature=2.0)
    piece = compose(tiny_lstm, tokenizer, bars=8, wishes=Wishes(steady_metre=steady), options=options)[0]
    metres = {n for n in tokenizer.token_names(piece.input_ids) if n.startswith("TimeSig")}
    assert (len(metres) == 1) == steady


def test_beams_follow_the_grammar(tiny_model, tokenizer, grammar):
    from transformers import LogitsProcessorList

    from musegen.processors import GrammarLogitsProcessor

    ids = torch.tensor([[tokenizer.bos_token_id]])
    processor = GrammarLogitsProcessor(grammar, [GrammarState()] * 3, [4] * 3, 1)
    out = tiny_model.generate(
        input_ids=ids, num_beams=3, max_new_tokens=40, logits_processor=LogitsProcessorList([processor])
    )
    check_stream(tokenizer.token_names(out[0].tolist())[1:])


def test_midi_of_a_generated_piece_is_what_was_generated(tiny_lstm, tokenizer):
    options = SamplingOptions(temperature=2.0, max_tokens=500, seed=9)
    piece = compose(tiny_lstm, tokenizer, bars=4, options=options)[0]
    again = parse_midi(midi_bytes(piece.score)).score
    assert np.array_equal(g.note_array(again), g.note_array(piece.score))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bars": 0}, "bars: from 1"),
        ({"bars": 10_000}, "bars: from 1 to 2000"),
        ({"prompt_bars": 0}, "prompt_bars: 1 or more"),
    ],
)
def test_bad_requests_say_what_is_allowed(tiny_model, tokenizer, settings, message):
    with pytest.raises(RequestError, match=message):
        compose(tiny_model, tokenizer, **settings)


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"max_tokens": 0}])
def test_bad_sampling_options(settings):
    with pytest.raises(RequestError, match=next(iter(settings))):
        SamplingOptions(**settings)


def test_token_budget_is_kept(tiny_model, tokenizer, grammar):
    pieces = sample(tiny_model, grammar, [[tokenizer.bos_token_id]] * 2, [50, 50], SamplingOptions(max_tokens=37))
    assert [len(piece) for piece in pieces] == [38, 38]


def test_walks_differ(grammar):
    """The check above is not of one and the same walk."""
    walks = []
    for seed in range(3):
        rng, state, ids = np.random.default_rng(seed), GrammarState(), []
        for _ in range(10):
            ids.append(int(rng.choice(np.flatnonzero(grammar.allowed(state)))))
            state = grammar.advance(state, ids[-1])
        walks.append(ids)
    assert all(a != b for a, b in itertools.combinations(walks, 2))


@pytest.mark.parametrize("keep", [{40}, {42}, {40, 42}])
def test_a_variation_keeps_the_notes_of_some_programs(tokenizer, scores, keep):
    """Uniform draws from what is allowed: the kept programs come back note for note, the others do not."""
    score = without_unisons(scores["k155/movement3"])
    score = g.slice_bars(score, 0, 6)
    grammar = KeepingGrammar(tokenizer, tokenizer.base_ids(score), keep, {40, 41, 42})
    rng = np.random.default_rng(0)
    ids = [tokenizer.bos_token_id, *tokenizer.header_ids(controls_of(score))]
    state = grammar.read(ids)
    while state.kind != END:
        ids.append(int(rng.choice(np.flatnonzero(grammar.allowed(state)))))
        state = grammar.advance(state, ids[-1])
        assert len(ids) < 5000
    check_stream(tokenizer.token_names(ids)[1:])
    before, after = (g.note_array(s) for s in (score, tokenizer.decode_score(ids)))
    columns = ["onset", "duration", "pitch", "program"]
    for program in (40, 41, 42):
        same = before[before["program"] == program][columns].tolist() == (
            after[after["program"] == program][columns].tolist()
        )
        assert same == (program in keep)
    assert len(g.bar_grid(tokenizer.decode_score(ids))) == 6


@pytest.mark.parametrize(("metre", "name"), [((3, 4), "3/4"), ((2, 2), "4/4"), ((6, 8), "6/8")])
@pytest.mark.parametrize("steady", [True, False])
def test_the_metre_can_be_told(tokenizer, metre, name, steady):
    grammar = Grammar(tokenizer, steady_metre=steady, metre=metre)
    state = grammar.read([tokenizer.left_id(2)])
    opening = np.flatnonzero(grammar.allowed(state, 2))
    first = [tokenizer.token_names([i]) for i in opening]
    assert all(names[1:2] in ([], [f"TimeSig_{name}"]) for names in first)
    state = grammar.advance(state, tokenizer.bar_id)
    names = [tokenizer.token_names([i])[0] for i in np.flatnonzero(grammar.allowed(state, 2))]
    assert set(names) == {f"TimeSig_{name}"}
    with pytest.raises(RequestError, match="1 to 12 over 4"):
        Grammar(tokenizer, metre=(13, 4))
