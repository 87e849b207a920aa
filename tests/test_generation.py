"""The decoding loop against `generate()` and plain forward passes; rows that come, go, slide and are stopped."""

import copy
import dataclasses
import threading

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from musegen.controls import TASK, controls_of
from musegen.errors import RequestError
from musegen.generation import Generation, sample, sample_pieces, stream
from musegen.grammar import Grammar, GrammarState
from musegen.id_tables import BAR, CLOSED, LEFT
from musegen.inference import GenericStepper, Gpt2Stepper, Gpt2Weights, stepper_for
from musegen.inference.lstm import LstmStepper
from musegen.layout import StreamLayout
from musegen.models import build_model, load_causal_lm
from musegen.processors import DrawLogitsProcessor
from musegen.sampling import SamplingOptions

KINDS = ("gpt", "lstm", "bilstm")


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(tokenizer)


def build(name, tokenizer, **settings):
    torch.manual_seed(3)
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    model = build_model(name, vocab_size=len(tokenizer), **ids, **{"n_positions": 512, **settings}).eval()
    with torch.no_grad():  # as sure of itself as a trained model
        for parameter in model.parameters():
            parameter *= 2.0
    return model


@pytest.fixture(scope="module")
def models(tokenizer):
    small = {"hidden_size": 32, "embedding_size": 48}
    return {
        "gpt": build("gpt-tiny", tokenizer, n_layer=2, n_embd=48, n_head=3),
        "lstm": build("lstm-tiny", tokenizer, num_layers=2, **small),
        "bilstm": build("bilstm-study", tokenizer, **small, window=20),
    }


@pytest.fixture(scope="module")
def prompts(tokenizer, scores):
    """Openings of other lengths: BOS alone, and some bars of real music, each ending at a bar line."""
    from musegen import grid as g

    k80 = scores["k80/movement3"]
    opened = []
    for count in (1, 3):
        opening = g.slice_bars(k80, 0, count)
        bars = tokenizer.merge_bars(tokenizer.base_ids(opening))
        opened.append(tokenizer.stream(bars, tokenizer.header_ids(controls_of(opening)), total=30, eos=False))
    return [[tokenizer.bos_token_id], *opened]


