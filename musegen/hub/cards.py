"""Model cards, from what was measured: `results.json` of `musegen evaluate`, the facts of a `card.yaml`, and samples.

Layout of the folder of a card: `card.yaml` (see `CardFacts`), `results.json`, `samples/seed-0.mid` with `.mp3`, `.png`
(sheet music) and `-roll.png`, and for other seeds likewise; `README.md` is written beside them.

Source: model cards (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993) with the metadata of the Hub,
https://huggingface.co/docs/hub/model-cards, by `huggingface_hub`'s own classes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musegen.errors import ConfigError
from musegen.hub.card_results import metric_results, results_section
from musegen.hub.checks import CARD, check_model_license

FACTS, RESULTS, SAMPLES = "card.yaml", "results.json", "samples"
SEEDS, SAMPLE_BARS, SAMPLE_SECONDS = (0, 1, 2, 3), 32, 90.0
# The Hub's word for models that make music; what comes out here is a score, which the text says at once.
PIPELINE_TAG = "text-to-audio"
TAGS = ("music", "midi", "symbolic-music", "music-generation", "musegen")
_HUB = "https://huggingface.co"
_KINDS = {
    "gpt2": "a GPT-2 of {n_layer} layers of width {n_embd}, with {n_head} heads and a context of {n_positions} tokens",
    "music_lstm": "an LSTM of {num_layers} layers of {hidden_size} units",
}


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What results do not tell of a model: the content of `card.yaml`.

    Args:
        name: Title of the card.
        repository: ORG/NAME on the Hub.
        license: Of the model, as the Hub spells it (apache-2.0, cc-by-sa-4.0, ...).
        summary: A sentence or two: what it composes, learnt from what.
        group: Its name in `results.json`; by default that of the only model there, or `name`.
        datasets: Of the training music, on the Hub: ORG/NAME each.
        base_model: On the Hub, if it was tuned from one.
        data: The sources: `name`, `license`, and as known `pieces`, `url` and `use` (pretraining, tuning).
        training: As known `hardware`, `hours`, `steps`, `tokens`, `precision` and `recipe` (a sentence).
        limits: Further sentences for the limits.
    """

    name: str
    repository: str
    license: str
    summary: str = ""
    group: str = ""
    datasets: Sequence[str] = ()
    base_model: str = ""
    data: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limits: Sequence[str] = ()

    @classmethod
    def from_yaml(cls, path: Path) -> CardFacts:
        """Read `card.yaml`.

        Raises:
            ConfigError: It cannot be read, lacks a key or has one too many.
            HubError: The model's licence gives what a source's does not.
        """
        import yaml

        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from None
        known = {field.name: field for field in dataclasses.fields(cls)}
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: keys are needed: {', '.join(known)}")
        missing = [name for name in ("name", "repository", "license") if not found.get(name)]
        unknown = sorted(set(found) - set(known))
        if missing or unknown:
            what = f"{', '.join(missing)} missing" if missing else f"no key {', '.join(unknown)}"
            raise ConfigError(f"{path}: {what}; the keys are {', '.join(known)}")
        facts = cls(**found)
        check_model_license(facts.license, facts.data)
        return facts


def write_model_card(folder: str | Path, *, model: str | Path | None = None) -> Path:
    """Write the `README.md` of a card's folder from what lies in it.

    Args:
        folder: With `card.yaml`, and as they are there `results.json` and `samples/`.
        model: Folder of the model, whose `config.json` tells its size and shape.

    Returns:
        The card's path.

    Raises:
        ConfigError: `card.yaml`, the results or the configuration cannot be read.
    """
    folder = Path(folder)
    results = _json(folder / RESULTS) if (folder / RESULTS).is_file() else None
    config = _json(Path(model) / "config.json") if model is not None else None
    text = model_card(
        CardFacts.from_yaml(folder / FACTS), results=results, config=config, samples=find_samples(folder / SAMPLES)
    )
    aside = folder / f".{CARD}.partial"
    aside.write_text(text, encoding="utf-8")
    return aside.replace(folder / CARD)


def make_samples(model: str | Path, folder: Path, *, bars: int = SAMPLE_BARS, title: str = "") -> list[Path]:
    """Compose the pieces of seeds 0 to 3 and write them as MIDI, MP3, sheet music and piano roll; none is picked.

    Args:
        model: A folder, a shipped name or a Hub id.
        folder: `samples/` of a card.
        bars: Of each piece.
        title: Over the sheet music.

    Returns:
        All that was written.
    """
    from musegen.composing import compose, load_writer
    from musegen.rendering import render_all
    from musegen.sampling import SamplingOptions

    writer = load_writer(str(model))
    written: list[Path] = []
    for seed in SEEDS:
        piece = compose(*writer, [None], bars=bars, options=SamplingOptions(seed=seed))[0]
        named = f"{title}, seed {seed}" if title else f"Seed {seed}"
        files = render_all(
            piece.score,
            folder,
            f"seed-{seed}",
            title=named,
            audio_format="mp3",
            max_pages=1,
            max_seconds=SAMPLE_SECONDS,
        )
        written += files.values()
    return written


