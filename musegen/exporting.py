"""Models as ONNX: writing an export, and checking it against the model. `musegen.onnx_running` runs it.

An export is a folder: the graph (`model.onnx`, its weights in `model.onnx.data`), the tokenizer, both configurations,
and a README whose code makes ids with numpy and onnxruntime alone. One graph reads a prompt and takes a step: what it
remembers goes in as `input.past_key_values...` and comes out as `output.past_key_values...`, keys and values of a
GPT-2, (batch, heads, past, features), or hidden and cell states of an LSTM, (batch, hidden). Weights are float32.

The graphs are made by transformers' own exporter, for GPT-2 and LSTM alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from musegen.composing import load_model
from musegen.errors import ModelError, MusegenError, RequestError
from musegen.generation import sample
from musegen.grammar import Grammar
from musegen.inference import stepper_for
from musegen.layout import StreamLayout
from musegen.likelihood import context_of
from musegen.onnx_running import GRAPH, OnnxModel, require_onnx
from musegen.sampling import SamplingOptions
from musegen.tokenizer import MusicTokenizer

# Largest difference of a logit from torch's that an export may have, as a share of the largest logit: what float32
# leaves is about 1e-6.
CLOSE = 1e-4
CHECK_TOKENS = 200
UNENDING = 100_000  # bars; a budget that is never spent, so that a check does not end early

SNIPPET = '''\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
memory_inputs = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("input.")}
inputs = {i.name for i in session.get_inputs()}


def greedy(ids, count):
    """Go on from ids, int64 (batch, time), by the likeliest id, `count` times."""
    memory = {
        name: np.zeros([{"batch": len(ids), "past": 0}.get(size, size) for size in shape], np.float32)
        for name, shape in memory_inputs.items()
    }
    new = ids
    for _ in range(count):
        positions = np.arange(ids.shape[1] - new.shape[1], ids.shape[1])
        feeds = {
            "input_ids": new,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.repeat(positions[None], len(ids), 0),
            **memory,
        }
        logits, *values = session.run(None, {name: feeds[name] for name in inputs})
        memory = dict(zip(memory_inputs, values))
        new = logits[:, -1].argmax(-1)[:, None]
        ids = np.concatenate([ids, new], axis=1)
    return ids


ids = greedy(np.array([[BOS]]), COUNT)
print(ids[0].tolist())
'''
README = """\
# {name} as ONNX

{kind}, exported by musegen for onnxruntime. {limit}

Ids with numpy and onnxruntime alone, run in this folder:

```python
{snippet}```

`greedy` takes the likeliest id each time and knows nothing of the grammar of the tokens. The tokenizer beside the
graph makes a score of the ids:

```python
from musegen.scores import midi_bytes
from musegen.tokenizer import load_tokenizer

score = load_tokenizer(".").decode_score(ids[0].tolist())
open("piece.mid", "wb").write(midi_bytes(score))
```

| input | type and shape | what it is |
|---|---|---|
{inputs}

