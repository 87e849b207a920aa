"""The bidirectional LSTM over windows of the past: what it computes, and that no prediction sees its target."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from musegen.models import MusicLstmConfig, MusicLstmForCausalLM, modeling_music_lstm

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [9, 2, 6, 5, 3, 5, 8]])
GREEDY = {"do_sample": False, "pad_token_id": 0}
VOCAB = 6


def make(seed=0, **settings) -> MusicLstmForCausalLM:
    torch.manual_seed(seed)
    defaults = {
        "vocab_size": 11,
        "hidden_size": 8,
        "num_layers": 2,
        "bidirectional": True,
        "window": 4,
        "tie_word_embeddings": False,
        "initializer_range": 1.0,
    }
    return MusicLstmForCausalLM(MusicLstmConfig(**{**defaults, **settings})).eval()


@torch.no_grad()
def one_window(model: MusicLstmForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits (vocab,) after one window (time,), by PyTorch's own bidirectional LSTM."""
    hidden = model.model.embedding_norm(model.model.embed_tokens(ids))  # (time, embedding)
    size = model.config.hidden_size
    for layer in model.model.layers:
        both = nn.LSTM(hidden.shape[1], size, bidirectional=True)
        reverse = {f"{name}_reverse": weight for name, weight in layer.reverse_lstm.state_dict().items()}
        both.load_state_dict({**layer.lstm.state_dict(), **reverse})
        outputs, _ = both(hidden)  # (time, 2 * hidden)
        hidden = layer.norm(outputs)
    ends = torch.cat([outputs[-1, :size], outputs[0, size:]])  # (2 * hidden,)
    return model.lm_head(model.projection(layer.norm(ends)))


@pytest.mark.parametrize("window", [1, 3, 7, 50])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 1, "tie_word_embeddings": True, "layer_norm": False}])
def test_each_position_reads_its_own_window(window, settings):
    model = make(window=window, **settings)
    logits = model(PROMPT).logits
    for row, ids in enumerate(PROMPT):
        for time in range(7):
            expected = one_window(model, ids[max(0, time - window + 1) : time + 1])
            torch.testing.assert_close(logits[row, time], expected, atol=1e-5, rtol=0)


def test_memory_is_bounded_without_changing_the_result(monkeypatch):
    model = make(dropout=0.0).train()
    whole = model(PROMPT, labels=PROMPT)
    whole.loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(modeling_music_lstm, "WINDOWS_AT_ONCE", 3)
    rows = []
    model.model.layers[0].lstm.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    chunked = model(PROMPT, labels=PROMPT)
    assert rows == [3, 3, 3, 3, 2]
    chunked.loss.backward()
    torch.testing.assert_close(chunked.logits, whole.logits, atol=1e-5, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=0)


def test_no_prediction_depends_on_a_later_token_or_one_before_its_window():
    model = make()
    embeds = model.get_input_embeddings()(PROMPT).detach().requires_grad_()
    for time in range(7):
        (gradient,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[:, time].square().sum(), embeds)
        used = gradient.abs().sum(-1) > 0
        assert used.tolist() == [[max(0, time - 3) <= other <= time for other in range(7)]] * 2
        changed = PROMPT.clone()
        changed[:, time + 1 :] = (changed[:, time + 1 :] + 1) % 11
        assert torch.equal(model(changed).logits[:, : time + 1], model(PROMPT).logits[:, : time + 1])


