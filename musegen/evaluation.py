"""`musegen evaluate`: what models write and how well they foretell, judged against held-out works.

The one place where the test split is read. Samples are drawn, likelihoods measured, and both given to
`musegen.judging`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musegen.composing import compose, load_model
from musegen.controls import controls_of
from musegen.corpus import corpus_scores, load_corpus
from musegen.errors import ConfigError, CorpusError, RequestError, ScoreError
from musegen.judging import Piece, judge, read_folder, score_paths
from musegen.judging.ngram import NgramModel, max_order
from musegen.judging.verdict import number
from musegen.layout import StreamLayout
from musegen.likelihood import score_pieces
from musegen.sampling import SamplingOptions
from musegen.scores import load_score

BATCH = 8  # pieces sampled at once; on two CPU cores larger batches gain little
SIGNATURE_FILE = "samples.json"
# What is told on the command line.
SUMMARY = (
    "copied_notes_transposed",
    "note_9grams",
    "music_bleu",
    "similarity_error",
    "auc",
)
MARKOV_ORDERS = 6  # are tried, from 1 on
NAMED = 5  # unreadable files that a warning names


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """The samples of each model.

    Args:
        num: Pieces.
        bars: Of each.
        temperature: See `SamplingOptions`; by default each model's own, as in the next.
        top_p: See `SamplingOptions`.
        seed: Of the first batch; the next takes the next seed.
        max_tokens: Of each; a model that has lost its way fills bars without end.
        form: Sections (`musegen.forms.parse_form`); they say how many bars each has, and `bars` does not count.
    """

    num: int = 8
    bars: int = 32
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    max_tokens: int = 8192
    form: str | None = None

    def __post_init__(self):
        if not 2 <= self.num <= 1000:
            raise RequestError(f"num: from 2 to 1000 samples, not {self.num}; a judgement needs more than one")
        if not 4 <= self.bars <= 2000:
            raise RequestError(f"bars: from 4 to 2000, not {self.bars}")


def evaluate_models(
    names: Sequence[str],
    corpus: str | Path,
    out: str | Path,
    *,
    num: int = 8,
    bars: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> str:
    """Judge models, or folders of scores, and write the report.

    Args:
        names: Each a model (see `musegen.pipeline.load_model`) or a folder of score files, with folders in it.
        corpus: Whose training works are what a model may have copied, and whose test works are the measure.
        out: `samples/NAME/*.mid`, `results.json` and `report.html` are written here.
        num: Samples a model.
        bars: Bars a sample; of scores in folders so many are judged, from the first on.
        seed: Of sampling and of all that the judgement draws.
        progress: Show bars.

    Returns:
        The verdicts and where the report lies.
    """
    options = SampleOptions(num=num, bars=bars, seed=seed)
    out = Path(out)
    splits = load_corpus(corpus)
    labels = _labels(names)
    groups: dict[str, list[Piece]] = {}
    likelihoods: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    test = _test_split(splits, corpus)
    for label, name in labels.items():
        if is_score_folder(name):
            groups[label], refused = read_folder(name)
            if refused:
                warnings.append(_refused(label, len(groups[label]), refused))
            continue
        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise ConfigError(f"{name}: neither a model, for it has no config.json, nor a folder with scores in it")
        model, tokenizer = load_model(name)
        groups[label] = draw_samples(model, tokenizer, label, out / "samples" / label, options, progress=progress)
        likelihoods[label] = measure_likelihood(model, tokenizer, test, splits["train"], progress=progress)
    extras = {"warnings": warnings}
    results = judge_against(splits, groups, likelihoods, out, extras=extras, bars=bars, seed=seed, progress=progress)
    return summary(results, out)


def is_score_folder(name: str | Path) -> bool:
    """Whether a name is a folder of score files and no model."""
    path = Path(name)
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return bool(score_paths(path))


def measure_likelihood(model, tokenizer, rows, train=None, *, progress: bool = True) -> dict[str, Any]:
    """Nats a token and bits a note on the pieces of a split.

    Args:
        model: A causal language model over the tokenizer's ids.
        tokenizer: Its tokenizer.
        rows: The held-out split.
        train: The training split, for the baseline that a model must beat: an n-gram model with back-off on the same
            tokens, whose figure is `markov_bits_per_note`. None leaves it out.
        progress: Show a bar.
    """
    pieces = list(encoded_pieces(tokenizer, rows))
    found = score_pieces(model, pieces, layout=StreamLayout(tokenizer), progress=progress)
    markov = {} if train is None else _markov_on(tokenizer, train, [ids for ids, _ in pieces], found.notes, progress)
    return {
        **markov,
        "bits_per_note": found.bits_per_note,
        "nats_per_token": found.nats_per_token,
        "tokens": found.tokens,
        "notes": found.notes,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def encoded_pieces(tokenizer, rows) -> Iterator[tuple[list[int], int]]:
    """Ids, with BOS, EOS and the header that training has, and the number of notes of each piece of a split.

    Args:
        tokenizer: A `MusicTokenizer`.
        rows: Of a split of `load_corpus`.
    """
    for row, (_, score) in zip(rows, corpus_scores(rows)):
        yield tokenizer.encode_score(score, controls=controls_of(score, row.get("composer") or "")), row["notes"]


def _markov_on(tokenizer, train, held_out: list, notes: int, progress: bool) -> dict[str, Any]:
    """The n-gram model on a tokenizer's tokens, of the order that foretells the held-out pieces best."""
    from tqdm.auto import tqdm

    pieces = tqdm(
        encoded_pieces(tokenizer, train), "n-grams", len(train), unit="piece", disable=not progress, leave=False
    )
    known = [np.asarray(ids[1:]) for ids, _ in pieces]  # BOS is given, not foretold
    bits = {}
    for order in range(1, min(MARKOV_ORDERS, max_order(len(tokenizer))) + 1):
        model = NgramModel(known, order, len(tokenizer))
        bits[order] = sum(model.bits(np.asarray(ids[1:])) for ids in held_out)
    best = min(bits, key=bits.get)
    return {"markov_bits_per_note": bits[best] / max(notes, 1), "markov_order": best}


