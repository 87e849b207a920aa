"""Shared real music: a few movements of the quartets that the music21 wheel carries, read once a session."""

import os

# One thread a process: the suite runs in as many processes as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import importlib.util
import signal
from pathlib import Path

import pytest

# A shell that runs the suite in the background has its children ignore SIGINT, which some tests send to theirs.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MUSIC21 = Path(importlib.util.find_spec("music21").origin).parent / "corpus"
MOVEMENTS = {
    "k80/movement3": "mozart/k80/movement3.mxl",
    "k155/movement3": "mozart/k155/movement3.mxl",
    "k156/movement4": "mozart/k156/movement4.mxl",
    "k545": "mozart/k545/movement1_exposition.mxl",
}


@pytest.fixture(scope="session")
def movement_paths():
    """Files by name: small movements, one of them with a pick-up and triplets, one for piano."""
    return {name: MUSIC21 / path for name, path in MOVEMENTS.items()}


@pytest.fixture(scope="session")
def scores(movement_paths):
    """Canonical scores by name."""
    from musegen.scores import load_score

    return {name: load_score(path, isolate=False).score for name, path in movement_paths.items()}


@pytest.fixture(scope="session")
def tokenizer(scores):
    """A tokenizer trained on three of the movements."""
    from musegen.tokenizer_training import train_tokenizer

    return train_tokenizer([scores[n] for n in ("k80/movement3", "k156/movement4", "k545")], 1300, progress=False)


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """An untrained GPT-2 of one small layer."""
    import torch

    from musegen.models import build_model

    torch.manual_seed(0)
    return build_model(
        "gpt-tiny",
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        n_positions=128,
        n_layer=1,
        n_embd=32,
        n_head=2,
    ).eval()


@pytest.fixture(scope="session")
def lstm(tokenizer):
    """An untrained LSTM of one small layer."""
    import torch

    from musegen.models import build_model

    torch.manual_seed(1)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": 32, "embedding_size": 32}
    return build_model("lstm-tiny", vocab_size=len(tokenizer), n_positions=128, **ids, **sizes).eval()
