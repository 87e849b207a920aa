"""Likelihood: against a plain loop, and in units that no tokenizer changes."""

import math

import numpy as np
import torch

from musegen.likelihood import Likelihood, piece_likelihood, score_pieces


def by_hand(model, ids, context):
    """Each token from as many before it as the windows of `piece_likelihood` show, one forward pass a token."""
    nats, scored, start, step = 0.0, 1, 0, context // 2
    for position in range(1, len(ids)):
        if position >= start + context:
            start += step
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids[start:position]]), use_cache=False).logits[0, -1]
        nats -= float(torch.log_softmax(logits.double(), -1)[ids[position]])
        scored += 1
    return nats


def test_equals_one_token_at_a_time(tiny_model, tokenizer):
    ids = np.random.default_rng(0).integers(0, len(tokenizer), 90).tolist()
    for context in (32, 200):
        found = piece_likelihood(tiny_model, ids, 10, context=context)
        assert found.tokens == 89
        assert math.isclose(found.nats, by_hand(tiny_model, ids, context), rel_tol=1e-5)


def test_window_is_the_model_s_own_when_none_is_given(tiny_model, tokenizer):
    ids = np.random.default_rng(0).integers(0, len(tokenizer), 300).tolist()  # the model holds 128
    assert piece_likelihood(tiny_model, ids, 1).nats == piece_likelihood(tiny_model, ids, 1, context=128).nats


def test_uniform_model_costs_the_log_of_the_vocabulary():
    class Uniform(torch.nn.Module):
        config = type("Config", (), {})()
        device = torch.device("cpu")

        def forward(self, input_ids, use_cache):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 32)})()

    total = score_pieces(Uniform(), [([1] * 11, 5), ([2] * 21, 5)])
    assert math.isclose(total.bits_per_note, 30 * 5 / 10, rel_tol=1e-6) and total.tokens == 30
    assert math.isclose(total.nats_per_token, math.log(32), rel_tol=1e-6)


def test_sums():
    total = Likelihood(math.log(2), 1, 1) + Likelihood(3 * math.log(2), 3, 1)
    assert math.isclose(total.bits_per_note, 2.0) and math.isclose(total.nats_per_token, math.log(2))


def test_training_mode_is_put_back(tiny_model, tokenizer):
    tiny_model.train()
    score_pieces(tiny_model, [([1, 5, 6], 1)])
    assert tiny_model.training
    tiny_model.eval()
