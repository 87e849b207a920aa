"""The forward LSTM language model, against an LSTM written out by hand and against brute force."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from musegen.models import MusicLstmConfig, MusicLstmForCausalLM

PROMPT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
GREEDY = {"do_sample": False, "pad_token_id": 0}


def make(seed=0, **settings) -> MusicLstmForCausalLM:
    torch.manual_seed(seed)
    settings = {"vocab_size": 11, "hidden_size": 8, "num_layers": 2, "initializer_range": 0.5, **settings}
    return MusicLstmForCausalLM(MusicLstmConfig(**settings)).eval()


def lively(seed=0, **settings) -> MusicLstmForCausalLM:
    """A model that does not just repeat its last token, as a fresh one with tied embeddings does."""
    return make(seed, tie_word_embeddings=False, initializer_range=2.0, **settings)


def by_hand(model: MusicLstmForCausalLM, ids: list[int]) -> torch.Tensor:
    """Logits (time, vocab) of one sequence, from the equations of the LSTM alone."""
    weights, config = model.state_dict(), model.config

    def norm(values, name):
        if not config.layer_norm:
            return values
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(values, values.shape, weight, bias)

    steps = [norm(weights["model.embed_tokens.weight"][i], "model.embedding_norm") for i in ids]
    for layer in range(config.num_layers):
        name = f"model.layers.{layer}"
        w_ih, w_hh, b_ih, b_hh = (
            weights[f"{name}.lstm.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = cell = torch.zeros(config.hidden_size)
        outputs = []
        for step in steps:
            i, f, g, o = (w_ih @ step + b_ih + w_hh @ hidden + b_hh).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            outputs.append(norm(hidden, f"{name}.norm"))
        steps = outputs
    stacked = torch.stack(steps)
    if "projection.weight" in weights:
        stacked = stacked @ weights["projection.weight"].T + weights["projection.bias"]
    return stacked @ weights["lm_head.weight"].T + weights["lm_head.bias"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm": False},
        {"embedding_size": 5},
        {"tie_word_embeddings": False, "embedding_size": 5},
        {"num_layers": 1},
    ],
)
@torch.no_grad()
def test_logits_are_those_of_an_lstm_by_hand(settings):
    model = make(**settings)
    expected = torch.stack([by_hand(model, row.tolist()) for row in PROMPT])
    torch.testing.assert_close(model(PROMPT).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_reading_in_pieces_is_reading_at_once():
    model = make()
    ids = torch.randint(11, (3, 9))
    cache, pieces = None, []
    for piece in ids.split([1, 1, 4, 1, 2], dim=1):
        outputs = model(piece, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 9


@torch.no_grad()
def test_greedy_generation_is_the_argmax_loop():
    model = lively()
    expected = PROMPT
    for _ in range(12):
        expected = torch.cat([expected, model(expected, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert len(set(expected[0, 5:].tolist())) > 1
    for use_cache in (True, False):
        assert torch.equal(model.generate(PROMPT, max_new_tokens=12, use_cache=use_cache, **GREEDY), expected)


def test_generation_reads_one_token_a_step():
    model, read = lively(), []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: read.append(output.shape[1]))
    model.generate(PROMPT, max_new_tokens=20, **GREEDY)
    assert read == [5] + [1] * 19
    read.clear()
    model.generate(PROMPT, max_new_tokens=20, num_beams=3, **GREEDY)
    assert read == [5] + [1] * 19


@torch.no_grad()
def test_wide_beam_search_finds_the_best_of_all_sequences():
    model = lively(vocab_size=4, seed=26)
    prompt = torch.tensor([[1, 2]])
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    whole = torch.cat([prompt.expand(len(every), 2), every], dim=1)
    log_probs = model(whole).logits.log_softmax(-1)[:, 1:-1]
    scores = log_probs.gather(2, every[:, :, None])[:, :, 0].sum(1)
    found = model.generate(
        prompt, max_new_tokens=4, num_beams=64, num_return_sequences=3, output_scores=True,
        return_dict_in_generate=True, **GREEDY,
    )  # fmt: skip
    best = scores.topk(3)
    assert torch.equal(found.sequences, whole[best.indices])
    torch.testing.assert_close(found.sequences_scores, best.values / 4, atol=1e-5, rtol=0)
    assert not torch.equal(model.generate(prompt, max_new_tokens=4, **GREEDY), found.sequences[:1])


def test_beams_with_a_cache_are_those_without():
    model = lively(seed=5)
    kept = {"max_new_tokens": 15, "num_beams": 4, "num_return_sequences": 4, **GREEDY}
    beams = model.generate(PROMPT, **kept)
    assert torch.equal(beams, model.generate(PROMPT, use_cache=False, **kept))
    assert len({tuple(row) for row in beams.tolist()}) == 8


@pytest.mark.parametrize("pad", [0, 7])
@torch.no_grad()
def test_padding_on_the_left_changes_nothing(pad):
    model = lively()
    rows = [[5, 6, 7], [3, 1, 4, 1, 5, 9], [2]]
    padded = torch.tensor([[pad] * (6 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (6 - len(row)) + [1] * len(row) for row in rows])
    dense = model(padded, attention_mask=mask, use_cache=False).logits
    packed = model(padded, attention_mask=mask, use_cache=True).logits
    together = model.generate(padded, attention_mask=mask, max_new_tokens=10, **GREEDY)
    for index, row in enumerate(rows):
        alone = torch.tensor([row])
        for logits in (dense, packed):
            torch.testing.assert_close(logits[index, -len(row) :], model(alone).logits[0], atol=1e-5, rtol=0)
        expected = model.generate(alone, max_new_tokens=10, **GREEDY)[0, len(row) :]
        assert torch.equal(together[index, 6:], expected)


@torch.no_grad()
def test_padding_on_the_right_or_alone_leaves_the_state():
    model = make()
    rows = torch.tensor([[5, 6, 0, 0], [0, 5, 0, 6], [0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
    cache = model(rows, attention_mask=mask, use_cache=True).past_key_values
    after = model(torch.tensor([[7]] * 3), past_key_values=cache).logits
    torch.testing.assert_close(after[:2], model(torch.tensor([[5, 6, 7]] * 2)).logits[:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[2:], model(torch.tensor([[7]])).logits, atol=1e-5, rtol=0)
    # The same through a step of one token, with one row skipped.
    cache = model(torch.tensor([[5], [5]]), use_cache=True).past_key_values
    model(torch.tensor([[6], [6]]), attention_mask=torch.tensor([[1, 1], [1, 0]]), past_key_values=cache)
    after = model(torch.tensor([[7], [7]]), past_key_values=cache).logits
    torch.testing.assert_close(after[0], model(torch.tensor([[5, 6, 7]])).logits[0, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[1], model(torch.tensor([[5, 7]])).logits[0, 1:], atol=1e-5, rtol=0)


def test_sampling_follows_the_distribution_and_the_seed():
    model = make(vocab_size=4)
    arguments = {"do_sample": True, "top_k": 0, "num_return_sequences": 2000, "pad_token_id": 0}
    torch.manual_seed(1)
    first = model.generate(PROMPT[:, 1:2] % 4, max_new_tokens=2, **arguments)
    torch.manual_seed(1)
    assert torch.equal(first, model.generate(PROMPT[:, 1:2] % 4, max_new_tokens=2, **arguments))
    assert first.shape == (4000, 3)
    for row in range(2):
        samples = first[2000 * row : 2000 * (row + 1)]
        expected = model(samples[:1, :1]).logits[0, 0].softmax(-1)
        drawn = torch.bincount(samples[:, 1], minlength=4) / 2000
        # Four standard errors of a proportion.
        assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / 2000)


def test_generation_goes_on_from_a_cache():
    model = lively()
    whole = model.generate(PROMPT, max_new_tokens=12, **GREEDY)
    half = model.generate(PROMPT, max_new_tokens=6, return_dict_in_generate=True, **GREEDY)
    snapshot = copy.deepcopy(half.past_key_values)
    for cache in (half.past_key_values, snapshot):
        rest = model.generate(half.sequences, past_key_values=cache, max_new_tokens=6, **GREEDY)
        assert torch.equal(rest, whole)


@torch.no_grad()
def test_cache_operations():
    model = make()
    cache = model(PROMPT, use_cache=True).past_key_values
    step = torch.tensor([[7], [8]])
    expected = model(step, past_key_values=copy.deepcopy(cache)).logits
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([5, 0]))
    swapped = model(step.flip(0), past_key_values=cache).logits
    torch.testing.assert_close(swapped.flip(0), expected, atol=1e-5, rtol=0)
    cache.crop(0)
    with pytest.raises(ValueError, match="cannot unread"):
        cache.crop(-1)
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(model(step, past_key_values=cache).logits, model(step).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_embeddings_instead_of_ids():
    model = make()
    embeds = model.get_input_embeddings()(PROMPT)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(PROMPT).logits)
    generated = model.generate(inputs_embeds=embeds, max_new_tokens=6, **GREEDY)
    assert torch.equal(generated, model.generate(PROMPT, max_new_tokens=6, **GREEDY)[:, 5:])


def test_wrong_inputs_are_refused():
    model = make()
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model.model()
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(PROMPT, inputs_embeds=torch.zeros(2, 5, 8))
    with pytest.raises(TypeError, match="MusicLstmCache"):
        model(PROMPT, past_key_values=DynamicCache())
    for shape in ((2, 4), (2, 1, 5, 5)):
        with pytest.raises(ValueError, match="attention_mask"):
            model(PROMPT, attention_mask=torch.ones(shape))


def test_logits_to_keep():
    model = make()
    logits = model(PROMPT).logits
    torch.testing.assert_close(model(PROMPT, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(PROMPT, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])


def test_no_prediction_depends_on_a_later_token():
    model = make()
    embeds = model.get_input_embeddings()(PROMPT).detach().requires_grad_()
    for time in range(5):
        (gradient,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[:, time].square().sum(), embeds)
        assert torch.all(gradient[:, time + 1 :] == 0)
        assert torch.all(gradient[:, : time + 1].abs().sum(-1) > 0)
        changed = PROMPT.clone()
        changed[:, time + 1 :] = (changed[:, time + 1 :] + 1) % 11
        assert torch.equal(model(changed).logits[:, : time + 1], model(PROMPT).logits[:, : time + 1])
