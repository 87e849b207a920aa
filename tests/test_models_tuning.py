"""Going on with a loaded model: a GPT's context made longer."""

import numpy as np
import pytest
import torch

from musegen.errors import ConfigError
from musegen.models import build_model, with_settings
from musegen.models.tuning import stretched


def test_positions_are_stretched_between_those_that_were_trained():
    rows = torch.arange(8, dtype=torch.float32)[:, None] * torch.tensor([1.0, -2.0])
    rows[4:] = 1e6  # never trained
    longer = stretched(rows, 8, 4)
    # Half-way points of four rows at twice the rate, and the ends as they are, against numpy's own interpolation.
    at = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    expected = np.stack([np.interp(at, np.arange(4), rows[:4, i].numpy()) for i in range(2)], axis=1)
    assert np.allclose(longer.numpy(), expected)
    assert torch.equal(stretched(rows, 8, 8), rows)


def test_a_gpt_goes_on_with_a_longer_context():
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = build_model("gpt-tiny", vocab_size=20, n_positions=16, n_layer=1, n_embd=8, n_head=2, **ids)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    longer = with_settings(model, {"n_positions": 32, "dropout": 0.0}).eval()
    assert longer.config.n_positions == 32
    assert longer(torch.randint(3, 20, (1, 32))).logits.shape == (1, 32, 20)
    after = longer.state_dict()
    assert before.keys() == after.keys()
    changed = {
        name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }
    assert changed == {"transformer.wpe.weight"}
    for settings, message in (
        ({"n_positions": 31}, "must be from 32"),
        ({"n_positions": 64, "trained_positions": 33}, "must be from 2 to 32"),
        ({"n_positions": "64"}, "must be from 32"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_settings(longer, settings)
    lstm = build_model("lstm-tiny", vocab_size=20, n_positions=16, hidden_size=8, embedding_size=8, **ids)
    with pytest.raises(ConfigError, match="n_positions cannot be set"):
        with_settings(lstm, {"n_positions": 32})
