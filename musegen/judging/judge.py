"""The judgement: generated music against real held-out music and against baselines, as figures and a page.

Everything is compared at one length in bars, and every figure stands next to the band in which real music that
nobody trained on lies (`musegen.judging.bands`). The figures go to `results.json`, whose keys are explained in
`musegen.judging.results`; `report.html` shows them to people. Both depend on the music and the seed alone: no
time, path or machine is in them.

Units: see `musegen.judging.measures.METRICS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from musegen import notewise
from musegen.judging import baselines, bleu, structure
from musegen.judging.bands import RealMusic
from musegen.judging.figures import auc_band, group_figures, real_figures
from musegen.judging.material import ENOUGH_WORKS, Material, Yardstick, prepare, stand_ins
from musegen.judging.measures import METRICS, Measured
from musegen.judging.ngram import NgramModel
from musegen.judging.pieces import Piece
from musegen.judging.report import write_report
from musegen.judging.results import plain, write_json
from musegen.judging.verdict import add_verdicts

SCHEMA = "musegen judgement 1"
MIN_BASELINE = 8  # pieces of each baseline, where the models have fewer samples
FEW_SAMPLES = 8  # below this, the report says that means are uncertain


def judge(
    groups: dict[str, list[Piece]],
    *,
    train: list[Piece],
    held_out: list[Piece],
    out_dir: str | Path,
    title: str = "How well do the models compose?",
    likelihoods: dict[str, dict] | None = None,
    extras: dict | None = None,
    bars: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Judge generated music and write `results.json`, `report.html` and `plots/*.png`.

    Args:
        groups: Generated samples by the name of the model, or of the folder they come from.
        train: The pieces that the models were trained on: what copies are looked for in.
        held_out: Real pieces of works that the models never saw.
        out_dir: Where to write; created.
        title: Of the page.
        likelihoods: By the name of a group: `bits_per_note`, `nats_per_token` and more, measured elsewhere on
            the held-out pieces.
        extras: What the page shows besides. `learning_curves`: by group, a list of rows with `step` and any of
            `train_nats`, `valid_nats`, `bits_per_note`. `pictures` and `audio`: by group and sample name, PNG,
            JPEG, SVG, WAV, MP3, Ogg or FLAC files as bytes or paths (pictures: one or a list). `render`: a
            function from a `Piece` to a dict of `pictures` and `audio`, called for the median sample of each
            group for which neither was given. `about`: texts by key. `warnings`: sentences to be shown above
            all, such as what could not be read.
        bars: The most that is compared of any piece; by default all that half of the samples of each group have.
        seed: Of baselines, bootstrap and splits.
        progress: Say on standard error what is being done.

    Returns:
        The contents of `results.json`.

    Raises:
        ConfigError: No samples, no training pieces, or no held-out piece that is long enough.
    """
    say = _speaker(progress)
    extras = extras or {}
    out_dir = Path(out_dir)
    material = prepare(groups, train, held_out, bars)
    say(f"{len(material.real)} real excerpts of {material.bars} bars; indexing {len(train)} training pieces")
    tokens = bleu.common_length([notewise.encode_ids(p.score) for ps in material.groups.values() for p in ps])
    yardstick = Yardstick(train, tokens)
    held_ids = [notewise.encode_ids(piece.score) for piece in held_out]
    model = baselines.fit_markov(yardstick.train_ids, held_ids)
    size = max(*map(len, material.groups.values()), MIN_BASELINE)
    made = baselines.make_baselines(train, model, count=size, bars=material.bars, seed=seed)
    say(f"measuring {sum(map(len, material.groups.values()))} samples and {len(made) * size} baseline pieces")
    measured = {name: yardstick.measure(pieces) for name, pieces in {**material.groups, **made}.items()}
    held, held_bleu = yardstick.measure(material.real)
    others = _stand_ins(material, train, tokens, say)
    say("bands, two-sample tests and verdicts")
    real = held + others
    music = RealMusic([m.piece.work for m in real], np.arange(len(real)) < len(held), seed)
    results = {
        "schema": SCHEMA,
        "title": title,
        "seed": seed,
        "setting": {
            "bars": material.bars,
            "bleu_tokens": tokens,
            "lags": structure.LAGS,
            "train_pieces": len(train),
            "train_notes": sum(map(notewise.count_notes, yardstick.train_ids)),
            "held_out_pieces": len(held_out),
            "held_out_works": music.held_out,
            "held_out_excerpts": len(held),
            "stand_in_works": sorted({m.piece.work for m in others}),
            "stand_in_excerpts": len(others),
            "warnings": [*extras.get("warnings", []), *_warnings(material, train, held_out, music, others)],
        },
        "metrics": {m.name: {"label": m.label, "unit": m.unit, "kind": m.kind} for m in METRICS.values()},
        "real": real_figures(held, others, music, held_bleu, size),
        "groups": {},
        "likelihood": _likelihoods(likelihoods or {}, model, held_ids),
        "learning_curves": extras.get("learning_curves", {}),
        "about": extras.get("about", {}),
    }
    aucs = {size: auc_band(real, size, seed) for size in {len(group) for group, _ in measured.values()}}
    for name, (group, group_bleu) in measured.items():
        is_model = name in material.groups
        results["groups"][name] = {
            "role": "model" if is_model else "baseline",
            "label": name if is_model else baselines.LABELS[name],
            **material.fates.get(name, {}),
            **group_figures(group, real, music, group_bleu, seed, aucs[len(group)]),
        }
    add_verdicts(results)
    results = plain(results)
    write_json(results, out_dir / "results.json")
    say("drawing")
    samples = {name: [m.piece for m in group] for name, (group, _) in measured.items()}
    say(f"written: {write_report(results, out_dir, samples=samples, extras=extras)}")
    return results


