"""The verdict in words, for people who neither program nor read statistics.

Every sentence is made from the figures of `results.json` alone, so that words and figures cannot differ.
"""

from __future__ import annotations

from musegen.judging.bands import ABOVE, BELOW, INSIDE
from musegen.judging.measures import BLEU, METRICS, ORIGINALITY
from musegen.judging.structure import RANGES

# AUC below which a classifier is said to find it hard, and from which to find it easy.
HARD, EASY = 0.75, 0.9
# From here on an AUC that is not sure is a doubt, not a success.
CHANCE = 0.65
# Share of notes inside long copied spans from which music is called a copy; below, it is a matter to check.
COPIES_SHARE = 0.1
_NAMED = 3  # features named in a sentence
COPYING = tuple(name for name, metric in METRICS.items() if metric.kind == ORIGINALITY)
_BLEU_WORDS = {
    INSIDE: "inside the band of real held-out music ({})",
    BELOW: "below real held-out music ({}): less of it is to be found in the training music",
    ABOVE: "above real held-out music ({}): check for copying",
}
STRUCTURES = tuple(f"structureness_{name}" for name in RANGES)
# Runs that are long enough to be somebody's: 9 tokens are 3 to 4 notes, and idioms of a style are that long.
_RUNS = ("copied_notes_exact", "copied_notes_transposed", "copied_share", "note_9grams")


def number(value: float | None) -> str:
    """A figure as people write it: three significant digits, no exponent."""
    if value is None or value != value:
        return "\N{EN DASH}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def add_verdicts(results: dict) -> None:
    """Give every group a `verdict` (`headline`, `sentences`, `copying`) and every model what it `beats`.

    Args:
        results: As `musegen.judging.judge` builds them; altered.
    """
    groups = results["groups"]
    for name, group in groups.items():
        group["beats"] = _beats(name, results) if group["role"] == "model" else {}
    for name, group in groups.items():
        copying = copied_by(group)
        sentences = [_originality(group, copying), _bleu(group), _classifier(group), _bands(group), _structure(group)]
        if group["role"] == "model":
            sentences += [_baselines(group), _likelihood(name, results)]
        group["verdict"] = {
            "headline": headline(group, copying),
            "sentences": [sentence for sentence in sentences if sentence],
            "copying": copying,
            "told": told(group),
        }


def told(group: dict) -> list[dict]:
    """The figures that decide, each with real music's and whether it is inside, below or above.

    Args:
        group: One of the groups of `results.json`.
    """
    rows = []
    for name in (*COPYING, *STRUCTURES):
        figure = group["metrics"][name]
        rows.append((name, METRICS[name].label, figure["mean"], figure["band"], figure["place"]))
        if name == COPYING[-1]:
            similarity, distance, test = group["similarity"], group["distance"], group["two_sample"]
            limits = {"mean": similarity["error_of_real"], "low": 0.0, "high": similarity["error_limit"]}
            label = "similarity error of bars by lag"
            rows.append(("similarity_error", label, similarity["error"], limits, similarity["place"]))
    limits = {"mean": None, "low": 0.0, "high": distance["high"]}
    label = "distance of sound and structure, deviations"
    rows.append(("distance", label, distance["value"], limits, distance["place"]))
    rows.append(("auc", "classifier is right (AUC), goal 0.5", test["auc"], test["band"], test["place"]))
    return [
        {
            "name": name,
            "label": label,
            "value": value,
            "real": band["mean"],
            "low": band["low"],
            "high": band["high"],
            "words": place_words(place, name in COPYING),
        }
        for name, label, value, band, place in rows
    ]


def place_words(place: str, originality: bool) -> str:
    """What a model is told of one figure.

    Args:
        place: `inside`, `below`, `above` or `undefined`.
        originality: Whether the figure measures copying.
    """
    if place not in (INSIDE, BELOW, ABOVE):
        return "not known"
    return "above: check for copying" if originality and place == ABOVE else place


def copied_by(group: dict) -> list[str]:
    """The measures of copying in which a group lies above real music."""
    return [name for name in COPYING if group["metrics"][name]["place"] == ABOVE]


