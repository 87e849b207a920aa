"""Training, initialising, saving and configuring the LSTM language model."""

import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import musegen.models
from musegen.models import MusicLstmCache, MusicLstmConfig, MusicLstmForCausalLM, MusicLstmModel

PROMPT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
GREEDY = {"do_sample": False, "pad_token_id": 0}


def make(seed=0, **settings) -> MusicLstmForCausalLM:
    torch.manual_seed(seed)
    settings = {"vocab_size": 11, "hidden_size": 8, "num_layers": 2, "initializer_range": 0.5, **settings}
    return MusicLstmForCausalLM(MusicLstmConfig(**settings)).eval()


def test_loss_is_the_mean_over_targets_and_adds_up_over_uneven_batches():
    model = make()
    ids = torch.randint(11, (4, 7))
    labels = ids.clone()
    labels[0, 3:] = -100
    labels[2] = -100
    whole = model(ids, labels=labels)
    log_probs = whole.logits[:, :-1].log_softmax(-1)
    expected = [
        -log_probs[row, time, labels[row, time + 1]]
        for row in range(4)
        for time in range(6)
        if labels[row, time + 1] != -100
    ]
    torch.testing.assert_close(whole.loss, torch.stack(expected).mean())
    whole.loss.backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    parts = [
        model(ids[rows], labels=labels[rows], num_items_in_batch=torch.tensor(len(expected))).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole.loss)
    sum(parts).backward()
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, gradient)


def test_training_ends_its_graph_at_the_cache():
    model = make().train()
    cache = MusicLstmCache(model.config)
    first = model.get_input_embeddings()(PROMPT).detach().requires_grad_()
    model(inputs_embeds=first, past_key_values=cache)
    carried = model(PROMPT, past_key_values=cache, labels=PROMPT)
    assert (carried.logits != model(PROMPT).logits).any()
    carried.loss.backward()
    assert first.grad is None


def test_dropouts():
    model = make(dropout=0.5, recurrent_dropout=0.0)
    assert torch.equal(model(PROMPT).logits, model(PROMPT).logits)
    recurrent = make(dropout=0.0, recurrent_dropout=0.5)
    evaluated = recurrent(PROMPT).logits
    recurrent.train()
    trained = recurrent(PROMPT).logits
    # A first step has no recurrent input, so that only later steps can differ.
    torch.testing.assert_close(trained[:, 0], evaluated[:, 0], atol=1e-5, rtol=0)
    assert (trained[:, 1:] - evaluated[:, 1:]).abs().max() > 1e-3
    trained.sum().backward()
    assert recurrent.model.layers[0].lstm.weight_hh_l0.grad.abs().sum() > 0
    values = torch.ones(4, 6, 50)
    for locked in (True, False):
        dropout = musegen.models.layers_music_lstm.SequenceDropout(0.5, locked).train()
        dropped = dropout(values)
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        assert torch.equal(dropped[:, :1].expand_as(dropped), dropped) is locked
        assert torch.equal(dropout.eval()(values), values)


def test_tied_embeddings_are_one_tensor_and_saved_once(tmp_path):
    for tied in (True, False):
        model = make(tie_word_embeddings=tied)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
        model.save_pretrained(tmp_path / str(tied))
        with safe_open(tmp_path / str(tied) / "model.safetensors", "pt") as file:
            assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118 - not a dict
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(tied))
        assert isinstance(loaded, MusicLstmForCausalLM) and not loaded.training
        assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
        assert torch.equal(loaded(PROMPT).logits, model(PROMPT).logits)


@pytest.mark.parametrize("settings", [{}, {"embedding_size": 5}, {"tie_word_embeddings": False}])
def test_resizing_the_vocabulary(settings, tmp_path):
    model = make(**settings)
    before = model(PROMPT).logits
    model.resize_token_embeddings(16)
    assert model.config.vocab_size == 16
    after = model(PROMPT, labels=PROMPT)
    assert after.logits.shape == (2, 5, 16) and after.loss.isfinite()
    torch.testing.assert_close(after.logits[..., :11], before, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(PROMPT).logits, after.logits)
    model.resize_token_embeddings(11)
    torch.testing.assert_close(model(PROMPT).logits, before, atol=1e-5, rtol=0)


def test_bfloat16(tmp_path):
    model = make(hidden_size=16)
    exact, greedy = model(PROMPT, labels=PROMPT), model.generate(PROMPT, max_new_tokens=4, **GREEDY)
    # oneDNN refuses an LSTM under bfloat16 autocast on a CPU without bfloat16 instructions.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(PROMPT, labels=PROMPT)
        assert torch.equal(model.generate(PROMPT, max_new_tokens=4, **GREEDY), greedy)
    torch.testing.assert_close(mixed.loss, exact.loss, atol=0.05, rtol=0)
    mixed.loss.backward()
    model.save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    outputs = half(PROMPT, labels=PROMPT)
    assert outputs.logits.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.loss, exact.loss.detach(), atol=0.05, rtol=0)
    assert half.generate(PROMPT, max_new_tokens=4, **GREEDY).shape == (2, 9)


