"""The main job, end to end, on the Mozart quartets that the music21 wheel carries.

First a piece by each model that ships with the package, so that there is something to hear at once. Then corpus,
tokenizer, a GPT-2 and an LSTM, music from both, and a report: everything a user does, by the functions that a user
would call. Each stage is left in its Hub layout; one that is done is used again, one that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from musegen.errors import CorpusError

SOURCE = "music21:mozart"
VOCAB_SIZE = 1700
SAMPLES, BARS = 8, 16
CONTINUATIONS, OPENING_BARS, CONTINUED_BARS = 2, 4, 12
TEMPERATURE, TOP_P, MAX_TOKENS = 0.9, 0.95, 4096
OPENING_ENSEMBLE = "string quartet"  # as the music that the demo's own models learn from
MODELS: dict[str, dict[str, Any]] = {
    "gpt": {
        "model": "gpt-tiny",
        "model_settings": {"n_layer": 2, "dropout": 0.1},
        "infill": 0.0,
        "block_size": 256,
        "batch_size": 8,
        "steps": 240,
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "warmup": 30,
        "eval_every": 60,
        "save_every": 60,
    },
    "lstm": {
        "model": "lstm-tiny",
        "model_settings": {"dropout": 0.2},
        "infill": 0.0,
        "block_size": 256,
        "batch_size": 8,
        "steps": 240,
        "learning_rate": 4e-3,
        "warmup": 20,
        "eval_every": 60,
        "save_every": 60,
    },
}


def run_demo(out: str | Path = "runs/demo", *, seed: int = 0, progress: bool = True) -> Path:
    """Run all stages and return the path of the report.

    Args:
        out: Folder of the run.
        seed: Of everything that is drawn.
        progress: Show bars and say what is done.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    say = _speaker(progress, started)
    _opening_samples(out / "samples", seed, say, progress)
    splits = _corpus(out / "corpus", say, progress)
    tokenizer = _tokenizer(splits, out / "tokenizer", seed, say, progress)
    curves = {name: _train(name, out, seed, say, progress) for name in MODELS}
    report = _judge(splits, tokenizer, curves, out, seed, say, progress)
    say(f"all done; open {report}")
    return report


def _speaker(progress: bool, started: float):
    def say(text: str) -> None:
        if progress:
            print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    return say


def _opening_samples(folder: Path, seed: int, say, progress: bool) -> None:
    """A piece by each model that ships with the package, with its sheet music, piano roll and sound."""
    from musegen.composing import compose, load_writer
    from musegen.rendering import render_all
    from musegen.sampling import SamplingOptions
    from musegen.shipped import shipped_names
    from musegen.wishes import Wishes

    for name in shipped_names():
        if not (folder / name / f"{name}.mid").is_file():
            options = SamplingOptions(seed=seed, max_tokens=MAX_TOKENS)
            wishes = Wishes(instruments=OPENING_ENSEMBLE)
            piece = compose(*load_writer(name), bars=BARS, wishes=wishes, options=options, progress=progress)[0]
            render_all(piece.score, folder / name, name, title=f"Written by {name}")
        say(f"listen: {folder / name / name}.wav, {BARS} bars by {name}, which ships with musegen")


def _corpus(folder: Path, say, progress: bool):
    from musegen.corpus import build_corpus, load_corpus

    try:
        splits = load_corpus(folder)
        say(f"1/5 corpus: using the one in {folder}")
    except CorpusError:
        say(f"1/5 corpus: reading {SOURCE}")
        say(str(build_corpus([SOURCE], folder, progress=progress)))
        splits = load_corpus(folder)
    for name, rows in splits.items():
        works = ", ".join(sorted({row.split("/")[-1].upper() for row in rows["work"]}))
        say(f"    {name}: {len(rows)} movements, {sum(rows['notes']):,} notes ({works})")
    return splits


def _tokenizer(splits, folder: Path, seed: int, say, progress: bool):
    from musegen.corpus import corpus_scores
    from musegen.tokenizer import load_tokenizer
    from musegen.tokenizer_training import round_trip, train_tokenizer
    from musegen.training import write_json

    record = folder / "round_trip.json"
    if record.is_file():
        say(f"2/5 tokenizer: using the one in {folder}")
        return load_tokenizer(folder)
    say(f"2/5 tokenizer: BPE of {VOCAB_SIZE} ids on the training works")
    train = [score for _, score in corpus_scores(splits["train"])]
    tokenizer = train_tokenizer(train, VOCAB_SIZE, seed=seed, progress=progress)
    tokenizer.save_pretrained(folder)
    measured = round_trip(tokenizer, (pair for rows in splits.values() for pair in corpus_scores(rows)))
    say(str(measured))
    write_json(record, dataclasses.asdict(measured))
    return tokenizer