class LeakyBiLstm(nn.Module):
    """What the bidirectional model must not be: one bidirectional pass over the block."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, VOCAB)

    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0])  # (batch, time, vocab)


def loss_on_unseen_noise(model: nn.Module, logits_of) -> float:
    """Nats a token on fresh uniform random tokens after training on others: below log(VOCAB) only by a leak."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(101):
        ids = torch.randint(VOCAB, (512 if step == 100 else 16, 8), generator=generator)
        logits = logits_of(model, ids)[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("settings", [{"bidirectional": False}, {}, {"window": 8}])
def test_noise_cannot_be_predicted(settings):
    model = make(vocab_size=VOCAB, hidden_size=16, num_layers=1, dropout=0.0, **settings).train()
    # Chance alone moves the loss of 3,584 targets by about .01 either way.
    assert loss_on_unseen_noise(model, lambda model, ids: model(ids).logits) > math.log(VOCAB) - 0.02


def test_a_leak_would_be_seen():
    torch.manual_seed(0)
    leaky = LeakyBiLstm()
    assert loss_on_unseen_noise(leaky, lambda model, ids: model(ids)) < math.log(VOCAB) / 2
    ids = torch.randint(VOCAB, (1, 8))
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    assert not torch.equal(leaky(ids)[:, :5], leaky(changed)[:, :5])


@torch.no_grad()
def test_reading_in_pieces_is_reading_at_once():
    model = make()
    cache, pieces = None, []
    for piece in PROMPT.split([1, 1, 3, 2], dim=1):
        outputs = model(piece, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(PROMPT).logits, atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 7
    # The state is the window that the next token will join, however long the past.
    assert cache.layers[0].keys.shape == (2, 3, 8)


@pytest.mark.parametrize("window", [1, 4, 30])
@torch.no_grad()
def test_generation(window):
    model = make(seed=7, window=window)
    expected = PROMPT
    for _ in range(12):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert len(set(expected[0, 7:].tolist())) > 1
    for use_cache in (True, False):
        assert torch.equal(model.generate(PROMPT, max_new_tokens=12, use_cache=use_cache, **GREEDY), expected)
    beams = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 3, **GREEDY}
    assert torch.equal(model.generate(PROMPT, **beams), model.generate(PROMPT, use_cache=False, **beams))
    assert model.generate(PROMPT, max_new_tokens=3, do_sample=True, num_return_sequences=2).shape == (4, 10)


def test_generation_reads_one_window_a_step():
    model, windows = make(), []
    model.model.layers[0].lstm.register_forward_hook(lambda module, args, output: windows.append(args[0].shape[:2]))
    model.generate(PROMPT, max_new_tokens=10, **GREEDY)
    assert windows == [(2, 4)] * 10


@torch.no_grad()
def test_padding_changes_nothing():
    model = make()
    rows = [[5, 6, 7], [3, 1, 4, 1, 5, 9, 2, 6], [2]]
    for side in ("left", "right"):
        padded, mask = torch.full((3, 8), 7), torch.zeros(3, 8, dtype=torch.long)
        for index, row in enumerate(rows):
            place = slice(8 - len(row), None) if side == "left" else slice(len(row))
            padded[index, place], mask[index, place] = torch.tensor(row), 1
        outputs = model(padded, attention_mask=mask, use_cache=True)
        after = model(torch.full((3, 1), 10), past_key_values=outputs.past_key_values).logits
        for index, row in enumerate(rows):
            alone = model(torch.tensor([[*row, 10]])).logits[0]
            logits = outputs.logits[index][mask[index].bool()]
            torch.testing.assert_close(logits, alone[:-1], atol=1e-5, rtol=0)
            torch.testing.assert_close(after[index], alone[-1:], atol=1e-5, rtol=0)
        if side == "left":
            together = model.generate(padded, attention_mask=mask, max_new_tokens=8, **GREEDY)
            for index, row in enumerate(rows):
                expected = model.generate(torch.tensor([row]), max_new_tokens=8, **GREEDY)[0, len(row) :]
                assert torch.equal(together[index, 8:], expected)


@torch.no_grad()
def test_a_row_of_padding_alone_is_harmless():
    model = make()
    outputs = model(torch.zeros(1, 3, dtype=torch.long), attention_mask=torch.zeros(1, 3), use_cache=True)
    assert outputs.logits.isfinite().all()
    after = model(PROMPT[:1, :1], past_key_values=outputs.past_key_values).logits
    torch.testing.assert_close(after, model(PROMPT[:1, :1]).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_items_in_batch", [None, 40])
@torch.no_grad()
def test_training_on_some_positions_estimates_the_loss_without_bias(num_items_in_batch, monkeypatch):
    model = make(dropout=0.0, train_positions=1)
    labels = PROMPT.clone()
    labels[0, 4:] = -100
    labels[:, 2] = -100
    whole = model(PROMPT, labels=labels, num_items_in_batch=num_items_in_batch).loss
    model.train()
    losses = []
    # Of the six positions with a next token, position 1 has no target in any row.
    for drawn in range(5):
        monkeypatch.setattr(torch, "randperm", lambda n, first=drawn: torch.arange(n).roll(-first))
        outputs = model(PROMPT, labels=labels, num_items_in_batch=num_items_in_batch)
        assert outputs.logits.shape == (2, 1, 11)
        losses.append(outputs.loss)
    assert len({round(loss.item(), 4) for loss in losses}) == 5
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    model.config.train_positions = 100
    torch.testing.assert_close(model(PROMPT, labels=labels, num_items_in_batch=num_items_in_batch).loss, whole)


def test_a_batch_without_targets_has_no_loss_where_the_step_has_some():
    model = make(train_positions=2).train()
    labels = torch.full_like(PROMPT, -100)
    assert model(PROMPT, labels=labels, num_items_in_batch=torch.tensor(8)).loss.item() == 0


def test_learns_with_every_regulariser():
    model = make(
        vocab_size=5, train_positions=8, dropout=0.1, recurrent_dropout=0.1, locked_dropout=True,
        tie_word_embeddings=True, embedding_size=12, initializer_range=0.1,
    ).train()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ids = torch.arange(24).remainder(5).repeat(4, 1)
    for _ in range(60):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert model.eval()(ids, labels=ids).loss.item() < 0.3


def test_saving_loading_and_half_precision(tmp_path):
    model = make(train_positions=5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert torch.equal(loaded(PROMPT).logits, model(PROMPT).logits)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    difference = half(PROMPT, labels=PROMPT).loss - model(PROMPT, labels=PROMPT).loss
    assert half.lm_head.weight.dtype == torch.bfloat16 and difference.abs() < 0.2
    assert half.generate(PROMPT, max_new_tokens=3, **GREEDY).shape == (2, 10)
