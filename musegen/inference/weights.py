"""A GPT-2 that can do nothing but be stepped: its configuration and its weights, read straight from its folder.

transformers' model classes take seconds to import, most of it for what writing music never needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch

from .gpt2 import Gpt2Stepper

# transformers' defaults for what older configurations leave out.
_DEFAULTS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "n_inner": None,
}
_BLOCK = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


class Gpt2Weights:
    """What `Gpt2Stepper` reads of a model, under the same names.

    Args:
        config: Of the model.
        state: Its weights by name.
        generation_config: Its own way of drawing ids; empty by default.
    """

    device = torch.device("cpu")

    def __init__(
        self, config: SimpleNamespace, state: dict[str, torch.Tensor], generation_config: SimpleNamespace | None = None
    ):
        self.config = config
        self.generation_config = generation_config or SimpleNamespace()

        def module(name: str) -> SimpleNamespace:
            return SimpleNamespace(weight=state[f"{name}.weight"], bias=state.get(f"{name}.bias"))

        def block(i: int) -> SimpleNamespace:
            parts = {name: module(f"transformer.h.{i}.{name}") for name in _BLOCK}
            attention = SimpleNamespace(c_attn=parts["attn.c_attn"], c_proj=parts["attn.c_proj"])
            inner = SimpleNamespace(c_fc=parts["mlp.c_fc"], c_proj=parts["mlp.c_proj"])
            return SimpleNamespace(ln_1=parts["ln_1"], ln_2=parts["ln_2"], attn=attention, mlp=inner)

        self.transformer = SimpleNamespace(
            wte=module("transformer.wte"),
            wpe=module("transformer.wpe"),
            ln_f=module("transformer.ln_f"),
            h=[block(i) for i in range(config.n_layer)],
        )
        tied = "lm_head.weight" not in state
        self.lm_head = self.transformer.wte if tied else module("lm_head")

    def eval(self) -> Gpt2Weights:
        """Itself, which never trains."""
        return self

    @classmethod
    def read(cls, folder: str | Path) -> Gpt2Weights | None:
        """The weights in a folder, or None where they are not exactly those of a plain GPT-2.

        The caller then loads the folder in full, and learns what is wrong with it.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            settings = {**_DEFAULTS, **json.loads((folder / "config.json").read_text(encoding="utf-8"))}
            if settings["model_type"] != "gpt2" or settings.get("architectures") != ["GPT2LMHeadModel"]:
                return None
            config = SimpleNamespace(**settings)
            config.max_position_embeddings = config.n_positions
            state = load_file(folder / "model.safetensors")
            shapes = _shapes(config)
            if not settings.get("tie_word_embeddings", True):
                shapes["lm_head.weight"] = (config.vocab_size, config.n_embd)
            if {name: tuple(value.shape) for name, value in state.items()} != shapes:
                return None
            found = cls(config, state, read_generation_config(folder))
            return found if Gpt2Stepper.fits(found) else None
        except Exception:  # whatever is wrong with the folder, loading it in full says it better
            return None


def read_generation_config(folder: str | Path) -> SimpleNamespace:
    """What `generation_config.json` in a folder says; empty where there is none."""
    path = Path(folder) / "generation_config.json"
    return SimpleNamespace(**(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}))


def _shapes(config: SimpleNamespace) -> dict[str, tuple[int, ...]]:
    width = config.n_embd
    inner = config.n_inner or 4 * width
    sizes = {
        "ln_1": (width,), "ln_2": (width,), "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
        "mlp.c_fc": (width, inner), "mlp.c_proj": (inner, width),
    }  # fmt: skip
    shapes = {
        "transformer.wte.weight": (config.vocab_size, width),
        "transformer.wpe.weight": (config.n_positions, width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }
    for i in range(config.n_layer):
        for name, shape in sizes.items():
            shapes[f"transformer.h.{i}.{name}.weight"] = shape
            shapes[f"transformer.h.{i}.{name}.bias"] = shape[-1:]
    return shapes
