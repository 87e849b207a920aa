"""Exports: the same ids and logits as torch, in a process that has neither torch nor this package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from musegen import exporting, onnx_running
from musegen.errors import ModelError, MusegenError, RequestError
from musegen.generation import sample_pieces
from musegen.grammar import Grammar
from musegen.layout import StreamLayout
from musegen.models import build_model
from musegen.sampling import SamplingOptions
from musegen.training import save_model

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers.exporters")

KINDS = ("gpt", "lstm")
PROMPTS = ([[1]], [[1, 30, 7, 99, 12, 250, 41]], [[1, 5, 6], [9, 300, 2]])


@pytest.fixture(scope="module")
def exports(tokenizer, tmp_path_factory):
    """By kind: the model, its folder, the folder of its export, what the command said."""
    root = tmp_path_factory.mktemp("exports")
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    sizes = {
        "gpt": ("gpt-tiny", {"n_layer": 2, "n_embd": 48, "n_head": 3}),
        "lstm": ("lstm-tiny", {"num_layers": 2, "hidden_size": 32, "embedding_size": 48}),
    }
    made = {}
    for kind, (preset, settings) in sizes.items():
        torch.manual_seed(3)
        model = build_model(preset, vocab_size=len(tokenizer), n_positions=256, **ids, **settings).eval()
        with torch.no_grad():  # as sure of itself as a trained model
            for parameter in model.parameters():
                parameter *= 2.0
        save_model(model, tokenizer, root / kind)
        folder, export, said = root / kind, root / f"{kind}-onnx", ""
        if kind == "gpt":  # by the command, and checked there
            words = [sys.executable, "-m", "musegen", "export", str(folder), "--out", str(export), "--check"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            # Progress bars may stand there; nothing else may.
            assert not [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line], done.stderr
            said = done.stdout
        else:
            exporting.export_model(folder, export)
        made[kind] = (model, folder, export, said)
    return made


def greedy(model, ids, count):
    """By whole forward passes: ids, (batch, time + count), and the last logits, (batch, vocabulary)."""
    ids = torch.tensor(ids)
    with torch.no_grad():
        for _ in range(count):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids.tolist(), logits.numpy()


def alone(code, folder):
    """What code prints as JSON, in a process of its own; fails if that loaded torch, transformers or musegen."""
    code += "\nimport sys\nassert not {'torch', 'transformers', 'musegen'} & set(sys.modules), 'not alone'\n"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_s_code_alone_gives_torch_s_ids(exports, kind, tmp_path, monkeypatch):
    model, _, export, _ = exports[kind]
    blocks = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = blocks[0] + f"\nfor prompt in {PROMPTS!r}:\n    print(greedy(np.array(prompt), 200).tolist())\n"
    own, *found = alone(code, export)
    assert own == greedy(model, [[model.config.bos_token_id]], 200)[0][0]
    for prompt, ids in zip(PROMPTS, found):
        assert ids == greedy(model, prompt, 200)[0]
        assert len({tuple(row[-50:]) for row in ids}) == len(ids)
    for file in export.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    exec(blocks[1], {"ids": np.array([own])})  # a score of them, by the tokenizer in the folder
    assert Path("piece.mid").read_bytes()[:4] == b"MThd"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_torch_s_at_any_length_batch_and_split(exports, kind):
    import onnxruntime

    model, _, export, _ = exports[kind]
    session = onnxruntime.InferenceSession(str(export / "model.onnx"))
    names = [i.name for i in session.get_inputs()]
    shapes = {i.name: i.shape for i in session.get_inputs()}
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, 40))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(ids)).logits.numpy()
    for batch, parts in ((1, (40,)), (3, (1, 39)), (2, (17, 1, 1, 21))):
        memory = {
            name: np.zeros([{"batch": batch, "past": 0}.get(s, s) for s in shapes[name]], np.float32)
            for name in names
            if name.startswith("input.")
        }
        read, found = 0, []
        for part in parts:
            feeds = {
                "input_ids": ids[:batch, read : read + part],
                "attention_mask": np.ones((batch, read + part), np.int64),
                "position_ids": np.tile(np.arange(read, read + part), (batch, 1)),
                **memory,
            }
            logits, *values = session.run(None, {name: feeds[name] for name in names})
            memory, read = dict(zip(memory, values)), read + part
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found, 1), wanted[:batch], atol=1e-4)


def test_padding_in_front_of_a_gpt_s_shorter_row_is_masked(exports):
    import onnxruntime

    model, _, export, _ = exports["gpt"]
    session = onnxruntime.InferenceSession(str(export / "model.onnx"))
    feeds = {
        "input_ids": np.array([[5, 6, 7, 8, 9], [0, 0, 0, 20, 21]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]),
        "position_ids": np.array([[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]),
    }
    memory = [entry.name for entry in session.get_inputs() if entry.name.startswith("input.")]
    feeds |= {name: np.zeros((2, 3, 0, 16), np.float32) for name in memory}
    found = session.run(["logits"], feeds)[0][1, -1]
    np.testing.assert_allclose(found, greedy(model, [[20, 21]], 1)[1][0], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0, 1])
def test_the_package_s_loop_runs_on_an_export(exports, tokenizer, kind, temperature):
    # Rows of other lengths that end at other times, more than there is room for, past the GPT's context.
    model, _, export, _ = exports[kind]
    grammar, layout = Grammar(tokenizer), StreamLayout(tokenizer)
    bos = [tokenizer.bos_token_id]
    options = SamplingOptions(temperature, seed=4, max_tokens=150)
    opening = sample_pieces(model, grammar, [bos], [6], SamplingOptions(seed=1, max_tokens=140))[0].ids[:-1]
    prompts, bars = [bos, bos, opening], [3, None, None]
    wanted, found = (
        sample_pieces(each, grammar, prompts, bars, options, layout=layout, rows=2)
        for each in (model, onnx_running.OnnxModel(export))
    )
    assert [piece.ids for piece in found] == [piece.ids for piece in wanted]
    np.testing.assert_allclose(found[0].log_probs, wanted[0].log_probs, atol=1e-4)


def test_the_verb_says_what_it_compared(exports):
    said = exports["gpt"][3]
    assert "200 of 200 greedy tokens are torch's" in said
    assert re.search(r"onnxruntime \d+ tokens/s, torch \(musegen.generation\) \d+ tokens/s", said)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_complete(exports, tokenizer, kind):
    from transformers import AutoConfig, GenerationConfig

    from musegen.tokenizer import load_tokenizer

    model, _, export, _ = exports[kind]
    assert AutoConfig.from_pretrained(export).to_diff_dict() == model.config.to_diff_dict()
    assert GenerationConfig.from_pretrained(export).eos_token_id == model.generation_config.eos_token_id
    assert load_tokenizer(export).get_vocab() == tokenizer.get_vocab()
    assert (export / "model.onnx.data").stat().st_size > 4 * 48 * len(tokenizer)
    assert not [p for p in export.parent.iterdir() if p.name.startswith(".")]  # nothing left aside


def test_a_check_passes_the_lstm_s_own_export_and_finds_another_model(exports):
    assert exporting.check_export(*exports["lstm"][1:3], tokens=100, threads=1).passed
    found = exporting.check_export(exports["lstm"][1], exports["gpt"][2], tokens=20)
    assert found.same < 20 and not found.passed and found.difference > 0.1


def test_an_earlier_export_is_replaced_and_nothing_else(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_write_graph", lambda *_: 1 / 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "score.mid").write_bytes(b"x")
    with pytest.raises(RequestError, match="mine: in the way"):
        exporting.export_model(exports["gpt"][1], tmp_path / "mine")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "model.onnx").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError):
        exporting.export_model(exports["gpt"][1], tmp_path / "earlier")
    assert (tmp_path / "earlier" / "model.onnx").read_bytes() == b"x"  # a failed export leaves it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["earlier", "mine"]
    aside = tmp_path / "aside"
    aside.mkdir()
    exporting._swap(aside, tmp_path / "earlier")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["earlier", "mine"] and not any(
        (tmp_path / "earlier").iterdir()
    )


def test_refusals(exports, tokenizer, tmp_path, monkeypatch):
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    small = {"hidden_size": 8, "embedding_size": 8}
    model = build_model("bilstm-study", vocab_size=len(tokenizer), n_positions=64, **ids, **small)
    save_model(model, tokenizer, tmp_path / "bilstm")
    with pytest.raises(ModelError, match="bidirectional LSTM"):
        exporting.export_model(tmp_path / "bilstm", tmp_path / "out")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    save_model(llama, tokenizer, tmp_path / "llama")
    with pytest.raises(ModelError, match="LlamaForCausalLM; exported are GPT2LMHeadModel and MusicLstm"):
        exporting.export_model(tmp_path / "llama", tmp_path / "out")
    with pytest.raises(ModelError, match="no export there"):
        onnx_running.OnnxModel(tmp_path / "llama")
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "model.onnx").write_bytes((exports["gpt"][2] / "model.onnx").read_bytes()[:1000])
    with pytest.raises(ModelError, match="torn: cannot be read as an export"):
        onnx_running.OnnxModel(torn)
    monkeypatch.setattr(onnx_running, "PACKAGES", ("onnx", "onnx_that_is_not_there"))
    with pytest.raises(MusegenError, match=r"needs onnx_that_is_not_there: pip install 'musegen\[onnx\]'"):
        exporting.export_model(exports["gpt"][1], tmp_path / "out")
    assert not (tmp_path / "out").exists() and Path(exports["gpt"][2]).exists()
