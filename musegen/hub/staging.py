"""Folders with exactly what is sent, made anew from a model, a corpus, the metric or the page.

Nothing is sent from where a user keeps it: a folder is filled here, and only with files of `checks.ALLOWED`.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import musegen
from musegen.errors import HubError
from musegen.hub.checks import CARD, is_allowed

if TYPE_CHECKING:
    import torch

PACKAGE = Path(musegen.__file__).parent
# A name of its own: under that of musegen's pipeline, transformers would ask every user to trust the remote code.
REMOTE_TASK = "symbolic-music"
REMOTE_PIPELINE = "pipeline_symbolic_music.SymbolicMusicPipeline"
METRIC_NAME = "music_bleu"
_APP = '''"""The page of musegen as a Space."""

from musegen.app import launch_app

if __name__ == "__main__":
    launch_app(host="0.0.0.0", port=7860)
'''


def stage_model(source: str | Path, folder: Path, *, repo_id: str, card: Path | None, license_: str | None) -> None:
    """Weights, tokenizer, generation settings, code and card of a model.

    Args:
        source: A folder, a name that ships with the package, or a Hub id.
        folder: New, to be filled.
        repo_id: Where it will be.
        card: A card, or a folder with one and its `samples/`; None takes the card beside the weights, or writes a
            plain one.
        license_: Of the model, as the Hub spells it; over the card's.

    Raises:
        ModelError, TokenizerError: No such model.
        HubError: No such card.
    """
    from musegen.models import load_causal_lm, save_with_code
    from musegen.tokenizer import load_tokenizer

    model = load_causal_lm(source)
    place = Path(model.config._name_or_path or source)
    tokenizer = load_tokenizer(model.config._name_or_path or str(source))
    computed, saved = model.dtype, _saved_dtype(place) or model.dtype
    save_with_code(model.to(saved), folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name("pipeline_symbolic_music.py"), folder / "pipeline_symbolic_music.py")
    if (place / "LICENSE").is_file():
        shutil.copyfile(place / "LICENSE", folder / "LICENSE")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(computed).removeprefix("torch.")  # halves may be saved that are computed with in float32
    config["custom_pipelines"] = {REMOTE_TASK: {"impl": REMOTE_PIPELINE, "pt": ["AutoModelForCausalLM"]}}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    found = card or (place if (place / CARD).is_file() else None)
    if found is None:
        from musegen.hub.cards import CardFacts, model_card

        facts = CardFacts(name=repo_id.partition("/")[2], repository=repo_id, license=license_ or "other")
        (folder / CARD).write_text(model_card(facts, config=config), encoding="utf-8")
        return
    _copy_card(found, folder)
    if license_:
        _set_license(folder / CARD, license_)


def _saved_dtype(place: Path) -> torch.dtype | None:
    """The type in which a folder keeps its weights, if it is a folder and keeps them in one file."""
    from safetensors import safe_open

    path = place / "model.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as weights:
        return weights.get_tensor(next(iter(weights.keys()))).dtype


def stage_dataset(source: str | Path, folder: Path, *, repo_id: str) -> None:
    """Shards, report and card of a corpus; the card tells how to load it from where it will be.

    Raises:
        CorpusError: No corpus there, or it differs from its checksums.
    """
    from musegen.corpus import load_corpus
    from musegen.corpus_card import AUDIT, refresh_sums, write_card

    source = Path(source)
    load_corpus(source)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source).as_posix()
        if is_allowed(name, "dataset"):
            _link(path, folder / name)
    if not (folder / AUDIT).is_file() or not (folder / CARD).is_file():
        write_card(folder, name=source.resolve().name, repository=repo_id)
        return
    card = folder / CARD
    text = re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{repo_id}"', card.read_text(encoding="utf-8"))
    card.unlink()  # the corpus's own may be the same file under two names
    card.write_text(text, encoding="utf-8")
    refresh_sums(folder, (CARD,))


def stage_metric(folder: Path, *, repo_id: str) -> None:
    """`music_bleu` and its page.

    Raises:
        HubError: The repository has another name: evaluate looks for a module of its name.
    """
    if repo_id.partition("/")[2] != METRIC_NAME:
        raise HubError(
            f"{repo_id}: evaluate looks for a file of the repository's name, so it must be ORG/{METRIC_NAME}"
        )
    _copy_tree(PACKAGE / "metrics" / METRIC_NAME, folder, "metric")
    card = folder / CARD
    text = card.read_text(encoding="utf-8").replace('"musegen/metrics/music_bleu"', f'"{repo_id}"')
    card.write_text(text, encoding="utf-8")


def stage_app(folder: Path, *, repo_id: str) -> None:
    """The page with the package that it is made of, so that nothing but public libraries has to be installed."""
    _copy_tree(PACKAGE, folder, "app", within="musegen")
    (folder / "app.py").write_text(_APP, encoding="utf-8")
    requirements = _requirements()
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    models = sorted(path.parent.name for path in (folder / "musegen" / "checkpoints").glob("*/config.json"))
    (folder / CARD).write_text(_space_card(repo_id.partition("/")[2], models), encoding="utf-8")


def _space_card(name: str, models: list[str]) -> str:
    from huggingface_hub import SpaceCardData

    data = SpaceCardData(
        title=name, emoji="🎻", colorFrom="yellow", colorTo="red", sdk="gradio", sdk_version=_gradio_version(),
        python_version="3.11", app_file="app.py", pinned=False, license="apache-2.0",
        short_description="Compose music, from nothing or from your own score",
        tags=["music", "midi", "symbolic-music", "music-generation", "musegen"],
    )  # fmt: skip
    held = f"It carries {' and '.join(models)}, so it composes without downloading anything." if models else ""
    return (
        f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---\n\n# {name}\n\nCompose music with musegen: choose a "
        "model, a key, a metre and instruments, or give it the opening of a piece of your own as MIDI or MusicXML, "
        f"and it writes on. You get sheet music, a piano roll, sound, MIDI and MusicXML. {held}\n\nThe package lies "
        "beside `app.py`; `requirements.txt` names the public libraries that it needs. Licence: Apache-2.0; of the "
        "models, what their cards say (those that ship with musegen: CC BY-NC-SA 4.0).\n"
    )


def _gradio_version() -> str:
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise HubError(
            "gradio is not installed, and the page cannot be tried without it: pip install 'musegen[app]'"
        ) from None


def _requirements() -> list[str]:
    """What the package asks for, with the extra of the page; gradio itself is the Space's."""
    found = []
    for line in _asked():
        need, _, marker = (part.strip() for part in line.partition(";"))
        if ("extra" not in marker or re.search(r"extra\s*==\s*['\"]app['\"]", marker)) and not re.match(
            "gradio", need
        ):
            found.append(need)
    return found