Outputs: `logits`, (batch, sequence, {vocabulary}), and each `input.` as it is after the last id, named `output.`.
"""


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """An export beside the model that it was made of: greedy decoding by the package's loop, grammar included.

    Args:
        tokens: Decoded by each.
        same: Of these, how many are the same before the first that is not.
        difference: Largest difference of a logit, over a prompt, as a share of the largest logit.
        threads: Of both.
        onnx_speed: Tokens a second under onnxruntime, one piece at a time.
        torch_speed: The same of the package's own steps in torch.
    """

    tokens: int
    same: int
    difference: float
    threads: int
    onnx_speed: float
    torch_speed: float

    @property
    def passed(self) -> bool:
        return self.same == self.tokens and self.difference <= CLOSE

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.tokens} greedy tokens are torch's, logits within {self.difference:.1e} of the "
            f"largest\none piece, {self.threads} thread{'s' * (self.threads != 1)}: onnxruntime "
            f"{self.onnx_speed:.0f} tokens/s, torch (musegen.generation) {self.torch_speed:.0f} tokens/s"
        )


def export_model(name: str | Path, out: str | Path) -> Path:
    """Write a model as an ONNX folder; an earlier export there is replaced when the new one is whole.

    Args:
        name: A GPT-2 or a forward LSTM: a folder, a shipped name, or a Hub name.
        out: The folder.

    Raises:
        ModelError: No such model, one of another architecture, or a graph whose logits are not the model's.
        TokenizerError: If no music tokenizer lies beside it.
        RequestError: If something else than an export is in the way.
        MusegenError: If the extra is not installed.
    """
    require_onnx()
    out = Path(out)
    _check_place(out)
    model, tokenizer = load_model(name)
    model = model.float().eval()
    _check_kind(name, model)
    aside = out.with_name(f".{out.name}.tmp-{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        _write_graph(model, aside)
        tokenizer.save_pretrained(aside)
        model.config.save_pretrained(aside)
        model.generation_config.save_pretrained(aside)
        _compare(name, model, aside)
        (aside / "README.md").write_text(_readme(Path(name).name, model, aside), encoding="utf-8")
        _swap(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


@torch.inference_mode()
def check_export(
    name: str | Path, folder: str | Path, tokens: int = CHECK_TOKENS, threads: int | None = None
) -> ExportCheck:
    """Decode greedily with a model and with its export, and time both in the same loop.

    Args:
        name: The model.
        folder: Its export.
        tokens: How many.
        threads: Of both; those of torch by default.
    """
    require_onnx()
    model, tokenizer = load_model(name)
    model = model.float()
    before = torch.get_num_threads()
    threads = threads or before
    torch.set_num_threads(threads)
    try:
        speeds, ids = [], []
        for make in (lambda: model, lambda: OnnxModel(folder, threads)):  # one after the other: threads may spin
            each = make()
            _greedy(each, tokenizer, min(8, tokens))  # what is made at the first step is not counted
            start = time.perf_counter()
            ids.append(_greedy(each, tokenizer, tokens))
            speeds.append(tokens / (time.perf_counter() - start))
        prompt = ids[0][: min(len(ids[0]), context_of(model) or len(ids[0]))]
        wanted, found = (stepper_for(m, 1).start(0, prompt).numpy() for m in (model, each))
    finally:
        torch.set_num_threads(before)
    same = next((i - 1 for i, (a, b) in enumerate(zip(*ids)) if a != b), tokens)
    return ExportCheck(tokens, same, _difference(wanted, found), threads, speeds[1], speeds[0])


def _greedy(model, tokenizer: MusicTokenizer, tokens: int) -> list[int]:
    options = SamplingOptions(temperature=0, max_tokens=tokens)
    prompt = [tokenizer.bos_token_id]
    return sample(model, Grammar(tokenizer), [prompt], [UNENDING], options, layout=StreamLayout(tokenizer))[0]


def _check_place(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / GRAPH).is_file())):
        raise RequestError(f"{out}: in the way: an export needs a folder that is new, empty or an earlier export")


def _check_kind(name: str | Path, model) -> None:
    kind = type(model).__name__
    if kind not in ("GPT2LMHeadModel", "MusicLstmForCausalLM"):
        raise ModelError(f"{name}: is a {kind}; exported are GPT2LMHeadModel and MusicLstmForCausalLM")
    if getattr(model.config, "bidirectional", False):
        raise ModelError(f"{name}: a bidirectional LSTM reads its whole window anew at each token; not exported")


def _swap(aside: Path, out: Path) -> None:
    """Put a folder in another's place."""
    if not out.exists():
        aside.rename(out)
        return
    old = out.with_name(f"{aside.name}-old")
    out.rename(old)
    aside.rename(out)
    shutil.rmtree(old)


