"""`pipeline("music-generation")`: a prompt in, music out, in the ways of `transformers.pipeline`.

Importing this module registers the pipeline, and makes `transformers.pipeline` know the names of shipped models.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import symusic
import transformers.pipelines
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import musegen.models  # noqa: F401  (makes the Auto classes know the LSTM, which `pipeline` loads by them)
from musegen.composing import Composition, compose, load_model
from musegen.controls import TASK
from musegen.errors import RequestError
from musegen.sampling import SamplingOptions
from musegen.scores import canonical_score, load_score, parse_midi
from musegen.shipped import knows_shipped
from musegen.wishes import Wishes

MAX_SEQUENCES = 256  # pieces a request


class MusicGenerationPipeline(Pipeline):
    """`pipeline("music-generation", model=...)`.

    Called with nothing, a path, MIDI bytes or a `symusic.Score`, or a list of these, which are written side by side.
    Options are `bars` or `form` (`musegen.forms.parse_form`), `prompt_bars`, `num_return_sequences`, and those of
    `musegen.wishes.Wishes` (composer, key, time_signature, tempo, instruments, steady_metre) and
    `musegen.sampling.SamplingOptions` (temperature, top_p, top_k, min_p, repetition, seed, max_tokens). The same seed
    gives the same piece whatever else is in the list.

    Returns for each input a dictionary, or a list of them if `num_return_sequences` is above 1: `score`
    (`symusic.Score`), `midi` (bytes), `input_ids`, `prompt_bars`, `ended` (whether it came to its end),
    `note_log_probs` (nats of each new note), `header` (what the model was told, or said itself) and `sections` (of the
    form that was asked for).
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _SAMPLING = tuple(field.name for field in dataclasses.fields(SamplingOptions))
    _WISHES = tuple(field.name for field in dataclasses.fields(Wishes))

    def _sanitize_parameters(self, **kwargs: Any):
        known = ("bars", "form", "prompt_bars", "num_return_sequences", *self._WISHES, *self._SAMPLING)
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise RequestError(f"no option {', '.join(unknown)}; the options are {', '.join(known)}")
        if kwargs.get("form") is not None and "bars" in kwargs:
            raise RequestError("bars: a form says how many bars there are, eight for a letter without a number")
        return {}, kwargs, {}

    def __call__(self, inputs: Any = None, **kwargs: Any):
        """Compose; see the class."""
        several = isinstance(inputs, (list, tuple))
        records = super().__call__({"prompts": list(inputs) if several else [inputs]}, **kwargs)
        return records if several else records[0]

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Read the prompts."""
        return {"prompts": [_read(prompt) for prompt in inputs["prompts"]]}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> list[list[Composition]]:
        sampling = SamplingOptions(**{name: kwargs.pop(name) for name in self._SAMPLING if name in kwargs})
        wishes = Wishes(**{name: kwargs.pop(name) for name in self._WISHES if name in kwargs})
        count = kwargs.pop("num_return_sequences", 1)
        if not 1 <= count <= MAX_SEQUENCES:
            raise RequestError(f"num_return_sequences: from 1 to {MAX_SEQUENCES}, not {count}")
        prompts = model_inputs["prompts"]
        pieces = compose(
            self.model,
            self.tokenizer,
            [prompt for prompt in prompts for _ in range(count)],
            options=sampling,
            wishes=wishes,
            keys=[(sampling.seed, i) for _ in prompts for i in range(count)],
            **kwargs,
        )
        return [pieces[i : i + count] for i in range(0, len(pieces), count)]

    def postprocess(self, model_outputs: list[list[Composition]]):
        """Compositions as dictionaries."""
        records = [[_record(piece) for piece in group] for group in model_outputs]
        return [group if len(group) > 1 else group[0] for group in records]


def _read(prompt: Any) -> symusic.Score | None:
    if isinstance(prompt, (str, Path)):
        return load_score(prompt).score
    if isinstance(prompt, (bytes, bytearray)):
        return parse_midi(bytes(prompt), "prompt").score
    if isinstance(prompt, symusic.core.ScoreTick):
        return canonical_score(prompt, "prompt").score
    if prompt is not None:
        raise RequestError(f"a prompt is a path, MIDI bytes or a symusic.Score, not a {type(prompt).__name__}")
    return None


def _record(piece: Composition) -> dict[str, Any]:
    return {
        "score": piece.score,
        "midi": piece.midi,
        "input_ids": piece.input_ids,
        "prompt_bars": piece.prompt_bars,
        "ended": piece.ended,
        "note_log_probs": piece.note_log_probs,
        "header": piece.header,
        "sections": piece.sections,
    }


PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=MusicGenerationPipeline, pt_model=AutoModelForCausalLM)
transformers.pipelines.pipeline = knows_shipped(transformers.pipelines.pipeline)

__all__ = ["TASK", "Composition", "MusicGenerationPipeline", "compose", "load_model"]
