"""A trained model as the complete Hub folder that ships: ship_model.py TRAINED --corpus CORPUS --out FOLDER.

It is calibrated first: a model that has read few works many times is surer of itself than it is right, and what it
writes then repeats itself. Dividing its logits by one temperature, that which foretells the validation works best (Guo
et al. 2017, https://arxiv.org/abs/1706.04599), mends that; the division is put into its last norm, so that nobody need
know.

Weights are saved as halves, float16, which is half to download; `config.json` says float32, so that transformers turns
them into what a CPU computes fast in.
What training has for itself (checkpoints, curves) stays behind, but for `training.json`: each stage's settings and
validation figures. The LSTM's code is that of the package; `musegen publish` puts it beside the weights.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from scipy.optimize import minimize_scalar

from musegen.composing import load_model
from musegen.controls import TASK, task_params
from musegen.corpus import load_corpus
from musegen.evaluation import encoded_pieces
from musegen.layout import StreamLayout
from musegen.likelihood import score_pieces

LIMIT = 25_000_000  # bytes of a shipped folder
STAGE = ("best_step", "bits_per_note", "history", "config")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.97)
    parser.add_argument("--repetition", type=float, default=0.0, help="nats against standing still")
    told = parser.parse_args()
    model, tokenizer = load_model(told.trained)
    found = calibrate(model, tokenizer, told.corpus)
    model = model.to(torch.float16)
    settings = {"do_sample": True, "temperature": told.temperature, "top_p": told.top_p, "top_k": 0}
    if told.repetition:  # transformers does not read settings in generation_config.json that it does not know
        model.config.task_specific_params = {TASK: {**task_params(model), "repetition": told.repetition}}
    longest = getattr(model.config, "n_positions", None)
    model.generation_config.update(**settings, **({} if longest is None else {"max_length": longest}))
    aside = told.out.with_name(told.out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "dtype": "float32"}, indent=2, sort_keys=True)
    (aside / "config.json").write_text(text + "\n", encoding="utf-8")
    tokenizer.save_pretrained(aside)
    (aside / "training.json").write_text(json.dumps([*stages(told.trained), found], indent=1) + "\n", encoding="utf-8")
    for path in aside.iterdir():
        path.chmod(0o644)  # weights are written for their owner alone
    size = sum(path.stat().st_size for path in aside.rglob("*"))
    if size > LIMIT:
        raise SystemExit(f"{told.trained}: {size:,} bytes, above the {LIMIT:,} of a shipped model")
    again, _ = load_model(aside)
    for name, value in model.state_dict().items():
        assert torch.equal(value.float(), again.state_dict()[name]), name  # float32 again, and nothing lost
    if (told.out / "LICENSE").is_file():  # what the weights are under is not training's to say
        shutil.copy(told.out / "LICENSE", aside / "LICENSE")
    shutil.rmtree(told.out, ignore_errors=True)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(told.out)
    print(f"{told.out}: {size / 1e6:.1f} MB, {sum(p.numel() for p in model.parameters()):,} parameters")


def calibrate(model, tokenizer, corpus: Path) -> dict:
    """Divide the logits by what foretells the validation works best; that, and bits a note before and after."""
    pieces = list(encoded_pieces(tokenizer, load_corpus(corpus)["validation"]))
    layout = StreamLayout(tokenizer)
    bits: dict[float, float] = {}
    divided = 1.0

    def bits_at(temperature: float) -> float:
        nonlocal divided
        temperature = round(float(temperature), 3)
        scale_logits(model, divided / temperature)
        divided = temperature
        bits[temperature] = score_pieces(model, pieces, layout=layout).bits_per_note
        print(f"temperature {temperature:.3f}: {bits[temperature]:.4f} bits a note", flush=True)
        return bits[temperature]

    bits_at(1.0)
    minimize_scalar(bits_at, bounds=(0.8, 1.6), method="bounded", options={"xatol": 0.01})
    best = min(bits, key=bits.get)
    scale_logits(model, divided / best)
    return {"temperature": best, "bits_per_note": bits[best], "bits_per_note_before": bits[1.0]}


@torch.no_grad()
def scale_logits(model, factor: float) -> None:
    """Multiply all logits, by way of the last norm."""
    if model.config.model_type == "gpt2":
        scaled = [*model.transformer.ln_f.parameters()]
    else:
        scaled = [*model.model.layers[-1].norm.parameters(), model.lm_head.bias]
    for parameter in scaled:
        parameter.mul_(factor)


def stages(folder: Path) -> list[dict]:
    """What each stage of a training was told and gave, the first one first."""
    found = []
    while (folder / "training.json").is_file():
        told = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        found.insert(0, {name: told[name] for name in STAGE})
        folder = Path(told["config"]["model"])
    return found


if __name__ == "__main__":
    main()