def _asked() -> list[str]:
    """Requirements as a wheel states them; in a checkout those of now, not of the day when it was installed."""
    setup = configparser.ConfigParser()
    if (
        setup.read(PACKAGE.parent / "setup.cfg", encoding="utf-8")
        and setup.get("metadata", "name", fallback="") == "musegen"
    ):
        extra = setup.get("options.extras_require", "app", fallback="").split("\n")
        lines = setup.get("options", "install_requires").split("\n") + [
            f"{line}; extra == 'app'" for line in extra if line
        ]
        return [line for line in lines if line.strip()]
    try:
        return importlib.metadata.requires("musegen") or []
    except importlib.metadata.PackageNotFoundError:
        raise HubError("musegen runs without being installed, so what it needs is not known; pip install it") from None


def _copy_card(source: Path, folder: Path) -> None:
    """A card, and the samples beside it."""
    path = source / CARD if source.is_dir() else source
    if not path.is_file():
        raise HubError(f"{path}: no card there")
    shutil.copyfile(path, folder / CARD)
    for sample in sorted((path.parent / "samples").glob("*")):
        name = f"samples/{sample.name}"
        if sample.is_file() and is_allowed(name, "model"):
            (folder / "samples").mkdir(exist_ok=True)
            shutil.copyfile(sample, folder / name)


def _set_license(path: Path, license_: str) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(path)
    card.data.license = license_
    card.save(path)


def _copy_tree(source: Path, folder: Path, kind: str, within: str = "") -> None:
    for path in _files(source):
        name = (Path(within) / path.relative_to(source)).as_posix()
        if is_allowed(name, kind):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, as a shard may have gigabytes; a copy where links cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