def find_samples(folder: Path) -> dict[str, list[str]]:
    """Names of samples -> the endings of their files, such as `{"seed-0": [".mid", ".mp3", ".png"]}`."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("seed-*")):
        match = re.fullmatch(r"(seed-\d+)(\.mid|\.mp3|\.png|-roll\.png|\.musicxml)", path.name)
        if match:
            found.setdefault(match[1], []).append(match[2])
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition("-")[2])))


def model_card(
    facts: CardFacts,
    *,
    results: dict[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    samples: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The text of a model card with its metadata.

    Args:
        facts: See there.
        results: The content of `results.json`; without it the card says that nothing was measured.
        config: The content of the model's `config.json`.
        samples: See `find_samples`.

    Raises:
        ConfigError: The results hold no such model.
    """
    group = _group(facts, results)
    sections = [
        _metadata(facts, results, group),
        f"# {facts.name}\n\n{facts.summary or 'A model that composes music.'}\n\n{_what(results, group, config)}",
        _listening(facts, samples or {}),
        _use(facts, config),
        _data(facts, results),
        results_section(results, group),
        _purpose(facts, results),
        _cost(facts),
        _citing(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _group(facts: CardFacts, results: dict[str, Any] | None) -> str:
    if results is None:
        return ""
    models = [name for name, group in results.get("groups", {}).items() if group.get("role") == "model"]
    for name in (facts.group, facts.name, facts.repository.partition("/")[2]):
        if name in models:
            return name
    if facts.group or len(models) != 1:
        raise ConfigError(f"{RESULTS}: no model {facts.group or facts.name}; it has {', '.join(models) or 'none'}")
    return models[0]


def _metadata(facts: CardFacts, results: dict[str, Any] | None, group: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = facts.datasets[0] if facts.datasets else ""
    evaluations = [
        EvalResult(
            task_type="music-generation",
            task_name="Music generation",
            dataset_type=dataset or "musegen-corpus",
            dataset_name=f"held-out works of {dataset}" if dataset else "held-out works",
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for kind, name, value in metric_results(results, group)
    ]
    data = ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model or None,
        metrics=["music_bleu"] if evaluations else None,
        model_name=facts.name if evaluations else None,
        eval_results=evaluations or None,
        inference=False,
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---"


def _what(results: dict[str, Any] | None, group: str, config: Mapping[str, Any] | None) -> str:
    parts = []
    kind = _KINDS.get((config or {}).get("model_type", ""))
    if kind:
        parts.append(f"It is {kind.format_map(config)}.".replace(" 1 layers", " 1 layer"))
    parameters = ((results or {}).get("likelihood", {}).get(group) or {}).get("parameters")
    if parameters:
        parts.append(f"It has {parameters / 1e6:.1f} million parameters.")
    parts.append(
        "It writes scores, not sound: tokens for bars, instruments, pitches and durations (REMI behind BPE), which "
        "become a MIDI file. You may ask for a number of bars, a key, a metre, a tempo and instruments."
    )
    return " ".join(parts)


def _listening(facts: CardFacts, samples: Mapping[str, Sequence[str]]) -> str:
    if not samples:
        return ""
    lines = [
        "## Listen\n\nNothing was picked: these are the first seeds, composed from nothing, with the package's "
        "settings and no other request."
    ]
    for name, endings in samples.items():
        place = f"{SAMPLES}/{name}"
        files = [f"[{ending.lstrip('.')}]({place}{ending})" for ending in (".mid", ".musicxml") if ending in endings]
        lines.append(f"### {name.replace('-', ' ').capitalize()}{': ' + ', '.join(files) if files else ''}")
        if ".mp3" in endings:
            lines.append(f'<audio controls src="{_HUB}/{facts.repository}/resolve/main/{place}.mp3"></audio>')
        pictures = {".png": "First page of the sheet music", "-roll.png": "Piano roll"}
        lines += [f"![{text} of {name}]({place}{ending})" for ending, text in pictures.items() if ending in endings]
    return "\n\n".join(lines)


def _use(facts: CardFacts, config: Mapping[str, Any] | None) -> str:
    ours = (config or {}).get("model_type") == "music_lstm"
    without = (
        "Its code travels beside the weights, so `AutoModelForCausalLM` and `AutoTokenizer` load it with "
        "`trust_remote_code=True` where musegen is not installed."
        if ours
        else "`AutoModelForCausalLM` and `AutoTokenizer` load it like any other GPT-2, with or without musegen."
    )
    return (
        "## How to use it\n\nWith `musegen` installed:\n\n```python\nimport musegen\n"
        "from transformers import pipeline\n\n"
        f'composer = pipeline("music-generation", model="{facts.repository}")\n'
        'piece = composer(bars=16, key="D major", seed=0)\nopen("piece.mid", "wb").write(piece["midi"])\n```\n\n'
        'An opening goes first: `composer("opening.mid", prompt_bars=4, bars=12)`.\n\n'
        "With transformers and torch alone, from nothing only:\n\n```python\nfrom transformers import pipeline\n\n"
        f'composer = pipeline(model="{facts.repository}", trust_remote_code=True)\n'
        'open("piece.mid", "wb").write(composer(bars=16, key="D major", seed=0)["midi"])\n```\n\n'
        f"{without} Code from the Hub runs on your machine: read it first, or name a revision that you have read."
    )


def _data(facts: CardFacts, results: dict[str, Any] | None) -> str:
    text = "## Training data and licences"
    if facts.datasets:
        names = ", ".join(f"[{name}]({_HUB}/datasets/{name})" for name in facts.datasets)
        text += f"\n\nIt learnt from {names}, where each piece has its own licence and provenance."
    if facts.data:
        lines = ["| source | pieces | licence | used for |", "|---|---|---|---|"]
        for source in facts.data:
            name = f"[{source['name']}]({source['url']})" if source.get("url") else source["name"]
            pieces = f"{source['pieces']:,}" if isinstance(source.get("pieces"), int) else ""
            lines.append(f"| {name} | {pieces} | {source['license']} | {source.get('use', 'training')} |")
        text += "\n\n" + "\n".join(lines)
    if not facts.datasets and not facts.data:
        text += "\n\nNot stated."
    setting = (results or {}).get("setting")
    if setting:
        works = ", ".join(map(str, setting["held_out_works"]))
        pieces = f"{setting['held_out_pieces']:,} piece{'' if setting['held_out_pieces'] == 1 else 's'}"
        text += (
            f"\n\nHeld out, never seen in training, and the measure below: {works} ({pieces}). "
            "Works that share music are kept in one split."
        )
    return text


def _purpose(facts: CardFacts, results: dict[str, Any] | None) -> str:
    limits = [
        "Velocities, pedals and articulation are not modelled: a score says which notes, not how they are played.",
        "It plans little beyond its context; long pieces hold together by their bars, less by their form.",
        "It can copy. The results tell how much; look before you publish what it wrote.",
        *facts.limits,
        *(results or {}).get("setting", {}).get("warnings", []),
    ]
    lines = "\n".join(f"- {' '.join(str(limit).split())}" for limit in limits)
    return (
        "## Meant for, and limits\n\nFor composing sketches, continuations and exercises, for teaching and research. "
        "Not for passing its music off as a composer's own, and no substitute for checking whether a "
        f"piece is too close to a work that somebody owns.\n\n{lines}"
    )


def _cost(facts: CardFacts) -> str:
    told = facts.training
    if not told:
        return ""
    parts = []
    if told.get("hours") is not None:
        parts.append(f"{told['hours']:g} hours" + (f" on {told['hardware']}" if told.get("hardware") else ""))
    elif told.get("hardware"):
        parts.append(f"on {told['hardware']}")
    if told.get("steps"):
        parts.append(f"{told['steps']:,} steps")
    if told.get("tokens"):
        parts.append(f"{told['tokens']:,} tokens")
    if told.get("precision"):
        parts.append(f"in {told['precision']}")
    cost = f"Training took {', '.join(parts)}." if parts else ""
    return f"## What training cost\n\n{' '.join(filter(None, (cost, told.get('recipe'))))}"


def _citing(facts: CardFacts) -> str:
    key = re.sub(r"\W+", "-", facts.repository.partition("/")[2].lower())
    return (
        "## How to cite it\n\n```bibtex\n"
        f"@misc{{{key},\n  title = {{{facts.name}}},\n  author = {{{{The musegen developers}}}},\n"
        f"  howpublished = {{\\url{{{_HUB}/{facts.repository}}}}}\n}}\n"
        "@software{musegen,\n  title = {musegen: composing music with Hugging Face models},\n"
        "  author = {{The musegen developers}},\n  license = {Apache-2.0}\n}\n```\n\n"
        "Name the makers of the training scores as their licences ask; the dataset's card lists them."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no object")
    return found