def _write_graph(model, folder: Path) -> None:
    try:
        from transformers.exporters import OnnxConfig, OnnxExporter
    except ImportError as error:
        raise MusegenError(f"this transformers has no ONNX exporter ({error}); install a newer one") from error
    import onnx_ir

    with _quiet():
        exported = OnnxExporter().export(model, _example(model), config=OnnxConfig(dynamic=True))
        # Older releases of transformers return torch's ONNXProgram.
        program = exported.program if hasattr(exported, "program") else exported.model
        _name_axes(program, model)
        onnx_ir.save(program, folder / GRAPH, external_data=f"{GRAPH}.data")


def _example(model) -> dict:
    """Inputs to trace: two rows of four ids, after three that are remembered. No size may be 1, nor equal another."""
    ids = torch.arange(8).reshape(2, 4) % model.config.vocab_size
    with torch.no_grad():
        past = model(input_ids=ids[:, :3], use_cache=True).past_key_values
    inputs = {"input_ids": ids, "past_key_values": past, "use_cache": True}
    if model.config.model_type == "gpt2":
        inputs["attention_mask"] = torch.ones(2, 7, dtype=torch.long)
        inputs["position_ids"] = torch.arange(3, 7).expand(2, 4).contiguous()
    return inputs


def _name_axes(program, model) -> None:
    """Give the axes of inputs and outputs their names, and forget the sizes between them.

    The trace numbers its axes, a new number for each layer's past. `nn.LSTM` has it take the number of ids for a
    constant, which the operator that is written in the end does not: `_compare` reads other numbers of ids.
    """
    import onnx_ir

    config = model.config
    state = ("batch", config.hidden_size)
    if config.model_type == "gpt2":
        state = ("batch", config.n_head, "past", config.n_embd // config.n_head)
    axes = {
        "input_ids": ("batch", "sequence"),
        "attention_mask": ("batch", "total"),
        "position_ids": ("batch", "sequence"),
        "logits": ("batch", "sequence", config.vocab_size),
    }
    for value in program.graph.inputs:
        value.shape = onnx_ir.Shape(axes.get(value.name, state))
    longer = ["total" if axis == "past" else axis for axis in state]
    for value in program.graph.outputs:
        value.shape = onnx_ir.Shape(axes.get(value.name, longer))
    for node in program.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _difference(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(wanted - found).max() / max(np.abs(wanted).max(), 1e-9))


def _compare(name: str | Path, model, folder: Path) -> None:
    """Read other numbers of ids than were traced, at once and after others, and refuse a graph that errs."""
    stepper = OnnxModel(folder).stepper(2)
    ids = [(7 * i + 1) % model.config.vocab_size for i in range(min(12, context_of(model) or 12))]
    for count in (1, len(ids) - 1):
        stepper.start(0, ids[:count])
        found = stepper.step([ids[count]])[0].numpy()
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([ids[: count + 1]])).logits[0, -1].numpy()
        if not _difference(wanted, found) <= CLOSE:
            raise ModelError(f"{name}: the exported graph's logits differ by {_difference(wanted, found):.1e}")


def _readme(name: str, model, folder: Path) -> str:
    kinds = {"gpt2": "A GPT-2", "music_lstm": "A MusicLstm"}
    meanings = {
        "input_ids": "the new ids",
        "attention_mask": "1 for an id, 0 for padding, remembered ids included",
        "position_ids": "where the new ids stand, from 0",
    }
    rows = []
    for entry in OnnxModel(folder).session.get_inputs():
        kind = re.sub(r"tensor\((\w+)\)", r"\1", entry.type).replace("float", "float32")
        shape = ", ".join(map(str, entry.shape))
        rows.append(f"| `{entry.name}` | {kind} ({shape}) | {meanings.get(entry.name, 'what is remembered')} |")
    context = context_of(model)
    snippet = SNIPPET.replace("BOS", str(model.config.bos_token_id)).replace(
        "COUNT", str(min(200, (context or 999) - 1))
    )
    return README.format(
        name=name,
        kind=kinds[model.config.model_type],
        limit=f"It reads {context} ids at the most." if context else "It reads any number of ids.",
        snippet=snippet,
        inputs="\n".join(rows),
        vocabulary=model.config.vocab_size,
    )
