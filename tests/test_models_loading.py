"""Presets, the one way to load a model, every refusal of it, and models that travel with their code."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from musegen import shipped
from musegen.errors import ConfigError, ModelError
from musegen.models import PRESETS, MusicLstmConfig, build_config, build_model, load_causal_lm, save_with_code

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"vocab_size": 2000, "n_positions": 64, **IDS}
PROMPT = torch.tensor([[3, 1, 4, 1, 5]])
WEIGHTS = "model.safetensors"


def tiny(name="lstm-tiny", **overrides):
    torch.manual_seed(0)
    small = {"n_embd": 8, "n_head": 2, "n_layer": 2} if name.startswith("gpt") else {"hidden_size": 8}
    return build_model(name, **{**SIZES, "vocab_size": 11, **small, **overrides}).eval()


# Presets


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt-tiny", 3_687_936),
        ("gpt-small", 11_440_128),
        ("lstm-tiny", 1_041_360),
        ("lstm-small", 5_231_568),
        ("bilstm-study", 3_277_520),
    ],
)
def test_presets_have_their_sizes(name, parameters):
    model = build_model(name, **SIZES)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.training and model.dtype == torch.float32
    assert model.config.pad_token_id == 0 and model.generation_config.eos_token_id == 2


def test_every_preset_has_a_configuration():
    assert set(PRESETS) == {
        "gpt-tiny", "gpt-small", "gpt-base", "lstm-tiny", "lstm-small", "lstm-base", "bilstm-study",
    }  # fmt: skip
    for name, preset in PRESETS.items():
        config = build_config(name, **SIZES)
        assert type(config) is preset.config_class and config.vocab_size == 2000
        assert getattr(config, "max_position_embeddings", 64) == 64
        assert config.bidirectional is (name == "bilstm-study") if "lstm" in name else config.n_head >= 4


def test_overrides_take_both_names_of_a_setting():
    assert build_config("gpt-tiny", **SIZES, hidden_size=32).n_embd == 32
    assert build_config("lstm-tiny", **SIZES, num_hidden_layers=3).num_layers == 3
    gpt = build_config("gpt-tiny", **SIZES, dropout=0.25, embd_pdrop=0.5)
    assert (gpt.resid_pdrop, gpt.embd_pdrop, gpt.attn_pdrop) == (0.25, 0.5, 0.0)
    lstm = build_config("lstm-small", **SIZES, dropout=0.25)
    assert (lstm.dropout, lstm.embedding_dropout, lstm.output_dropout) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("gpt-huge", {}, "gpt-huge.*gpt-tiny, gpt-small"),
        ("lstm-tiny", {"n_embd": 3}, "n_embd.*hidden_size"),
        ("gpt-tiny", {"window": 3}, "window.*n_embd"),
        ("gpt-tiny", {"max_position_embeddings": 8}, "max_position_embeddings"),
        ("gpt-tiny", {"n_head": 3}, "not a multiple of n_head 3"),
        ("gpt-tiny", {"n_layer": 0}, "n_layer is 0"),
        ("gpt-tiny", {"n_layer": "many"}, "n_layer"),
        ("gpt-tiny", {"dropout": 1.5}, "resid_pdrop is 1.5"),
        ("lstm-tiny", {"dropout": 1.5}, "dropout is 1.5"),
        ("lstm-tiny", {"train_positions": 4}, "needs bidirectional"),
        ("lstm-tiny", {"vocab_size": 0}, "vocab_size is 0"),
        ("gpt-tiny", {"n_positions": 2.5}, "n_positions is 2.5"),
        ("gpt-tiny", {"eos_token_id": 2000}, "eos_token_id is 2000"),
    ],
)
def test_wrong_presets_are_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_config(name, **{**SIZES, **arguments})
    assert "\n" not in str(caught.value)


# Loading


@pytest.mark.parametrize("name", ["gpt-tiny", "lstm-tiny", "bilstm-study"])
def test_a_saved_model_loads_as_it_was(name, tmp_path, monkeypatch):
    model = tiny(name)
    model.save_pretrained(tmp_path / "packaged-model")
    monkeypatch.setattr(shipped, "CHECKPOINTS", tmp_path)
    for source in (tmp_path / "packaged-model", str(tmp_path / "packaged-model"), "packaged-model"):
        loaded = load_causal_lm(source)
        assert type(loaded) is type(model) and not loaded.training
        assert torch.equal(loaded(PROMPT).logits, model(PROMPT).logits)
        assert loaded.generation_config.eos_token_id == 2
    assert load_causal_lm("packaged-model", "bfloat16").dtype == torch.bfloat16
    assert load_causal_lm("packaged-model", torch.float16).dtype == torch.float16
    for dtype in ("float33", "int64", torch.int8):
        with pytest.raises(ConfigError, match="must be float32"):
            load_causal_lm("packaged-model", dtype)


def test_a_sharded_model_loads(tmp_path):
    model = tiny("gpt-tiny")
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(load_causal_lm(tmp_path)(PROMPT).logits, model(PROMPT).logits)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        load_causal_lm(tmp_path)


class Payload:
    """A pickle that would leave a file behind when read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def only_pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "was_run")))