def headline(group: dict, copying: list[str]) -> str:
    """A verdict of one line."""
    share = group["metrics"]["copied_share"]
    if share["place"] == ABOVE and share["mean"] >= COPIES_SHARE:
        return "It copies the training music."
    check = " Check for copying." if _copies_runs(group, copying) else ""
    return _told_apart(group["two_sample"]) + check


def _copies_runs(group: dict, copying: list[str]) -> bool:
    """Whether runs of notes, not only short n-grams of tokens, are shared more than in real music."""
    return bool(set(copying) & set(_RUNS) or group["originality"]["to_check"])


def _told_apart(test: dict) -> str:
    auc = test["auc"]
    if not _known(auc):
        return "Too few pieces for a verdict."
    if test["low"] <= 0.5:
        unsure = "There are too few pieces to tell it from real music with certainty."
        return unsure if auc >= CHANCE else "These figures cannot tell it from real music."
    if auc < HARD:
        return "It is hard to tell from real music."
    return "It can be told from real music." if auc < EASY else "It is easily told from real music."


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _bars(bars) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]} to {bars[1]}"


def _key(semitones: int) -> str:
    if not semitones:
        return "at the same pitch"
    plural = "" if abs(semitones) == 1 else "s"
    return f"{abs(semitones)} semitone{plural} {'higher' if semitones > 0 else 'lower'}"


def _originality(group: dict, copying: list[str]) -> str:
    found = group["originality"]
    span, limit = found["longest"], found["real_longest"]
    if not span["notes"]:
        return "Not two notes in a row stand in the training music."
    text = (
        f"The longest span that stands in the training music, in any key, has {span['notes']} notes "
        f"({span['sample']}, {_bars(span['sample_bars'])}; {span['piece']}, {_bars(span['bars'])}, "
        f"{_key(span['transposition'])}); in real music that was not trained on it has up to {limit}."
    )
    if found["to_check"]:
        count = len(found["to_check"])
        text += f" {count} of {group['samples']} samples {'copies' if count == 1 else 'copy'} more than that."
    if copying:
        text += f" Above real music, check for copying: {', '.join(METRICS[name].label for name in copying)}."
        if not _copies_runs(group, copying):
            text += " Its runs of notes are no longer than real music's, so this may be idiom only."
    elif not found["to_check"]:
        text += " It copies no more than real music does."
    return text


def _bleu(group: dict) -> str:
    figure = group["metrics"][BLEU]
    if figure["place"] not in _BLEU_WORDS:
        return ""
    mean, low, high = (number(figure["band"][key]) for key in ("mean", "low", "high"))
    return (
        f"Its customised BLEU is {number(figure['mean'])}, {_BLEU_WORDS[figure['place']].format(f'{low} to {high}')}; "
        f"held-out music itself scores {mean}."
    )


def _classifier(group: dict) -> str:
    test = group["two_sample"]
    if not _known(test["auc"]):
        return "There are too few pieces to train a classifier."
    hits = round(100 * test["auc"])
    text = (
        f"Of one sample and one real excerpt, a classifier picks the right one as generated {hits} times in 100 "
        f"(50 is chance; the figure lies between {round(100 * test['low'])} and {round(100 * test['high'])} "
        "with 95 % confidence)."
    )
    band = test["band"]
    if _known(band["high"]):
        text += (
            f" Of real works told from each other in the same way, it picks {round(100 * band['mean'])}, and up to "
            f"{round(100 * band['high'])}."
        )
    if not test["grouped"]:
        text += " All real excerpts are from one work, which the classifier may simply have recognised."
    return text


