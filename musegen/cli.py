"""The `musegen` command. Heavy imports happen inside the verbs, so that help answers at once.

Every `MusegenError` becomes one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from musegen.errors import ConfigError, MusegenError, RequestError
from musegen.hub.commands import verbs as publish_app

app = typer.Typer(
    name="musegen",
    help="Compose music with Hugging Face models: scores to corpus, tokenizer, models, music, judgement.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="Build and look at corpora.", no_args_is_help=True, rich_markup_mode=None)
tokenizer_app = typer.Typer(help="Train tokenizers.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(corpus_app, name="corpus")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(publish_app, name="publish")

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")]


WRITING_VERBS = ("generate", "infill", "vary", "export", "app")


def main() -> None:
    """Entry point: run a verb, and turn what a user can cure into one line and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait cost a shared machine two thirds of its speed; sleeping ones cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(verb in sys.argv[1:2] for verb in WRITING_VERBS):
        # Here they wait a moment first: steps are short, and a thread that sleeps at once makes them twice as long.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app(prog_name="musegen")
    except MusegenError as error:
        print(f"musegen: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("musegen: interrupted; the same command goes on from what is done", file=sys.stderr)
        sys.exit(130)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
):
    """Run the main job on embedded Mozart: corpus, tokenizer, two models, music, report."""
    from musegen.demo import run_demo

    report = run_demo(out, seed=seed)
    print(f"report: {report}")