def becomes_bert(folder):
    shutil.rmtree(folder)
    size = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=11, **size)).save_pretrained(folder)


DAMAGES = {
    "folder missing": (shutil.rmtree, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config torn": (lambda f: (f / "config.json").write_text('{"model_type": "gp'), "is not JSON"),
    "config binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "holds a list"),
    "config without type": (lambda f: (f / "config.json").write_text("{}"), "configuration cannot be read"),
    "config of no known type": (lambda f: edit_config(f, model_type="nosuch"), "configuration cannot be read"),
    "config out of range": (lambda f: edit_config(f, hidden_size=-1), "configuration cannot be read"),
    "config of another type": (lambda f: edit_config(f, hidden_size="8"), "configuration cannot be read"),
    "an image model": (lambda f: edit_config(f, model_type="vit"), "is a vit model, not a causal"),
    "a masked model": (becomes_bert, "is a BertForMaskedLM, not a causal"),
    "code of its own": (
        lambda f: edit_config(f, model_type="nosuch", auto_map={"AutoConfig": "evil.Config"}),
        "trust_remote_code",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no weights"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "weights cannot be loaded"),
    "torn weights": (truncate, "weights cannot be loaded"),
    "foreign weights": (lambda f: (f / WEIGHTS).write_bytes(b"MThd" * 99), "weights cannot be loaded"),
    "pickled weights": (only_pickled, "pickled.*pytorch_model.bin"),
    "another shape": (lambda f: edit_config(f, hidden_size=9), "of another shape.*layers.0.lstm.bias_hh_l0, "),
    "a weight too few": (
        lambda f: edit_weights(f, lambda weights: weights.pop("model.layers.0.lstm.bias_hh_l0")),
        "lacks weights.*bias_hh_l0",
    ),
    "tied weights missing": (
        lambda f: edit_weights(f, lambda weights: weights.pop("model.embed_tokens.weight")),
        "lacks weights.*embed_tokens",
    ),
    "a weight too many": (
        lambda f: edit_weights(f, lambda weights: weights.update({"model.layers.1.norm.bias": torch.zeros(8)})),
        "has no place for.*layers.1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_intact_model_is_refused(damage, tmp_path):
    folder = tmp_path / "model"
    tiny().save_pretrained(folder)
    load_causal_lm(folder)
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_causal_lm(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not (folder / "was_run").exists()


def test_names_that_lead_nowhere_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "CHECKPOINTS", tmp_path)
    tiny().save_pretrained(tmp_path / "here")
    for name in ("nosuch", "../nosuch", "/nosuch/model", "a/b/c", "..", ""):
        with pytest.raises(ModelError, match=r"no such folder|has no config.json"):
            load_causal_lm(name)
    with pytest.raises(ModelError, match=r"comes with musegen \(here\)"):
        load_causal_lm("nosuch")
    with pytest.raises(ModelError, match="is a file"):
        load_causal_lm(tmp_path / "here" / WEIGHTS)
    # The suite runs offline, where a Hub id that is not in the cache cannot be had.
    with pytest.raises(
        ModelError, match=r"nosuch-org/nosuch-model: is no folder here, and on the Hub .* cannot be read"
    ) as caught:
        load_causal_lm("nosuch-org/nosuch-model")
    assert "\n" not in str(caught.value)


# Models that travel with their code


def test_code_is_saved_only_when_asked(tmp_path):
    model = tiny()
    save_with_code(model, tmp_path / "with")
    model.save_pretrained(tmp_path / "without")
    code = {"configuration_music_lstm.py", "layers_music_lstm.py", "modeling_music_lstm.py"}
    saved = {"config.json", "generation_config.json", WEIGHTS}
    assert {entry.name for entry in (tmp_path / "with").iterdir()} == saved | code
    assert {entry.name for entry in (tmp_path / "without").iterdir()} == saved
    configs = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("with", "without")}
    assert configs["with"].pop("auto_map") == {
        "AutoConfig": "configuration_music_lstm.MusicLstmConfig",
        "AutoModelForCausalLM": "modeling_music_lstm.MusicLstmForCausalLM",
    }
    assert configs["with"] == configs["without"]
    # Here the installed class is used, and what it saves does not point to code that is not there.
    loaded = load_causal_lm(tmp_path / "with")
    assert type(loaded) is type(model)
    loaded.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
    save_with_code(tiny("gpt-tiny"), tmp_path / "gpt")
    assert not list((tmp_path / "gpt").glob("*.py"))


REMOTE = """
import sys, torch
sys.modules["musegen"] = None  # as where it is not installed: any import of it raises
from transformers import AutoModelForCausalLM
prompt = torch.tensor([[3, 1, 4, 1, 5]])
results = {}
for name in ("forward", "bidirectional"):
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    model.save_pretrained("again_" + name)
    logits = model(prompt).logits.detach()
    results["remote", name] = logits, model.generate(prompt, max_new_tokens=8, do_sample=False)
del sys.modules["musegen"]
from musegen.models import load_causal_lm
for name in ("forward", "bidirectional", "again_forward", "again_bidirectional"):
    model = load_causal_lm(name)
    assert type(model).__module__ == "musegen.models.modeling_music_lstm"
    logits = model(prompt).logits.detach()
    results["local", name] = logits, model.generate(prompt, max_new_tokens=8, do_sample=False)
torch.save(results, "results.pt")
"""


def test_another_process_has_bit_equal_logits_with_and_without_musegen(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    models = {"forward": tiny(), "bidirectional": tiny("bilstm-study", window=4)}
    for name, model in models.items():
        save_with_code(model, tmp_path / name)
    done = subprocess.run([sys.executable, "-c", REMOTE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    assert len(results) == 6
    for (kind, name), (logits, generated) in results.items():
        model = models[name.removeprefix("again_")]
        assert torch.equal(logits, model(PROMPT).logits), (kind, name)
        assert torch.equal(generated, model.generate(PROMPT, max_new_tokens=8, do_sample=False)), (kind, name)


def test_code_beside_the_weights_is_not_run_untrusted(tmp_path):
    save_with_code(tiny(), tmp_path)
    (tmp_path / "modeling_music_lstm.py").write_text("raise SystemExit('was run')")
    load_causal_lm(tmp_path)
    edit_config(tmp_path, model_type="nosuch")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_causal_lm(tmp_path)


def test_importing_musegen_does_not_import_the_models():
    check = "import sys, musegen; sys.exit('torch' in sys.modules or 'musegen.models' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_any_other_causal_model_loads(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, **size)).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(load_causal_lm(tmp_path)(PROMPT).logits, model(PROMPT).logits)


def test_build_model_is_what_the_classes_build():
    torch.manual_seed(3)
    ours = build_model("gpt-tiny", **SIZES, n_layer=1, n_embd=16)
    torch.manual_seed(3)
    theirs = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=4, **SIZES))
    assert type(ours) is GPT2LMHeadModel
    for ours_weight, theirs_weight in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(ours_weight, theirs_weight)
    fresh = AutoModelForCausalLM.from_config(MusicLstmConfig(vocab_size=11, hidden_size=8))
    assert fresh.config.train_positions is None
