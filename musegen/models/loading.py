"""Loading any causal language model, and saving one with the code that defines it.

transformers loads leniently: weights that a file lacks are drawn at random, weights that it has too many are
dropped, pickled weights are accepted. Such a folder would make other music than the model that was saved, or
run its author's code, so each of these is refused here by name.
"""

import json
import os
import re
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..errors import ConfigError, ModelError
from ..shipped import shipped_folder, shipped_names
from .configuration_music_lstm import MusicLstmConfig
from .modeling_music_lstm import MusicLstmForCausalLM

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NAMES_SHOWN = 3  # of a list that can hold every weight of a model
REASON_LENGTH = 240  # characters


def load_causal_lm(
    path_or_name: str | os.PathLike,
    dtype: torch.dtype | str | None = None,
    *,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model of any architecture that transformers knows.

    Args:
        path_or_name: A model folder; else the name of a model that comes with musegen; else a Hub id
            (org/name).
        dtype: Type of the weights in memory; None for the type they were saved in.
        trust_remote_code: Run the code beside the weights, where neither transformers nor musegen knows the
            architecture.

    Returns:
        The model on the CPU, in evaluation mode, every weight of it read from the files.

    Raises:
        ModelError: No such folder, name or Hub id; a folder that is not a complete and intact model of that
            kind; weights that are pickled rather than safetensors.
        ConfigError: No such dtype.
    """
    dtype = _resolve_dtype(dtype)
    source = _resolve(path_or_name)
    if Path(source).is_dir():
        _check_folder(Path(source))
    # Broad, because a damaged or foreign file can fail anywhere inside transformers, with any exception.
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _model_error(path_or_name, source, "configuration cannot be read", error) from error
    if not trust_remote_code:
        _check_is_causal_lm(path_or_name, config)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            # Not to accept them: `_check_all_loaded` names them, where transformers' error only says that there are.
            ignore_mismatched_sizes=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:
        raise _model_error(path_or_name, source, "weights cannot be loaded", error) from error
    _check_all_loaded(path_or_name, info)
    # Left in, they would send whoever loads a later plain save to code files that are not there.
    model.config.__dict__.pop("custom_pipelines", None)
    if isinstance(model, MusicLstmForCausalLM):
        model.config.__dict__.pop("auto_map", None)
    return model


def save_with_code(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """Save a model so that it loads without musegen, with `trust_remote_code=True`.

    `model.save_pretrained` writes weights and configuration alone. For a `MusicLstmForCausalLM` this adds the
    modules that define it and the `auto_map` that names them; a model of transformers itself needs neither.

    Args:
        model: The model.
        folder: Where to; made where it does not exist.
    """
    if not isinstance(model, MusicLstmForCausalLM):
        model.save_pretrained(folder)
        return
    MusicLstmForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    MusicLstmConfig.register_for_auto_class("AutoConfig")
    try:
        model.save_pretrained(folder)
    finally:
        # The registration is the class's, and would add the code to every later save of any such model.
        MusicLstmForCausalLM._auto_class = MusicLstmConfig._auto_class = None
        model.config.__dict__.pop("auto_map", None)


def _resolve_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    if dtype is None or dtype == "auto":
        return "auto"
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ConfigError(f"dtype is {dtype!r}, must be float32, bfloat16, float16 or auto")
    return resolved


def _resolve(path_or_name: str | os.PathLike) -> str:
    """The folder, as a string, or the Hub id that `path_or_name` stands for."""
    name = str(path_or_name)
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ModelError(f"{name}: is a file; pass the model folder that holds it")
    shipped = shipped_folder(name)
    if shipped is not None:
        return str(shipped)
    if isinstance(path_or_name, str) and HUB_ID.fullmatch(name):
        return name
    raise ModelError(
        f"{name}: no such folder, nor a model that comes with musegen ({', '.join(shipped_names()) or 'none'}), "
        "nor a Hub id (org/name)"
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be a model, in words that transformers' own errors lack."""
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise ModelError(f"{folder}: has no {CONFIG_NAME}, so it is not a model folder")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{config}: is not JSON: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{config}: holds a {type(content).__name__}, not an object")
    if any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        return
    pickled = sorted(entry.name for entry in folder.iterdir() if entry.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"{folder}: refused: its weights are pickled ({', '.join(pickled[:NAMES_SHOWN])}), and reading a "
            "pickle can run code; save them again with save_pretrained, as safetensors"
        )
    raise ModelError(f"{folder}: has no weights ({SAFE_WEIGHTS_NAME})")


def _check_is_causal_lm(name: str | os.PathLike, config: PreTrainedConfig) -> None:
    """Refuse another kind of model: many encoders have a causal class too, which loads them and babbles."""
    kind = getattr(config, "model_type", None) or type(config).__name__
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{name}: is a {kind} model, not a causal language model")
    known = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    names = {entry.__name__ for entry in (known if isinstance(known, tuple) else (known,))}
    saved = set(config.architectures or ())
    if saved and not saved & names:
        raise ModelError(f"{name}: is a {', '.join(sorted(saved))}, not a causal language model")


def _check_all_loaded(name: str | os.PathLike, info: dict) -> None:
    problems = (
        ("mismatched_keys", "has weights of another shape than its configuration asks for"),
        ("missing_keys", "lacks weights that its configuration asks for"),
        ("unexpected_keys", "has weights that its configuration has no place for"),
        ("error_msgs", "has weights that could not be read"),
    )
    for key, problem in problems:
        # A mismatch comes as a name and two shapes, anything else as a name.
        found = sorted(entry if isinstance(entry, str) else str(entry[0]) for entry in info.get(key) or ())
        if found:
            shown = ", ".join(found[:NAMES_SHOWN]) + (", ..." if len(found) > NAMES_SHOWN else "")
            raise ModelError(f"{name}: {problem}: {shown}")


def _model_error(name: str | os.PathLike, source: str, problem: str, error: Exception) -> ModelError:
    if "trust_remote_code=True" in str(error):
        return ModelError(
            f"{name}: needs code that comes with it; pass trust_remote_code=True if you trust its author"
        )
    where = "its" if Path(source).is_dir() else "is no folder here, and on the Hub its"
    return ModelError(f"{name}: {where} {problem}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """An exception on one line, cut where transformers lists all it knows."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= REASON_LENGTH else text[:REASON_LENGTH] + " ..."
