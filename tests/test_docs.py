"""The documents are true: every block runs as it stands there, every link leads somewhere, every verb is described."""

import collections
import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
from doc_blocks import ROOT, Block, Workplace, blocks_of, documents

from musegen import grid as g
from musegen.canonical import REPAIRS
from musegen.corpus import BuildLimits
from musegen.corpus.report import REASONS as REASONS_OF_FILES
from musegen.scores import midi_bytes
from musegen.shipped import shipped_names
from musegen.training import save_model
from musegen.training_config import TrainingConfig

LANGUAGES = {"python", "bash", "yaml", "text"}
# Blocks that are not run, by document, each for one of these reasons; a new one is a decision to be made here.
REASONS = ("installs packages", "takes minutes", "takes an account on the Hub", "it serves until it is stopped")
NOT_RUN = {"README.md": 3, "docs/demo.md": 1, "docs/page.md": 2, "docs/publishing.md": 2, "docs/scale.md": 2}
LIMITS = BuildLimits().as_settings()
# Documents that are linked to and not written yet.
TO_COME: tuple[str, ...] = ()
# What a document takes for granted, beside the scores in `my-scores` that all of them have.
NEEDS = {
    "README.md": ("piece.mid",),
    "docs/corpus.md": ("more.zip",),
    "docs/rendering.md": ("piece.mid",),
}
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TINY = {"gpt": {"n_layer": 1, "n_embd": 32, "n_head": 2}, "lstm": {"hidden_size": 32, "embedding_size": 32}}
METADATA = """file,composer,work,license
k80/movement3.mxl,Mozart,K. 80,public domain
k155/movement3.mxl,Mozart,K. 155,public domain
k156/movement4.mxl,Mozart,K. 156,public domain
k545/movement1.mxl,Mozart,K. 545,public domain
"""


def smaller(config: TrainingConfig) -> TrainingConfig:
    """What a document's configuration says, with few and small steps of a small model."""
    kind = config.model.split("-")[0]
    settings = TINY.get(kind, {}) if config.model in ("gpt-tiny", "gpt-small", "lstm-tiny", "lstm-small") else {}
    few = {name: min(getattr(config, name), 4) for name in ("steps", "eval_every", "save_every")}
    return dataclasses.replace(
        config,
        model_settings={**config.model_settings, **settings},
        block_size=min(config.block_size, 128),
        batch_size=min(config.batch_size, 2),
        shuffle_buffer=min(config.shuffle_buffer, 8),
        warmup=1,
        **few,
    )


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, movement_paths, scores, tokenizer, tiny_model):
    """What documents may take for granted: scores with metadata, and a model in each place that they name."""
    shelf = tmp_path_factory.mktemp("shelf")
    for name, path in movement_paths.items():
        place = shelf / "my-scores" / (f"{name}.mxl" if "/" in name else f"{name}/movement1.mxl")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (shelf / "my-scores" / "metadata.csv").write_text(METADATA)
    save_model(tiny_model, tokenizer, shelf / "model")
    (shelf / "piece.mid").write_bytes(midi_bytes(g.slice_bars(scores["k155/movement3"], 0, 8)))
    shutil.make_archive(str(shelf / "more"), "zip", shelf / "my-scores", "k80")
    return shelf