def _train(name: str, out: Path, seed: int, say, progress: bool) -> list[dict[str, float]]:
    """Train one model, or use it; returns its learning curve."""
    from musegen.training import DONE_FILE, train_from_config
    from musegen.training_config import TrainingConfig

    stage = {"gpt": "3/5 GPT-2", "lstm": "4/5 LSTM"}[name]
    config = TrainingConfig(
        corpus=str(out / "corpus"), tokenizer=str(out / "tokenizer"), out=str(out / name), seed=seed, **MODELS[name]
    )
    done = out / name / DONE_FILE
    if done.is_file():
        record = json.loads(done.read_text(encoding="utf-8"))
        if record["config"] == json.loads(json.dumps(dataclasses.asdict(config))):
            say(f"{stage}: using the trained model in {out / name}")
            return record["history"]
    say(f"{stage}: {config.steps} steps of {config.batch_size} x {config.block_size} tokens")
    result = train_from_config(config, progress=progress)
    if result.resumed_from:
        say(f"    went on from step {result.resumed_from}")
    say(f"    best at step {result.best_step}: {result.bits_per_note:.2f} bits a note on the validation works")
    return result.history


def _judge(splits, tokenizer, curves, out: Path, seed: int, say, progress: bool) -> Path:
    from musegen.composing import load_model
    from musegen.evaluation import SampleOptions, draw_samples, judge_against, measure_likelihood, summary

    say(f"5/5 music: {SAMPLES} pieces of {BARS} bars from each model, and {CONTINUATIONS} continuations")
    options = SampleOptions(SAMPLES, BARS, TEMPERATURE, TOP_P, seed, MAX_TOKENS)
    groups, likelihoods = {}, {}
    extras: dict[str, Any] = {
        "learning_curves": {name: [_row(r) for r in rows] for name, rows in curves.items()},
        "about": _about(splits, tokenizer),
        "pictures": {},
        "audio": {},
    }
    for name in MODELS:
        model, own = load_model(out / name)
        groups[name] = draw_samples(model, own, name, out / "samples" / name, options, progress=progress)
        _continue(model, own, name, splits["test"], out, seed, progress)
        likelihoods[name] = measure_likelihood(model, own, splits["test"], splits["train"], progress=progress)
    _render(groups, out, extras, progress)
    results = judge_against(
        splits,
        groups,
        likelihoods,
        out,
        extras=extras,
        seed=seed,
        progress=progress,
        title="musegen: the demo's two models beside Mozart",
    )
    say(summary(results, out))
    return out / "report.html"


def _continue(model, tokenizer, name: str, rows, out: Path, seed: int, progress: bool) -> None:
    """Go on from the first bars of a movement that no model has seen, and render what comes."""
    from musegen.composing import compose
    from musegen.corpus import corpus_scores
    from musegen.rendering import render_all
    from musegen.sampling import SamplingOptions

    folder = out / "samples" / f"{name}-continued"
    if (folder / f"{name}-continued-{CONTINUATIONS - 1}.mid").is_file():
        return
    source, opening = next(corpus_scores(rows))
    pieces = compose(
        model,
        tokenizer,
        [opening] * CONTINUATIONS,
        bars=CONTINUED_BARS,
        prompt_bars=OPENING_BARS,
        options=SamplingOptions(TEMPERATURE, TOP_P, seed=seed, max_tokens=MAX_TOKENS),
        progress=progress,
    )
    title = f"{source.split(':')[-1]}, bars 1 to {OPENING_BARS}, continued by {name}"
    for i, piece in enumerate(pieces):
        render_all(piece.score, folder, f"{name}-continued-{i}", title=title, prompt_bars=piece.prompt_bars)


def _render(groups, out: Path, extras: dict[str, Any], progress: bool) -> None:
    """Sheet music, piano roll and audio of every sample, beside its MIDI file."""
    from tqdm.auto import tqdm

    from musegen.rendering import render_all

    todo = [(name, piece) for name, pieces in groups.items() for piece in pieces]
    for name, piece in tqdm(todo, desc="pictures and audio", unit="piece", disable=not progress):
        folder = out / "samples" / name
        if (folder / f"{piece.name}-roll.png").is_file():
            continue
        render_all(piece.score, folder, piece.name, title=f"{piece.name}, written by the demo's {name}")


def _row(row: dict[str, float]) -> dict[str, float]:
    return {
        "step": row["step"],
        "train_nats": row["train_nats"],
        "valid_nats": row["validation_nats"],
        "bits_per_note": row["bits_per_note"],
    }


def _about(splits, tokenizer) -> dict[str, str]:
    works = {
        name: ", ".join(sorted({w.split("/")[-1].upper() for w in rows["work"]})) for name, rows in splits.items()
    }
    return {
        "music": "Mozart's string quartets K. 80, 155, 156 and 458 and the exposition of the sonata K. 545, "
        "as the music21 package carries them",
        "works trained on": works["train"],
        "works for choosing the best weights": works["validation"],
        "works held out for this report": works["test"],
        "tokenizer": f"REMI with BPE, {len(tokenizer)} ids",
    }