def _bands(group: dict) -> str:
    """How many figures are inside, and the most telling of those that are not."""
    test = group["two_sample"]
    text = f"{group['inside']} of {group['judged']} figures of sound and structure lie where real music's do"
    expected = round(0.05 * group["judged"])
    text += f" (of real music, about {expected} would lie outside by chance)."
    outside = []
    for give_away in test["give_aways"]:
        figure = group["metrics"][give_away["feature"]]
        if figure["place"] in (ABOVE, BELOW):
            metric = METRICS[give_away["feature"]]
            words = metric.high if figure["place"] == ABOVE else metric.low
            band = f"{number(figure['band']['low'])} to {number(figure['band']['high'])}"
            outside.append(f"it {words} ({metric.label} {number(figure['mean'])}; real music {band})")
    if outside:
        text += " What gives it away most: " + "; ".join(outside[:_NAMED]) + "."
    return text


def _structure(group: dict) -> str:
    found = group["similarity"]
    if not _known(found["error"]) or not _known(found["error_limit"]):
        return ""
    inside = found["place"] != ABOVE
    return (
        f"How bars resemble earlier bars differs from real music by {number(found['error'])} on average; real "
        f"excerpts differ among themselves by up to {number(found['error_limit'])}"
        + ("." if inside else ", so that its repetition is not that of real music.")
    )


def _markov_bits(name: str, results: dict) -> float | None:
    """Bits a note of the n-gram model: on the model's own tokens or on notewise ones, whichever needs fewer."""
    bits = results["likelihood"]
    found = (bits["markov"]["bits_per_note"], bits.get(name, {}).get("markov_bits_per_note"))
    return min(filter(_known, found), default=None)


def _beats(name: str, results: dict) -> dict:
    """Whether a model is better than each baseline where that baseline is weak; None where it is not known."""
    groups = results["groups"]
    me, bits = groups[name], results["likelihood"]

    def less(mine, theirs):
        return bool(mine < theirs) if _known(mine) and _known(theirs) else None

    def nearer(baseline: str):
        return less(me["distance"]["value"], groups[baseline]["distance"]["value"])

    copies = less(
        me["metrics"]["copied_notes_transposed"]["mean"],
        groups["copy_machine"]["metrics"]["copied_notes_transposed"]["low"],
    )
    return {
        "markov_likelihood": less(bits.get(name, {}).get("bits_per_note"), _markov_bits(name, results)),
        "markov": nearer("markov"),
        "random_in_key": nearer("random_in_key"),
        "shuffled_bars": less(me["similarity"]["error"], groups["shuffled_bars"]["similarity"]["error"]),
        "copy_machine": copies and not _copies_runs(me, copied_by(me)),
    }


BEATS_WORDS = {
    "markov_likelihood": "foretells held-out music better than the Markov model",
    "markov": "sounds more like real music than the Markov model",
    "random_in_key": "sounds more like real music than random notes in key",
    "shuffled_bars": "repeats more like real music than shuffled bars",
    "copy_machine": "does not copy as the copy machine does",
}


def _baselines(group: dict) -> str:
    known = {key: value for key, value in group["beats"].items() if value is not None}
    won = [BEATS_WORDS[key] for key, value in known.items() if value]
    lost = [key for key, value in known.items() if not value]
    if not lost:
        return f"It passes every comparison with the baselines ({len(won)} of {len(known)})."
    text = f"It passes {len(won)} of {len(known)} comparisons with the baselines"
    return text + "; not these: it " + "; it ".join(_negated(key) for key in lost) + "."


def _negated(key: str) -> str:
    return {
        "markov_likelihood": "foretells held-out music no better than the Markov model",
        "markov": "sounds no more like real music than the Markov model",
        "random_in_key": "sounds no more like real music than random notes in key",
        "shuffled_bars": "repeats no more like real music than shuffled bars",
        "copy_machine": "copies",
    }[key]


def _likelihood(name: str, results: dict) -> str:
    mine = results["likelihood"].get(name, {})
    if not _known(mine.get("bits_per_note")):
        return ""
    text = f"It needs {number(mine['bits_per_note'])} bits for a note of the held-out music; the Markov model "
    if _known(mine.get("markov_bits_per_note")):
        text += f"{number(mine['markov_bits_per_note'])} on the same tokens and "
    return text + f"{number(results['likelihood']['markov']['bits_per_note'])} on notes alone."