@pytest.fixture
def workplace(request, shelf, tmp_path, monkeypatch):
    """A folder with what the document needs, the clone's `musegen` and `scripts` in it, and small trainings."""
    needs = NEEDS.get(request.param, ())
    shutil.copytree(shelf / "my-scores", tmp_path / "my-scores")
    for name in ("musegen", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in needs:
        if (shelf / name).is_file():
            shutil.copyfile(shelf / name, tmp_path / name)
        else:
            shutil.copytree(shelf / "model", tmp_path / name)
    # A folder comes before a shipped model of its name: README has the real one, the others a small one that is quick.
    if request.param != "README.md" or "mozart-gpt" not in shipped_names():
        shutil.copytree(shelf / "model", tmp_path / "mozart-gpt")
    commands = tmp_path / ".bin"
    commands.mkdir()
    (commands / "musegen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m musegen "$@"\n')
    (commands / "musegen").chmod(0o755)
    (commands / "python").symlink_to(sys.executable)
    read = TrainingConfig.from_yaml.__func__
    monkeypatch.setattr(
        TrainingConfig, "from_yaml", classmethod(lambda cls, path, **more: smaller(read(cls, path, **more)))
    )
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path)


WITH_BLOCKS = [name for name in documents() if any(not b.not_run and b.language != "text" for b in blocks_of(name))]


@pytest.mark.parametrize(
    ("workplace", "document"), [(name, name) for name in WITH_BLOCKS], indirect=["workplace"], ids=WITH_BLOCKS
)
def test_every_block_runs(workplace, document):
    for block in blocks_of(document):
        if not block.not_run:
            workplace.run(block)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "undefined_name\n"),
        ("bash", "musegen render missing.mid\n"),
        ("bash", "musegen render my-scores/k545/movement1.mxl --no-such-option\n"),
        ("bash", "musegen corpus show nowhere | cat && false\n"),
        ("yaml", "corpus: corpus\n"),
    ],
)
def test_a_block_that_fails_is_a_failure(tmp_path, monkeypatch, language, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, NameError), match=r"docs/some\.md:7|undefined_name"):
        Workplace(tmp_path).run(Block("docs/some.md", 7, language, code, None))


def test_blocks_that_are_not_run_are_few_and_say_why():
    found = collections.Counter()
    for document in documents():
        text = (ROOT / document).read_text(encoding="utf-8")
        blocks = blocks_of(document)
        assert text.count("```") == 2 * len(blocks), (
            f"{document}: a fence that is not closed, or stands inside another"
        )
        assert {block.language for block in blocks} <= LANGUAGES, document
        marked = [block for block in blocks if block.not_run]
        assert len(re.findall("^<!-- not run:", text, re.M)) == len(marked), (
            f"{document}: a mark that stands before no block"
        )
        assert all(block.not_run.startswith(REASONS) for block in marked), document
        found[document] = len(marked)
        for block in blocks:
            commands = block.language == "text" and re.search(r"^(musegen|python|pip|make|import) ", block.code, re.M)
            assert not commands, f"{document}:{block.line}: commands in a block of plain text"
    assert +found == NOT_RUN


def anchors_of(path):
    """The anchors that GitHub gives to headings."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_leads_somewhere():
    lost = []
    pages = [*documents(), "docs/reference/README.md", "musegen/metrics/music_bleu/README.md"]
    for document in pages:
        path = ROOT / document
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", path.read_text(encoding="utf-8"))):
            if re.match(r"https?://", target):
                continue
            name, _, anchor = target.partition("#")
            there = path.parent / name if name else path
            if name in TO_COME:
                continue
            if not there.exists() or (anchor and anchor not in anchors_of(there)):
                lost.append(f"{document}: {target}")
    assert lost == []


def test_every_verb_has_a_document_that_uses_it():
    import typer

    from musegen.cli import app

    def verbs(command, path="musegen"):
        for name, inner in command.commands.items():
            yield from verbs(inner, f"{path} {name}") if hasattr(inner, "commands") else [f"{path} {name}"]

    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(musegen [\w ]+)` \| \[([\w.-]+)\]", index, re.MULTILINE))
    for verb in verbs(typer.main.get_command(app)):
        page = rows.get(verb) or rows.get(verb.rpartition(" ")[0])  # or the page of all verbs of its group
        assert page, f"docs/README.md: no row for {verb}"
        assert f"{verb} " in "".join(block.code for block in blocks_of(f"docs/{page}")), f"docs/{page}: no {verb}"
    named = set(re.findall(r"\[([\w.-]+\.md)\]", index))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named


def test_the_tables_of_the_corpus_document_are_the_code_s():
    text = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert {name: float(rows.get(name, "nan")) for name in LIMITS} == LIMITS
    assert {name: rows.get(name) for name in (*REASONS_OF_FILES, *REPAIRS)} == {**REASONS_OF_FILES, **REPAIRS}


def test_the_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/make_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"run `python scripts/make_reference.py`:\n{done.stdout}{done.stderr}"
