"""The grammar: whatever a model wants, what comes out is music, of the length asked for."""

import itertools

import numpy as np
import pytest
import torch

from musegen import grid as g
from musegen.decoding import Grammar, GrammarState, SamplingOptions, sample
from musegen.errors import RequestError
from musegen.models import build_model
from musegen.pipeline import compose
from musegen.scores import content_hash, midi_bytes, parse_midi


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
    bar_length, position, program, previous = 0, -1, None, "BOS"
    follows = {
        "BOS": {"Bar"},
        "Bar": {"TimeSig"},
        "TimeSig": {"Position", "Bar", "EOS"},
        "Position": {"Tempo", "Program", "Pitch"},
        "Tempo": {"Program", "Pitch", "Position", "Bar", "EOS"},
        "Program": {"Pitch"},
        "Pitch": {"Duration"},
        "Duration": {"Pitch", "Program", "Position", "Bar", "EOS"},
    }
    for name in names:
        kind, _, value = name.partition("_")
        assert kind in follows[previous], (previous, name)
        if kind == "Bar":
            position = -1
        elif kind == "TimeSig":
            bar_length = int(value.split("/")[0]) * 24
        elif kind == "Position":
            assert position < int(value) < bar_length
            position = int(value)
        elif kind == "Program":
            program = value
        elif kind == "Pitch":
            assert program is not None
        previous = kind
        if kind == "EOS":
            break


def test_real_music_obeys_the_grammar(grammar, tokenizer, scores):
    for score in scores.values():
        state = GrammarState()
        ids = tokenizer.encode_score(score)
        bars = len(g.bar_grid(score))
        for token in ids[1:]:
            assert grammar.allowed(state, bars)[token]
            state = grammar.advance(state, token)
        assert state.bars == bars


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
    state = grammar.read([vocab[n] for n in ("Bar_None", "TimeSig_3/4", "Position_24", "Program_40", "Pitch_60")])
    allowed = grammar.allowed(state)
    assert {n.partition("_")[0] for n, i in vocab.items() if allowed[i]} == {"Duration"}
    state = grammar.advance(state, vocab["Duration_1.0.24"])
    allowed = grammar.allowed(state)
    positions = {int(n[9:]) for n, i in vocab.items() if n.startswith("Position_") and allowed[i]}
    assert positions == set(range(25, 72))
    assert allowed[tokenizer.eos_token_id] and not allowed[tokenizer.pad_token_id]


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
    piece = compose(tiny_lstm, tokenizer, bars=3, programs=[40, 42], options=options)[0]
    assert {track.program for track in piece.score.tracks} <= {40, 42}


@pytest.mark.parametrize("steady", [True, False])
def test_the_metre_stays_if_asked_to(tiny_lstm, tokenizer, steady):
    options = SamplingOptions(max_tokens=900, seed=3, temperature=2.0)
    piece = compose(tiny_lstm, tokenizer, bars=8, steady_metre=steady, options=options)[0]
    metres = {n for n in tokenizer.token_names(piece.input_ids) if n.startswith("TimeSig")}
    assert (len(metres) == 1) == steady


def test_beams_follow_the_grammar(tiny_model, tokenizer, grammar):
    from transformers import LogitsProcessorList

    from musegen.decoding import GrammarLogitsProcessor

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
