"""Composing: a prompt in, music out. `compose` for Python, `"music-generation"` for `transformers.pipeline`.

Importing this module registers the pipeline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import symusic
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from musegen import grid as g
from musegen.controls import controls_of
from musegen.errors import RequestError
from musegen.generation import sample
from musegen.grammar import Grammar
from musegen.layout import StreamLayout
from musegen.models import load_causal_lm
from musegen.sampling import SamplingOptions
from musegen.scores import canonical_score, load_score, midi_bytes, parse_midi
from musegen.tokenizer import MusicTokenizer, load_tokenizer

TASK = "music-generation"
MAX_BARS = 2000  # in one piece; an hour of music in a quick metre


@dataclasses.dataclass(frozen=True)
class Composition:
    """A piece that a model wrote.

    Args:
        score: Canonical, prompt included.
        input_ids: Of the whole piece, BOS first, EOS last if it ended.
        prompt_bars: Bars that were given.
        ended: Whether it came to its end, by itself or by the bar budget.
    """

    score: symusic.Score
    input_ids: list[int]
    prompt_bars: int
    ended: bool

    @property
    def midi(self) -> bytes:
        """A MIDI file."""
        return midi_bytes(self.score)


def load_model(name: str | Path):
    """A model and its tokenizer from one folder, a name that ships with the package, or the Hub.

    Raises:
        ModelError: If there is no such model.
        TokenizerError: If no music tokenizer lies beside it.
    """
    model = load_causal_lm(name)
    tokenizer = load_tokenizer(model.config._name_or_path or name)
    return model, tokenizer


def compose(
    model,
    tokenizer: MusicTokenizer,
    prompts: symusic.Score | Sequence[symusic.Score | None] | None = None,
    *,
    bars: int | None = 16,
    prompt_bars: int | None = None,
    programs: Collection[int] | None = None,
    steady_metre: bool = True,
    options: SamplingOptions | None = None,
    progress: bool = False,
) -> list[Composition]:
    """Write music, from nothing or on from given openings.

    Args:
        model: A causal language model over the tokenizer's ids.
        tokenizer: Its tokenizer.
        prompts: One opening, or one for each piece; None begins from nothing. A list of n gives n pieces.
        bars: New bars to write; None lets the model end the piece.
        prompt_bars: How many bars of the opening to keep; None for all.
        programs: General MIDI programs that may play; None for all.
        steady_metre: Keep the metre of the first bar, as nearly all pieces do.
        options: How to draw.
        progress: Show a bar.

    Raises:
        RequestError: For a request that cannot be met; says what is allowed.
    """
    if bars is not None and not 1 <= bars <= MAX_BARS:
        raise RequestError(f"bars: from 1 to {MAX_BARS}, not {bars}")
    if prompt_bars is not None and prompt_bars < 1:
        raise RequestError(f"prompt_bars: 1 or more, not {prompt_bars}")
    if not isinstance(prompts, (list, tuple)):
        prompts = [prompts]
    grammar = Grammar(tokenizer, programs, steady_metre=steady_metre)
    starts = [_opening(tokenizer, prompt, prompt_bars, bars) for prompt in prompts]
    budgets = [None if bars is None else given + bars for _, given in starts]
    pieces = sample(
        model, grammar, [ids for ids, _ in starts], budgets, options, layout=StreamLayout(tokenizer), progress=progress
    )
    return [
        Composition(tokenizer.decode_score(ids), ids, given, ids[-1] == tokenizer.eos_token_id)
        for ids, (_, given) in zip(pieces, starts)
    ]


def _opening(
    tokenizer: MusicTokenizer, prompt: symusic.Score | None, prompt_bars: int | None, bars: int | None
) -> tuple[list[int], int]:
    """Ids of an opening, BOS first, and how many bars it has."""
    if prompt is None:
        return [tokenizer.bos_token_id], 0
    if prompt.ticks_per_quarter != g.TICKS_PER_QUARTER:
        prompt = canonical_score(prompt, "prompt").score
    if prompt_bars is not None:
        prompt = g.slice_bars(prompt, 0, prompt_bars)
    given = tokenizer.merge_bars(tokenizer.base_ids(prompt))
    if len(given) > MAX_BARS:
        raise RequestError(f"a prompt of {len(given)} bars; at most {MAX_BARS} are read, or set prompt_bars")
    header = tokenizer.header_ids(controls_of(prompt))
    total = None if bars is None else len(given) + bars
    return tokenizer.stream(given, header, total=total, eos=False, left=total is not None), len(given)


class MusicGenerationPipeline(Pipeline):
    """`pipeline("music-generation", model=...)`.

    Called with nothing, a path, MIDI bytes or a `symusic.Score`, or a list of these; returns for each a dictionary
    of `score`, `midi` (bytes), `input_ids`, `prompt_bars` and `ended`, or a list of them if
    `num_return_sequences` is above 1. Options are those of `compose` and `SamplingOptions`.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _SAMPLING = tuple(field.name for field in dataclasses.fields(SamplingOptions))

    def _sanitize_parameters(self, **kwargs: Any):
        known = (*self._SAMPLING, "bars", "prompt_bars", "programs", "steady_metre", "num_return_sequences")
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise RequestError(f"no option {', '.join(unknown)}; the options are {', '.join(known)}")
        return {}, kwargs, {}

    def __call__(self, inputs: Any = None, **kwargs: Any):
        """Compose; see the class."""
        if isinstance(inputs, (list, tuple)):
            return [self(item, **kwargs) for item in inputs]
        return super().__call__({"prompt": inputs}, **kwargs)

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Read the prompt."""
        prompt = inputs["prompt"]
        if isinstance(prompt, (str, Path)):
            prompt = load_score(prompt).score
        elif isinstance(prompt, (bytes, bytearray)):
            prompt = parse_midi(bytes(prompt), "prompt").score
        elif isinstance(prompt, symusic.core.ScoreTick):
            prompt = canonical_score(prompt, "prompt").score
        elif prompt is not None:
            raise RequestError(f"a prompt is a path, MIDI bytes or a symusic.Score, not a {type(prompt).__name__}")
        return {"prompt": prompt}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> list[Composition]:
        sampling = {name: kwargs.pop(name) for name in self._SAMPLING if name in kwargs}
        count = kwargs.pop("num_return_sequences", 1)
        if not 1 <= count <= 256:
            raise RequestError(f"num_return_sequences: from 1 to 256, not {count}")
        return compose(
            self.model,
            self.tokenizer,
            [model_inputs["prompt"]] * count,
            options=SamplingOptions(**sampling),
            **kwargs,
        )

    def postprocess(self, model_outputs: list[Composition]):
        """Compositions as dictionaries."""
        records = [
            {
                "score": piece.score,
                "midi": piece.midi,
                "input_ids": piece.input_ids,
                "prompt_bars": piece.prompt_bars,
                "ended": piece.ended,
            }
            for piece in model_outputs
        ]
        return records if len(records) > 1 else records[0]


PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=MusicGenerationPipeline, pt_model=AutoModelForCausalLM)