def draw_samples(
    model, tokenizer, label: str, folder: Path, options: SampleOptions, *, progress: bool = True
) -> list[Piece]:
    """Sample pieces from nothing into a folder of MIDI files, or take those that an equal run left there."""
    signature = _signature(model, options)
    known = folder / SIGNATURE_FILE
    if not known.is_file() or json.loads(known.read_text(encoding="utf-8")).get("signature") != signature:
        aside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for first in range(0, options.num, BATCH):
            count = min(BATCH, options.num - first)
            seed = options.seed + first // BATCH
            sampling = SamplingOptions(options.temperature, options.top_p, seed=seed, max_tokens=options.max_tokens)
            pieces = compose(
                model,
                tokenizer,
                [None] * count,
                bars=options.bars,
                form=options.form,
                options=sampling,
                progress=progress,
            )
            for i, piece in enumerate(pieces, first):
                (aside / f"{label}-{i}.mid").write_bytes(piece.midi)
        (aside / SIGNATURE_FILE).write_text(
            json.dumps({"signature": signature, **dataclasses.asdict(options)}), encoding="utf-8"
        )
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    paths = [folder / f"{label}-{i}.mid" for i in range(options.num)]
    return [Piece(path.stem, path.stem, load_score(path).score) for path in paths]


def judge_against(
    splits,
    groups: dict[str, list[Piece]],
    likelihoods: dict[str, dict[str, Any]],
    out: Path,
    *,
    extras: dict[str, Any] | None = None,
    bars: int | None = None,
    seed: int = 0,
    progress: bool = True,
    title: str = "How well do the models compose?",
) -> dict[str, Any]:
    """Give samples and likelihoods to the judgement, with the pieces of a corpus to judge by."""
    return judge(
        groups,
        train=corpus_pieces(splits["train"]),
        held_out=corpus_pieces(splits["test"]),
        out_dir=out,
        title=title,
        likelihoods=likelihoods,
        extras={"render": render_for_report, **(extras or {})},
        bars=bars,
        seed=seed,
        progress=progress,
    )


def render_for_report(piece: Piece) -> dict[str, Any]:
    """Pictures and audio of a piece, as the report embeds them."""
    import tempfile

    from musegen.rendering import render_all

    with tempfile.TemporaryDirectory() as folder:
        files = render_all(piece.score, Path(folder), "piece", title=piece.name, audio_format="mp3", max_pages=1)
        pictures = [files[key].read_bytes() for key in ("sheet", "roll") if key in files]
        return {"pictures": pictures, "audio": files["audio"].read_bytes()}


def summary(results: dict[str, Any], out: Path) -> str:
    """The verdicts in a few lines."""
    lines = []
    for name, group in results["groups"].items():
        if group["role"] == "model":
            bits = results["likelihood"].get(name, {}).get("bits_per_note")
            lines.append(f"{name}: {group['verdict']['headline']}")
            lines += [f"  {_told(row)}" for row in group["verdict"]["told"] if row["name"] in SUMMARY]
            lines.append(f"  similarity error at lags of 4 to 32 bars: {number(group['similarity']['error_of_form'])}")
            lines += [f"  {bits:.2f} bits a note on held-out works"] if bits else []
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _told(row: dict[str, Any]) -> str:
    text = f"{row['label']}: {number(row['value'])}, {row['words']}"
    if row["high"] is None:
        return text
    return f"{text} (real music {number(row['low'])} to {number(row['high'])})"


def _refused(label: str, read: int, refused: list[ScoreError]) -> str:
    """What could not be read of a folder, in words."""
    named = "; ".join(f"{Path(error.source).name} ({error.reason})" for error in refused[:NAMED])
    more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    of = f"{len(refused)} of the {read + len(refused)} scores in {label}"
    return f"{of} could not be read and are not judged: {named}{more}."


def corpus_pieces(rows) -> list[Piece]:
    """The pieces of a split, as the judgement takes them."""
    return [Piece(name, row["work"], score) for row, (name, score) in zip(rows, corpus_scores(rows))]


def _test_split(splits, corpus: str | Path):
    if "test" not in splits:
        raise CorpusError(f"{corpus}: no test split; a corpus of three works or more has one")
    return splits["test"]


def _labels(names: Sequence[str]) -> dict[str, str]:
    if not names:
        raise ConfigError("name a model or a folder of scores to judge")
    labels: dict[str, str] = {}
    for name in names:
        label = Path(name).name or str(name)
        while label in labels:
            label += "+"
        labels[label] = str(name)
    return labels


def _signature(model, options: SampleOptions) -> str:
    """By which samples are known to be of these very weights and options."""
    drawn = dataclasses.asdict(SamplingOptions(options.temperature, options.top_p).filled(model))
    told = [dataclasses.asdict(options), drawn, getattr(model.config, "task_specific_params", None)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