def by_generate(model, grammar, prompts, bars, options, new):
    """The same request by `model.generate`, rows padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[grammar.pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    states = [grammar.read(p) for p in prompts]
    states = [dataclasses.replace(s, kind=CLOSED) if s.bars else s for s in states]
    processor = DrawLogitsProcessor(grammar, states, bars, longest, options)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new,
        do_sample=False,
        logits_processor=LogitsProcessorList([processor]),
        pad_token_id=grammar.pad,
        eos_token_id=grammar.eos,
    )
    pieces = []
    for prompt, row in zip(prompts, out[:, longest:].tolist()):
        end = row.index(grammar.eos) + 1 if grammar.eos in row else len(row)
        pieces.append(prompt + row[:end])
    return pieces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 1.3, "top_p": 1.0},
        {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "min_p": 0.01},
        {"temperature": 0.6, "repetition": 2.0},
    ],
)
def test_the_loop_writes_what_generate_writes(models, grammar, prompts, kind, settings):
    new = 60 if kind == "bilstm" else 120
    options = SamplingOptions(seed=11, max_tokens=new, **settings)
    bars = [None, 3, 8]
    own = sample(models[kind], grammar, prompts, bars, options)
    assert own == by_generate(models[kind], grammar, prompts, bars, options, new)
    assert all(len(piece) > len(prompt) + 5 for piece, prompt in zip(own, prompts))


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_a_piece_is_the_same_whatever_else_is_in_the_batch(models, grammar, prompts, kind):
    options = SamplingOptions(temperature=1.2, seed=4, max_tokens=400)
    many = [prompts[i % 3] for i in range(7)]
    together = sample(models[kind], grammar, many, [None] * 7, options)
    for i in (0, 2, 5):
        alone = sample(models[kind], grammar, [many[i]], [None], options, keys=[(4, i)])
        assert alone == [together[i]]
    crowded = sample(models[kind], grammar, many, [None] * 7, options, rows=2)
    assert crowded == together
    assert len(set(map(tuple, together))) == 7


def test_rounding_cannot_change_a_piece(models, grammar, tokenizer, monkeypatch):
    """Logits shaken by what rounding can do, differently each time, and the pieces stay the same."""
    step, shaken = Gpt2Stepper.step, [0]

    def shake(self, tokens):
        logits = step(self, tokens)
        return logits + 1e-5 * torch.rand(logits.shape, generator=noise)

    doubts = Gpt2Stepper.reference

    def count(self, ids):
        shaken[0] += 1
        return doubts(self, ids)

    monkeypatch.setattr(Gpt2Stepper, "step", shake)
    monkeypatch.setattr(Gpt2Stepper, "reference", count)
    monkeypatch.setattr("musegen.sampling.TOLERANCE", 3e-4)  # so that it happens in a short test
    pieces = []
    for seed in (0, 1):
        noise = torch.Generator().manual_seed(seed)
        options = SamplingOptions(top_p=0.9, top_k=200, seed=2, max_tokens=300)
        pieces.append(sample(models["gpt"], grammar, [[tokenizer.bos_token_id]] * 4, [None] * 4, options))
    assert pieces[0] == pieces[1] and shaken[0] > 2


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_log_probabilities_are_those_of_a_plain_forward_pass(models, grammar, prompts, kind):
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=1, max_tokens=80)
    for piece in sample_pieces(models[kind], grammar, prompts, [None, 3, 9], options):
        with torch.inference_mode():
            logits = models[kind](input_ids=torch.tensor([piece.ids])).logits[0, piece.prompt_length - 1 : -1]
        new = piece.ids[piece.prompt_length :]
        expected = logits.log_softmax(-1)[range(len(new)), new]
        np.testing.assert_allclose(piece.log_probs, expected, atol=1e-4)
        assert all(legal >= whole - 1e-5 for legal, whole in zip(piece.legal_log_probs, piece.log_probs))
        if piece.prompt_length == 1:  # the first id after BOS: of all that may begin a bar
            allowed = torch.from_numpy(grammar.allowed(GrammarState()))
            legal = logits[0].masked_fill(~allowed, -torch.inf).log_softmax(-1)[new[0]]
            np.testing.assert_allclose(piece.legal_log_probs[0], legal, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_a_whole_pass(models, kind):
    """Rows of other lengths, a row that moves, and one that starts anew."""
    model, random = models[kind], np.random.default_rng(0)
    stepper = stepper_for(model, 3)
    assert type(stepper) is {"gpt": Gpt2Stepper, "lstm": LstmStepper, "bilstm": GenericStepper}[kind]
    rows = [random.integers(4, 900, length).tolist() for length in (9, 4, 17)]

    def check(logits, rows):
        for row, found in zip(rows, logits):
            expected = model(input_ids=torch.tensor([row])).logits[0, -1]
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(stepper.reference(row), expected, atol=2e-4, rtol=1e-4)

    with torch.inference_mode():
        check([stepper.start(i, row) for i, row in enumerate(rows)], rows)
        for turn in range(6):
            tokens = random.integers(4, 900, len(rows)).tolist()
            rows = [[*row, token] for row, token in zip(rows, tokens)]
            check(stepper.step(tokens), rows)
            if turn == 2:
                stepper.move(2, 0)
                rows = [rows[2], rows[1]]
            if turn == 4:
                rows[1] = rows[1][:3]
                stepper.start(1, rows[1])


def test_half_precision_weights_are_read_in_full(models, tokenizer, grammar):
    for kind in ("gpt", "lstm"):
        half = copy.deepcopy(models[kind]).to(torch.bfloat16)
        options = SamplingOptions(seed=0, max_tokens=60)
        prompt = [[tokenizer.bos_token_id]]
        assert sample(half, grammar, prompt, [None], options) == sample(
            copy.deepcopy(half).float(), grammar, prompt, [None], options
        )


def test_bfloat16_steps_are_close(models, grammar):
    exact, wide = stepper_for(models["gpt"], 2), stepper_for(models["gpt"], 2, torch.bfloat16)
    with torch.inference_mode():
        for stepper in (exact, wide):
            stepper.start(0, [1, 9, 8]), stepper.start(1, [1, 7])
        a, b = exact.step([5, 6]), wide.step([5, 6])
    assert b.dtype == torch.float32 and 0 < (a - b).abs().max() < 0.1 * a.abs().max()


def test_ten_contexts_long_in_the_memory_of_one(tokenizer, grammar, monkeypatch):
    """Windows begin with the header and a bar line, and hold half a context; memory is laid out once."""
    model = build("gpt-tiny", tokenizer, n_layer=1, n_embd=16, n_head=2, n_positions=96)
    starts, blocks = [], set()
    start = Gpt2Stepper.start

    def watch(self, row, ids):
        starts.append(list(ids))
        blocks.update((layer.keys.data_ptr(), layer.values.data_ptr()) for layer in self.layers)
        return start(self, row, ids)

    monkeypatch.setattr(Gpt2Stepper, "start", watch)
    options = SamplingOptions(temperature=1.5, seed=0, max_tokens=960)
    layout = StreamLayout(tokenizer)
    pieces = sample(model, grammar, [[tokenizer.bos_token_id]] * 2, [500] * 2, options, layout=layout)
    assert [len(p) for p in pieces] == [961, 961] and len(blocks) == 1
    windows = [w for w in starts if len(w) > 1]
    assert len(windows) > 2 * 10
    header = layout.header(pieces[0])
    for window in windows:
        assert len(window) <= 48 + 24 and window[0] == tokenizer.continued_id
        assert window[1 : 1 + len(header)] in (header, layout.header(pieces[1]))
    alone = sample(model, grammar, [[tokenizer.bos_token_id]], [500], options, keys=[(0, 1)], layout=layout)
    assert alone == pieces[1:]


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_streamed_bars_are_the_piece(models, grammar, prompts, kind):
    options = SamplingOptions(temperature=0.9, seed=2, max_tokens=900)
    prompts, budgets = prompts[1:], [5, 4]
    whole = sample(models[kind], grammar, prompts, budgets, options)
    built, numbers = [list(p) for p in prompts], [[], []]
    for bar in stream(Generation(models[kind], grammar, prompts, budgets, options)):
        assert bar.start == len(built[bar.piece])
        assert grammar.read(bar.ids).bars == 1 and grammar.first[bar.ids[0]] in (LEFT, BAR)
        built[bar.piece] += [*bar.ids, grammar.eos] if bar.ended else bar.ids
        numbers[bar.piece].append(bar.number)
    for piece, streamed in zip(whole, built):
        assert streamed == (piece if piece[-1] == grammar.eos else piece[: len(streamed)])
    assert numbers[0][:2] == [1, 2] and numbers[1] == [3]


def test_streams_stop_at_once(models, grammar, tokenizer):
    bos = [[tokenizer.bos_token_id]]
    options = SamplingOptions(seed=1)
    bars = stream(Generation(models["gpt"], grammar, bos, [50], options))
    first = next(bars)
    bars.close()
    assert first.number == 0 and not first.ended
    stop = threading.Event()
    work = Generation(models["gpt"], grammar, bos, [50], options)
    seen = []
    for bar in stream(work, stop=stop):
        seen.append(bar)
        if len(seen) == 2:
            stop.set()
    assert len(seen) == 2 and seen[0].ids == first.ids
    piece = work.pieces[0].ids
    header = piece[: seen[0].start]
    assert grammar.read(header).bars == 0
    assert piece == header + seen[0].ids + seen[1].ids + piece[-1:]


def test_requests_that_do_not_fit(models, grammar):
    with pytest.raises(RequestError, match="one each"):
        sample(models["gpt"], grammar, [[1], [1]], [2])
    with pytest.raises(RequestError, match="empty prompt"):
        sample(models["gpt"], grammar, [[]], [2])


def test_weights_read_alone_write_what_the_model_writes(models, grammar, tokenizer, tmp_path):
    models["gpt"].save_pretrained(tmp_path)
    options = SamplingOptions(seed=6, max_tokens=80)
    prompt = [[tokenizer.bos_token_id]]
    alone = Gpt2Weights.read(tmp_path)
    assert sample(alone, grammar, prompt, [None], options) == sample(models["gpt"], grammar, prompt, [None], options)


def test_what_is_left_open_is_the_models_own_then_the_packages(models, grammar, tokenizer, tmp_path):
    """As in `generate()`, `generation_config.json` says how a model is sampled, and a person may say otherwise."""
    model = copy.deepcopy(models["gpt"])
    model.generation_config.update(do_sample=True, temperature=0.4, top_k=5)
    model.save_pretrained(tmp_path)
    prompt = [[tokenizer.bos_token_id]]

    def written(model, **settings):
        return sample(model, grammar, prompt, [None], SamplingOptions(seed=6, max_tokens=80, **settings))

    told = written(models["gpt"], temperature=0.4, top_k=5, top_p=0.97, min_p=0.0)
    for own in (model, Gpt2Weights.read(tmp_path)):
        assert written(own) == told
        assert written(own, temperature=1.0, top_k=0) == written(models["gpt"]) != told
    # transformers drops what it does not know from generation_config.json, so that `repetition` is told elsewhere.
    model.config.task_specific_params = {TASK: {"repetition": 3.0}}
    model.save_pretrained(tmp_path)
    for own in (model, Gpt2Weights.read(tmp_path), load_causal_lm(tmp_path)):
        assert SamplingOptions().filled(own).repetition == 3.0
        assert SamplingOptions(repetition=0.0).filled(own).repetition == 0.0
    assert SamplingOptions().filled(models["gpt"]).repetition == 0.0
    model.generation_config.temperature = 7.0
    with pytest.raises(RequestError, match="temperature: between 0 and 5"):
        written(model)


@pytest.mark.parametrize("damage", ["weight", "activation", "config", "kind"])
def test_weights_that_are_not_plain_are_left_to_the_full_loader(models, tmp_path, damage):
    import json

    from safetensors.torch import load_file, save_file

    models["gpt"].save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    settings = json.loads(config.read_text())
    if damage == "weight":
        save_file(dict(list(load_file(weights).items())[:-1]), weights)
    elif damage == "config":
        config.write_text("{")
    else:
        config.write_text(json.dumps(settings | {"activation": {"activation_function": "relu"},
                                                 "kind": {"model_type": "llama"}}[damage]))  # fmt: skip
    assert Gpt2Weights.read(tmp_path) is None
