"""`musegen evaluate`: what models write and how well they foretell, judged against held-out works.

The one place where the test split is read. Samples are drawn, likelihoods measured, and both given to
`musegen.judging`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musegen.composing import compose, load_model
from musegen.controls import controls_of
from musegen.corpus import corpus_scores, load_corpus
from musegen.errors import ConfigError, CorpusError, RequestError
from musegen.judging import Piece, judge, read_folder
from musegen.layout import StreamLayout
from musegen.likelihood import score_pieces
from musegen.sampling import SamplingOptions
from musegen.scores import SUFFIXES, load_score

BATCH = 8  # pieces sampled at once; on two CPU cores larger batches gain little
SIGNATURE_FILE = "samples.json"


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """The samples of each model.

    Args:
        num: Pieces.
        bars: Of each.
        temperature: See `SamplingOptions`.
        top_p: See `SamplingOptions`.
        seed: Of the first batch; the next takes the next seed.
        max_tokens: Of each; a model that has lost its way fills bars without end.
    """

    num: int = 8
    bars: int = 32
    temperature: float = 1.0
    top_p: float = 0.97
    seed: int = 0
    max_tokens: int = 8192

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
        names: Each a model (see `musegen.pipeline.load_model`) or a folder of score files.
        corpus: Whose training works are what a model may have copied, and whose test works are the measure.
        out: `samples/NAME/*.mid`, `results.json` and `report.html` are written here.
        num: Samples a model.
        bars: Bars a sample.
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
    test = _test_split(splits, corpus)
    for label, name in labels.items():
        if is_score_folder(name):
            groups[label] = read_folder(name)[0]
            continue
        model, tokenizer = load_model(name)
        groups[label] = draw_samples(model, tokenizer, label, out / "samples" / label, options, progress=progress)
        likelihoods[label] = measure_likelihood(model, tokenizer, test, progress=progress)
    results = judge_against(splits, groups, likelihoods, out, seed=seed, progress=progress)
    return summary(results, out)


def is_score_folder(name: str | Path) -> bool:
    """Whether a name is a folder of score files and no model."""
    path = Path(name)
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return any(p.suffix.lower() in SUFFIXES for p in path.iterdir())


def measure_likelihood(model, tokenizer, rows, *, progress: bool = True) -> dict[str, Any]:
    """Nats a token and bits a note on the pieces of a split."""
    pieces = [
        (tokenizer.encode_score(score, controls=controls_of(score, row["composer"])), row["notes"])
        for row, (_, score) in zip(rows, corpus_scores(rows))
    ]
    found = score_pieces(model, pieces, layout=StreamLayout(tokenizer), progress=progress)
    return {
        "bits_per_note": found.bits_per_note,
        "nats_per_token": found.nats_per_token,
        "tokens": found.tokens,
        "notes": found.notes,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


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
            pieces = compose(model, tokenizer, [None] * count, bars=options.bars, options=sampling, progress=progress)
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
    seed: int = 0,
    progress: bool = True,
    title: str = "How well do the models compose?",
) -> dict[str, Any]:
    """Give samples and likelihoods to the judgement, with the pieces of a corpus to judge by."""
    return judge(
        groups,
        train=_pieces(splits["train"]),
        held_out=_pieces(splits["test"]),
        out_dir=out,
        title=title,
        likelihoods=likelihoods,
        extras={"render": render_for_report, **(extras or {})},
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
            lines.append(
                f"{name}: " + (f"{bits:.2f} bits a note on held-out works; " if bits else "") + _bleu_of(group)
            )
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _bleu_of(group: dict[str, Any]) -> str:
    return f"customised BLEU {group['bleu']['mean']:.3f}"


def _pieces(rows) -> list[Piece]:
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
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(options), sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
