"""What is looked at before anything leaves this machine: names of files, secrets, licences, the card's metadata."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from musegen.errors import HubError

CARD = "README.md"
_SAMPLES = tuple(f"samples/*.{ending}" for ending in ("mid", "musicxml", "mp3", "ogg", "png", "svg"))
_SPACE = (CARD, "LICENSE", "app.py", "requirements.txt")
# What is sent of each kind. Whatever else lies in a folder, a configuration with a password, say, stays where it is.
ALLOWED: dict[str, tuple[str, ...]] = {
    "model": (
        CARD, "LICENSE", "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "miditok.json",
        "pipeline_symbolic_music.py", "configuration_music_lstm.py", "layers_music_lstm.py", "modeling_music_lstm.py",
        *_SAMPLES,
    ),
    "dataset": (
        CARD, "LICENSE", "data/train-*.parquet", "data/validation-*.parquet", "data/test-*.parquet", "files.parquet",
        "report.json", "leakage.json", "contents.png", "SHA256SUMS",
    ),
    "metric": (
        *_SPACE, "music_bleu.py", "bleu_scoring.py", "ngram_tables.py", "reference_index.py",
    ),
    "app": (
        *_SPACE, "musegen/*.py", "musegen/*.html", "musegen/*.css", "musegen/*.js", "musegen/*.svg", "musegen/*.png",
        "musegen/*.md", "musegen/*.woff2", "musegen/metrics/music_bleu/requirements.txt",
        *(f"musegen/checkpoints/*/{name}" for name in ("*.json", "model.safetensors", "LICENSE")),
    ),
}  # fmt: skip
_SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "an access key of a cloud": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
}
_BINARY = (".safetensors", ".parquet", ".png", ".mp3", ".ogg", ".woff2")
# Licences as the Hub spells them, by how sources tell them in lower case.
_KNOWN = re.compile(
    r"public domain|pd|pddl|odc-by|unlicense|mit|apache-2\.0|bsd-[23]-clause"
    r"|cc0(-1\.0)?|cc-by(-nc)?(-sa)?-[1-4]\.\d"
)


@dataclasses.dataclass(frozen=True)
class File:
    """One file that is sent: `path` within the repository, `size` in bytes."""

    path: str
    size: int


def staged_files(folder: Path, kind: str) -> list[File]:
    """The files of a staged folder, by path.

    Raises:
        HubError: One is not of those that are sent of this kind, or holds a secret.
    """
    found = []
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        name = path.relative_to(folder).as_posix()
        if not is_allowed(name, kind):
            raise HubError(f"{name}: not among the files that are sent of a {kind} ({', '.join(ALLOWED[kind])})")
        _check_secrets(path, name)
        found.append(File(name, path.stat().st_size))
    return found


def is_allowed(name: str, kind: str) -> bool:
    """Whether a file of that path within the repository is sent."""
    return ".." not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED[kind])


def left_out(folder: Path, kind: str) -> list[str]:
    """What lies directly in a folder and is not sent."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    starts = {pattern.split("/")[0] + "/" for pattern in ALLOWED[kind] if "/" in pattern}
    return [name for name in names if not is_allowed(name, kind) and name not in starts]


def _check_secrets(path: Path, name: str) -> None:
    if path.suffix in _BINARY:
        return
    data = path.read_bytes()
    for what, pattern in _SECRETS.items():
        if re.search(pattern, data):
            raise HubError(
                f"{name}: holds what looks like {what}; take it out, and have it replaced where it is valid"
            )


def sharing_problems(licenses: Mapping[str, int]) -> list[str]:
    """Which of the licences of works do not allow, or not surely, that they are shared.

    Args:
        licenses: How many works are under each licence, by its name.

    Returns:
        A sentence for each that is in doubt.
    """
    problems = []
    for name, count in sorted(licenses.items()):
        text = name.strip().lower()
        works = f"{count:,} piece{'' if count == 1 else 's'}"
        if text in ("", "not stated", "unknown"):
            problems.append(f"{works} without a licence")
        elif re.search(r"-nd\b|no.?deriv", text):
            problems.append(f"{works} under {name}, which forbids altered copies")
        elif not _KNOWN.fullmatch(text):
            problems.append(f"{works} under {name!r}, of which it is not known whether it allows sharing")
    return problems


def check_model_license(license_: str, sources: Iterable[Mapping[str, object]]) -> None:
    """Hold a model's licence against those of its training music.

    Args:
        license_: As the Hub spells it.
        sources: With `name` and `license` each.

    Raises:
        HubError: The model's licence gives what a source's does not.
    """
    for source in sources:
        text = str(source.get("license") or "").lower()
        if not text:
            raise HubError(
                f"{source.get('name', 'a source')}: say its license; a model may be shared only if it is known"
            )
        if "-nc" in text and "-nc" not in license_.lower():
            raise HubError(
                f"{source.get('name', 'a source')} is under {source['license']}, which forbids commercial use, and "
                f"the model's licence {license_} would allow it; choose one with -nc"
            )


def read_card(folder: Path, repo_type: str):
    """The card of a staged folder, read by huggingface_hub's own class.

    Raises:
        HubError: There is none, or its metadata cannot be read.
    """
    from huggingface_hub import DatasetCard, ModelCard, SpaceCard

    kinds = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
    path = folder / CARD
    if not path.is_file():
        raise HubError(f"{CARD}: missing; whatever is published has a card")
    try:
        return kinds[repo_type].load(path, ignore_metadata_errors=False)
    except Exception as error:  # of YAML, of the metadata, of the model index
        raise HubError(f"{CARD}: its metadata cannot be read ({' '.join(str(error).split())[:200]})") from None