def _speaker(progress: bool):
    def say(text: str) -> None:
        if progress:
            print(f"judge: {text}", file=sys.stderr, flush=True)

    return say


def _stand_ins(material: Material, train: list[Piece], tokens: int, say) -> list[Measured]:
    works = {piece.work for piece in material.real}
    if len(works) >= ENOUGH_WORKS:
        return []
    say(f"{len(works)} held-out works are few: measuring training works as if they were held out")
    return stand_ins(train, works, material.bars, tokens)


def _warnings(
    material: Material, train: list[Piece], held_out: list[Piece], music: RealMusic, others: list[Measured]
) -> list[str]:
    """What weakens the figures, in words."""
    warnings = []
    shared = sorted({piece.work for piece in train} & {piece.work for piece in held_out})
    if shared:
        names = ", ".join(shared[:5])
        warnings.append(
            f"{len(shared)} of the held-out works are in the training music too ({names}): the bands of "
            "originality are worth nothing, and the likelihoods flatter."
        )
    held, excerpts = len(music.held_out), len(material.real)
    if held < ENOUGH_WORKS:
        text = (
            f"Only {held} work{'' if held == 1 else 's'} held out ({excerpts} excerpts). "
            "What is average real music is uncertain, so the bands are wide and it is easy to be inside them."
        )
        if others:
            works = len({m.piece.work for m in others})
            text += (
                f" How much works differ is learnt from {works} training works as well, each measured as if it "
                "had been held out."
            )
        elif not music.knows_works:
            text += (
                " And with no second work, nothing shows how works differ: the bands only tell how passages do, "
                "and a figure outside them proves little."
            )
        warnings.append(text + f" With {ENOUGH_WORKS} works or more held out, the judgement would be firm.")
    smallest = min(map(len, material.groups.values()))
    if smallest < FEW_SAMPLES:
        warnings.append(
            f"Only {smallest} sample{'' if smallest == 1 else 's'} of a model: its means are uncertain, and the "
            "bands, which allow for that, wide."
        )
    return warnings


def _likelihoods(given: dict[str, dict], model: NgramModel, held_ids: list[np.ndarray]) -> dict:
    """What was measured elsewhere, and the n-gram model's on the same music."""
    markov = {"bits_per_note": model.bits_per_note(held_ids), "order": model.order}
    return {**{name: dict(values) for name, values in given.items()}, "markov": markov}
