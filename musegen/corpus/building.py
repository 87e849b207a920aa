"""The build: sources through all stages into a folder, interruptible anywhere."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from musegen.corpus.engines import engine_of
from musegen.corpus.journal import FORMAT, Journal, reading_key
from musegen.corpus.limits import BuildLimits
from musegen.corpus.reading import REMI, Reading, ReadOptions, read_file, tokenizer_files
from musegen.corpus.reducing import reduce_rows
from musegen.corpus.report import REPORT_FILE, CorpusReport
from musegen.corpus.work_folder import WorkFolder
from musegen.corpus.writing import recover, swap_in, write_corpus
from musegen.errors import CorpusError
from musegen.sources import SourceFile, count_scores, discover
from musegen.work_groups import SplitOptions

# What a recorded outcome depends on beside the settings.
_LIBRARIES = ("musegen", "symusic", "verovio", "miditok", "numpy", "datasketch")


def build_corpus(
    sources: Sequence[str],
    out: str | Path,
    *,
    split: SplitOptions | None = None,
    limits: BuildLimits | None = None,
    tokenizer: str | None = None,
    workers: int | None = None,
    engine: str = "local",
    restart: bool = False,
    finish: Callable[[Path], Any] | None = None,
    progress: bool = True,
) -> CorpusReport:
    """Read all scores of the sources and write the corpus.

    A build that is interrupted, however that happens, leaves `OUT.build` beside `out`; the same call goes on from
    there, and the finished corpus is byte for byte the same.

    Args:
        sources: See `musegen.sources`.
        out: The folder to write; a corpus that is there is replaced once the new one is whole.
        split: How to part it. May differ from that of the interrupted build.
        limits: What files may hold, and what reading them may cost.
        tokenizer: A tokenizer's folder, or `remi`: adds the column `input_ids`, ids before BPE.
        workers: Worker processes; by default one a core.
        engine: Where files are read; a name of `musegen.corpus.engines.ENGINES`.
        restart: Throw away what an interrupted build left.
        finish: Called with the folder once it is whole and before it takes its place, to add to it: the card with its
            audit (`musegen.corpus_card`), say.
        progress: Show a bar.

    Raises:
        CorpusError: If there is nothing to build from, `out` holds something that is no corpus, another build is at
            work on it, or an interrupted one had other settings.
        ConfigError: If there is no such engine.
        TokenizerError: If there is no such tokenizer.
    """
    out, limits, split = Path(out).absolute(), limits or BuildLimits(), split or SplitOptions()
    run = engine_of(engine)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / REPORT_FILE).is_file())):
        raise CorpusError(f"{out}: there is something else in it; name an empty or new folder")
    files = discover(sources, limits.archive)
    tokenizer = str(Path(tokenizer).absolute()) if tokenizer not in (None, REMI) else tokenizer
    signature = _signature(sources, limits, tokenizer)
    work = WorkFolder(out)
    journal = None
    try:
        recover(out, work.old)
        if restart:
            work.clear()
        journal = Journal(work.journal, signature)
        _tell_resumed(journal, progress)
        options = ReadOptions(limits.score, tokenizer)
        # datasketch takes as long to import as a hundred files to read; meanwhile workers start.
        threading.Thread(target=importlib.import_module, args=("datasketch",), daemon=True).start()
        total = count_scores(sources) if progress else None
        order = _read_all(files, journal, lambda todo: run(todo, options, limits, workers), total, progress)
        report = _finish(work, out, journal, order, split, signature, finish)
        work.remove()
    finally:
        if journal is not None:
            journal.close()
        work.release()
    return report


def _signature(sources: Sequence[str], limits: BuildLimits, tokenizer: str | None) -> dict[str, Any]:
    signature: dict[str, Any] = {"format": FORMAT}
    signature |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    signature |= {"sources": list(sources), "limits": limits.as_settings(), "tokenizer": tokenizer}
    if tokenizer is not None:
        signature["tokenizer_files"] = tokenizer_files(tokenizer)
    return signature


def _tell_resumed(journal: Journal, progress: bool) -> None:
    if progress and journal.resumed:
        print(f"going on with an interrupted build: {journal.resumed:,} files were read", file=sys.stderr)


def _read_all(files: Iterator[SourceFile], journal: Journal, run, total: int | None, progress: bool) -> list[bytes]:
    """Record the outcome of every file that has none; return the keys of all files, in their order."""
    from tqdm.auto import tqdm

    order: dict[bytes, None] = {}
    with tqdm(total=total, desc="scores", unit="file", disable=not progress, smoothing=0.02) as bar:

        def waiting() -> Iterator[SourceFile]:
            for file in files:
                key = reading_key(file.source, file.stamp)
                if key in order:
                    continue
                order[key] = None
                if key in journal:
                    bar.update()
                elif file.refused is not None:
                    journal.append(read_file(file))
                    bar.update()
                else:
                    yield file

        for reading in run(waiting()):
            journal.append(reading)
            bar.update()
    unused = len(journal) - len(order)
    if unused and progress:
        print(f"{unused:,} files have changed or gone since they were read; those are not used", file=sys.stderr)
    return list(order)


def _finish(
    work: WorkFolder,
    out: Path,
    journal: Journal,
    order: list[bytes],
    split: SplitOptions,
    signature: dict[str, Any],
    finish: Callable[[Path], Any] | None,
) -> CorpusReport:
    def light(index: int) -> Reading:
        return journal.read(order[index], light=True)

    plan = reduce_rows(map(light, range(len(order))), split, lambda index: journal.read(order[index]).midi)
    if not plan.parts:
        found = [light(index) for index in range(min(3, len(order)))]
        reasons = "; ".join(f"{reading.source}: {reading.reason}" for reading in found)
        work.remove()
        raise CorpusError(f"none of the {len(order)} files is a usable score ({reasons or 'no score was found'})")
    settings = {name: value for name, value in signature.items() if name not in ("format", "tokenizer_files")}
    settings["sources"] = [_public(source) for source in signature["sources"]]
    settings["tokenizer"] = signature["tokenizer"] and _public(signature["tokenizer"])
    settings["vocabulary"] = light(next(iter(plan.groups))).row.get("vocabulary")
    settings["split"] = dataclasses.asdict(split)
    shutil.rmtree(work.new, ignore_errors=True)
    report = write_corpus(work.new, plan, lambda index: journal.read(order[index]), light, settings)
    if finish is not None:
        finish(work.new)
    swap_in(work.new, out, work.old)
    return report


def _public(source: str) -> str:
    """A source's name without the folders of this machine that lead to it."""
    return source if ":" in source else Path(source).resolve().name