@corpus_app.command("build")
def corpus_build(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, archives (.zip .tar .tar.gz), .parquet, music21:PATH, hub:ORG/NAME."),
    ] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="Another source; may recur.")] = None,
    out: Out = Path("corpus"),
    validation: Annotated[float, typer.Option(help="Share of the notes for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the notes for testing.")] = 0.1,
    test_work: Annotated[list[str] | None, typer.Option(help="A work to test on, * for any; may recur.")] = None,
    validation_work: Annotated[list[str] | None, typer.Option(help="A work for validation; may recur.")] = None,
    test_composer: Annotated[list[str] | None, typer.Option(help="Test on all works of; may recur.")] = None,
    validation_composer: Annotated[list[str] | None, typer.Option(help="Validate on all works of.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as in docs/corpus.md; may recur.")] = None,
    limits: Annotated[Path | None, typer.Option(help="A YAML file of limits; --limit goes over it.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenize too: a tokenizer's folder, or remi.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; one a core by default.")] = None,
    engine: Annotated[str, typer.Option(help="Where files are read: local, or ray (docs/scale.md).")] = "local",
    plain_card: Annotated[bool, typer.Option("--plain-card", help="Without the leakage audit and picture.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what an interrupted build left.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if any file cannot be used.")] = False,
    seed: Seed = 0,
):
    """Read scores into a corpus, split by work. An interrupted build goes on when the same command is given again."""
    from musegen.corpus import BuildLimits, SplitOptions, build_corpus

    told: list[str] = []

    def finish(folder: Path) -> None:
        from musegen.corpus_card import write_card

        told.append(write_card(folder, name=out.resolve().name, repository=out.resolve().name))

    if not 0 <= validation < 1 or not 0 <= test < 1 or validation + test >= 1:
        raise RequestError("--validation and --test: shares from 0 to below 1 that leave something to train on")
    named = [*(sources or []), *(source or [])]
    if not named:
        raise RequestError("corpus build: name a file, a folder, or a source such as music21:mozart")
    settings = {**(_yaml_settings(limits) if limits else {}), **_overrides(limit or [], "--limit")}
    try:
        report = build_corpus(
            named,
            out,
            split=SplitOptions(
                validation,
                test,
                seed,
                tuple(test_work or ()),
                tuple(validation_work or ()),
                tuple(test_composer or ()),
                tuple(validation_composer or ()),
            ),
            limits=BuildLimits.from_settings(settings),
            tokenizer=tokenizer,
            workers=workers,
            engine=engine,
            restart=restart,
            finish=None if plain_card else finish,
        )
    except KeyboardInterrupt:
        print(
            f"\nmusegen: interrupted; what was read is kept in {out}.build, and the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(report)
    print(f"corpus: {out}")
    print(*[line for text in told for line in text.splitlines()[1:]], sep="\n")
    if report.bad:
        print(f"musegen: warning: {report.warning()}", file=sys.stderr)
    if report.bad and strict:
        raise typer.Exit(1)


@corpus_app.command("show")
def corpus_show(
    folder: Annotated[Path, typer.Argument(help="A corpus.")],
    plot: Annotated[
        Path | None, typer.Option(help="Picture to write, .png or .svg; contents.png in the corpus.")
    ] = None,
):
    """Print and plot what is inside a corpus."""
    from musegen.corpus_plots import PICTURE, draw
    from musegen.corpus_stats import describe, summarize

    summary = summarize(folder)
    print(describe(summary))
    path = plot or folder / PICTURE
    draw(summary, path, folder.resolve().name)
    print(f"picture: {path}")


@corpus_app.command("card")
def corpus_card(
    folder: Annotated[Path, typer.Argument(help="A corpus.")],
    name: Annotated[str, typer.Option(help="Title; the folder's name by default.")] = "",
    repository: Annotated[str, typer.Option("--repo", help="Name on the Hub, such as me/scores.")] = "",
):
    """Audit a corpus for leakage and write its dataset card."""
    from musegen.corpus_card import write_card

    print(write_card(folder, name=name, repository=repository))


@tokenizer_app.command("train")
def tokenizer_train(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    vocab_size: Annotated[int, typer.Option(help="Ids in all.")] = 2000,
    out: Out = Path("tokenizer"),
    seed: Seed = 0,
):
    """Train BPE on the training split and measure the round trip of all splits."""
    from musegen.corpus import corpus_scores, load_corpus
    from musegen.tokenizer_training import composers_of, round_trip, train_tokenizer

    splits = load_corpus(corpus)
    composers = composers_of(splits["train"])
    scores = [score for _, score in corpus_scores(splits["train"])]
    tokenizer = train_tokenizer(scores, vocab_size, composers=composers, seed=seed)
    for name, rows in splits.items():
        print(f"{name}: {round_trip(tokenizer, corpus_scores(rows))}")
    tokenizer.save_pretrained(out)
    print(f"tokenizer: {out}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; see docs/training.md.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="name=value, over the file's.")] = None,
):
    """Train a model, or go on with an interrupted training."""
    from musegen.training import train_from_config
    from musegen.training_config import TrainingConfig

    result = train_from_config(TrainingConfig.from_yaml(config, **_overrides(settings or [])))
    if result.resumed_from:
        print(f"went on from step {result.resumed_from}")
    print(f"best at step {result.best_step}: {result.bits_per_note:.3f} bits a note on the validation works")


Model = Annotated[str, typer.Argument(help="A folder, a shipped name, or a Hub name.")]
Num = Annotated[int, typer.Option(help="Pieces.")]
Temperature = Annotated[float | None, typer.Option(help="Above 1 bolder, below 1 safer; by default the model's own.")]
TopP = Annotated[
    float | None, typer.Option(help="Draw from the likeliest ids of this probability; by default the model's own.")
]
Composer = Annotated[
    str | None, typer.Option(help="Whose style; by default the one that the model was tuned to, 'any' for none.")
]
Key = Annotated[str | None, typer.Option(help="Such as 'D major', 'f# minor', 'Bb'.")]
Instruments = Annotated[str | None, typer.Option(help="Such as piano, 'string quartet', 'flute, harp'.")]
Form = Annotated[
    str | None, typer.Option(help="Sections, such as \"A A' B A'\", A8 B16 A, or minuet; what returns is the same.")
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Engrave sheet music.")]
Roll = Annotated[bool, typer.Option("--roll", help="Draw a piano roll.")]
Audio = Annotated[bool, typer.Option("--audio", help="Render audio.")]


@app.command()
def generate(
    model: Model,
    prompt: Annotated[Path | None, typer.Option(help="A score to go on from.")] = None,
    prompt_bars: Annotated[int, typer.Option(help="Bars of the prompt to keep.")] = 4,
    bars: Annotated[int | None, typer.Option(help="New bars, 16 by default; 0 lets the model end.")] = None,
    form: Form = None,
    num: Num = 1,
    composer: Composer = None,
    key: Key = None,
    time_signature: Annotated[str | None, typer.Option(help="Such as 3/4.")] = None,
    tempo: Annotated[float | None, typer.Option(help="Quarter notes a minute.")] = None,
    instruments: Instruments = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many ids at the most; 0 for all.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Least probability, as a share of the likeliest id's.")] = None,
    repetition: Annotated[
        float | None, typer.Option(help="Nats against standing still; else the model's own.")
    ] = None,
    seed: Seed = 0,
    out: Out = Path("music"),
    sheet: Sheet = False,
    roll: Roll = False,
    audio: Audio = False,
):
    """Write music: MIDI files, and pictures and sound if asked for."""
    from musegen.composing import compose, load_writer
    from musegen.sampling import SamplingOptions
    from musegen.scores import load_score
    from musegen.wishes import Wishes

    _check_num(num)
    options = SamplingOptions(temperature, top_p, top_k, seed, min_p=min_p, repetition=repetition)
    wishes = Wishes(composer, key, time_signature, tempo, instruments)
    if form and bars is not None:
        raise RequestError("--bars: a --form says how many bars there are, eight for a letter without a number")
    opening = load_score(prompt).score if prompt else None
    pieces = compose(
        *load_writer(model), [opening] * num, bars=16 if bars is None else bars or None, form=form,
        prompt_bars=prompt_bars if prompt else None, wishes=wishes, options=options, progress=True,
    )  # fmt: skip
    _write_pieces(pieces, out, f"{Path(model).name}-{seed}", sheet=sheet, roll=roll, audio=audio)


@app.command()
def infill(
    model: Model,
    score: Annotated[Path, typer.Argument(help="The piece.")],
    bars: Annotated[str, typer.Option(help="Bars to write anew, such as 5-8.")],
    num: Num = 1,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    out: Out = Path("music"),
    sheet: Sheet = False,
    roll: Roll = False,
    audio: Audio = False,
):
    """Write some bars of a piece anew, knowing what comes before and after them."""
    from musegen.composing import infill as fill
    from musegen.composing import load_writer
    from musegen.sampling import SamplingOptions
    from musegen.scores import load_score

    _check_num(num)
    first, _, last = bars.partition("-")
    if not first.strip().isdigit() or not (last or first).strip().isdigit():
        raise RequestError(f"--bars: a bar or two, such as 5 or 5-8, not {bars!r}")
    options = SamplingOptions(temperature=temperature, top_p=top_p, seed=seed)
    piece = load_score(score).score
    made = fill(*load_writer(model), piece, int(first), int(last or first), num=num, options=options, progress=True)
    _write_pieces(made, out, f"{score.stem}-infill-{seed}", sheet=sheet, roll=roll, audio=audio)


@app.command()
def vary(
    model: Model,
    score: Annotated[Path, typer.Argument(help="The piece.")],
    keep: Annotated[str, typer.Option(help="Instruments that stay note for note, such as violin.")],
    num: Num = 1,
    instruments: Instruments = None,
    composer: Composer = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    out: Out = Path("music"),
    sheet: Sheet = False,
    roll: Roll = False,
    audio: Audio = False,
):
    """Keep some instruments of a piece and write the others anew."""
    from musegen.composing import load_writer
    from musegen.composing import vary as write_others
    from musegen.sampling import SamplingOptions
    from musegen.scores import load_score
    from musegen.wishes import Wishes

    _check_num(num)
    options = SamplingOptions(temperature=temperature, top_p=top_p, seed=seed)
    wishes = Wishes(composer, instruments=instruments)
    piece = load_score(score).score
    made = write_others(*load_writer(model), piece, keep, num=num, wishes=wishes, options=options, progress=True)
    _write_pieces(made, out, f"{score.stem}-vary-{seed}", sheet=sheet, roll=roll, audio=audio)


def _check_num(num: int) -> None:
    if not 1 <= num <= 256:
        raise RequestError(f"--num: from 1 to 256, not {num}")


def _write_pieces(pieces, out: Path, name: str, **kinds: bool) -> None:
    """Write each piece and print the paths; rendering is imported only if something is to be drawn or heard."""
    if any(kinds.values()):
        from musegen.rendering import render_all

        for i, piece in enumerate(pieces):
            print(
                *render_all(piece.score, out, f"{name}-{i}", prompt_bars=piece.prompt_bars, **kinds).values(), sep="\n"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    for i, piece in enumerate(pieces):
        path = out / f"{name}-{i}.mid"
        aside = path.with_suffix(".partial")
        aside.write_bytes(piece.midi)
        aside.replace(path)
        print(path)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Models, or folders of MIDI files.")],
    corpus: Annotated[Path, typer.Option(help="The corpus whose test works are the measure.")],
    out: Out = Path("evaluation"),
    num: Annotated[int, typer.Option(help="Samples a model.")] = 8,
    bars: Annotated[int, typer.Option(help="Bars a sample.")] = 32,
    seed: Seed = 0,
):
    """Judge models, or music in folders, against held-out works."""
    from musegen.evaluation import evaluate_models

    print(evaluate_models(models, corpus, out, num=num, bars=bars, seed=seed))


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="A score of any kind that is read here.")],
    out: Out = Path("rendered"),
):
    """Make sheet music, a piano roll and audio of a score."""
    from musegen.rendering import render_all
    from musegen.scores import load_score

    loaded = load_score(file)
    files = render_all(loaded.score, out, file.stem, title=loaded.about.get("title"))
    print(*files.values(), sep="\n")


@app.command()
def export(
    model: Model,
    out: Out,
    check: Annotated[bool, typer.Option("--check", help="Decode with both, compare tokens and speed.")] = False,
):
    """Write a model as ONNX, with its tokenizer and a README to run it from."""
    from musegen.exporting import check_export, export_model

    print(f"exported: {export_model(model, out)}")
    if check:
        found = check_export(model, out)
        print(found)
        if not found.passed:
            raise typer.Exit(1)


@app.command("app")
def serve_page(
    model: Annotated[list[str] | None, typer.Option(help="Another model, a folder or Hub name; may recur.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="To judge against; music21's Mozart by default.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default the first free one from 7860.")] = None,
):
    """Serve a page on which to compose, see, hear and judge music."""
    from musegen.app import launch_app

    launch_app(model or [], corpus=corpus, host=host, port=port)


def _overrides(settings: list[str], option: str = "--set") -> dict:
    import yaml

    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{option} {setting}: write it as name=value")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{option} {setting}: the value cannot be read") from None
    return values


def _yaml_settings(path: Path) -> dict:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: settings are needed, one NAME: VALUE a line")
    return found


if __name__ == "__main__":
    main()