@pytest.mark.parametrize("missing", ["bias_ih_l0", "weight_hh_l0"])
def test_loading_initialises_only_what_is_missing(missing, tmp_path):
    model = make()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number + 0.5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters()):
        assert torch.equal(ours, theirs), name
    # Of a module with one missing weight, the others are still as loaded.
    weights = load_file(tmp_path / "model.safetensors")
    del weights[f"model.layers.0.lstm.{missing}"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    partial = AutoModelForCausalLM.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(model.named_parameters(), partial.parameters()):
        assert torch.equal(ours, theirs) is (name != f"model.layers.0.lstm.{missing}"), name
    fresh = partial.model.layers[0].lstm.get_parameter(missing)
    if missing == "bias_ih_l0":
        assert fresh.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    else:
        torch.testing.assert_close(fresh.T @ fresh, 4 * torch.eye(8), atol=1e-5, rtol=0)


def test_fresh_weights():
    model = make(vocab_size=200, hidden_size=64, initializer_range=0.05)
    lstm = model.model.layers[0].lstm
    for gate in lstm.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(64), atol=1e-5, rtol=0)
    assert (lstm.bias_ih_l0 + lstm.bias_hh_l0).tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 128
    assert abs(model.model.embed_tokens.weight.std().item() - 0.05) < 0.005
    ids = torch.randint(200, (4, 20))
    assert model(ids, labels=ids).loss.item() < math.log(200) + 0.5


def test_learns_under_accelerate():
    accelerator = Accelerator(cpu=True)
    model = make(vocab_size=5, dropout=0.0, recurrent_dropout=0.1, locked_dropout=True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model, optimizer = accelerator.prepare(model, optimizer)
    ids = torch.arange(24).remainder(5).repeat(4, 1)
    losses = []
    for _ in range(40):
        loss = model(input_ids=ids, labels=ids, num_items_in_batch=4 * 23).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 1.3 and losses[-1] < 0.3


def test_registration_is_idempotent():
    musegen.models.register()
    musegen.models.register()
    config = AutoConfig.for_model("music_lstm", vocab_size=11, hidden_size=8)
    assert type(config) is MusicLstmConfig
    assert type(AutoModel.from_config(config)) is MusicLstmModel
    assert type(AutoModelForCausalLM.from_config(config)) is MusicLstmForCausalLM


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_layers": "two"}, "num_layers"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"embedding_dropout": -0.1}, "embedding_dropout is -0.1"),
        ({"train_positions": 4}, "train_positions needs bidirectional"),
        ({"train_positions": 0, "bidirectional": True}, "train_positions is 0"),
    ],
)
def test_impossible_configurations_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        MusicLstmConfig(**settings)


def test_configuration_has_the_standard_names():
    config = MusicLstmConfig(num_layers=3, hidden_size=32, dropout=0.3, embedding_dropout=0.1)
    assert config.num_hidden_layers == 3 and config.embedding_size == 32
    assert (config.embedding_dropout, config.output_dropout) == (0.1, 0.3)
    # Without a limit there is nothing for `generate` to warn about or stop at.
    assert not hasattr(config, "max_position_embeddings")
    assert MusicLstmConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 3, "layer_norm": False}, {"bidirectional": True, "window": 4}],
)
def test_pieces_of_one_row_are_apart(settings):
    """Loss and gradient of a row of pieces are those of the pieces by themselves."""
    model = make(dropout=0.0, **settings).double().train()
    ids = torch.randint(11, (3, 20))
    cuts = [[0, 7, 20], [0, 7, 11, 20], [0, 20]]
    resets = torch.zeros(3, 20, dtype=torch.bool)
    labels = ids.clone()
    for row, places in enumerate(cuts):
        for place in places[:-1]:
            resets[row, place], labels[row, place] = True, -100
    packed = model(ids, labels=labels, resets=resets, num_items_in_batch=1).loss
    packed.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone = sum(
        model(ids[row : row + 1, a:b], labels=labels[row : row + 1, a:b], num_items_in_batch=1).loss
        for row, places in enumerate(cuts)
        for a, b in itertools.pairwise(places)
    )
    alone.backward()
    torch.testing.assert_close(packed, alone)
    for gradient, parameter in zip(gradients, model.parameters()):
        torch.testing.assert_close(gradient, parameter.grad)
    mixed = model(ids, labels=labels, num_items_in_batch=1).loss
    assert (mixed - alone).abs() > 1e-3
    with pytest.raises(ValueError, match="padding"):
        model(ids, resets=resets, attention_mask=torch.arange(20).expand(3, 20) > 2)
