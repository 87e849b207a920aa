"""What became of every file, in counts, and as a table for a person."""

from __future__ import annotations

import dataclasses
from typing import Any

from musegen.canonical import REPAIRS
from musegen.scores import REASONS as SCORE_REASONS
from musegen.sources import ARCHIVE_REASONS

REPORT_FILE = "report.json"
FILES_FILE = "files.parquet"
LISTED = 1000  # duplicates and quarantined files that report.json names; files.parquet has all
REASONS = {**SCORE_REASONS, **ARCHIVE_REASONS}


@dataclasses.dataclass
class CorpusReport:
    """Counts of a build: `found` is all of `kept` + `duplicate_files` + all of `quarantined_files`, always.

    Args:
        found: Files.
        kept: Pieces in each split.
        works: Works in each split.
        notes: Notes in each split.
        duplicate_files: How many files repeat the music of another.
        quarantined_files: How many files cannot be used, by reason.
        duplicates: Source -> the source whose music it repeats; the first `LISTED`.
        quarantined: Source -> reason and detail; the first `LISTED`.
        repairs: For each silent repair, how often it was made.
        repaired_files: For each silent repair, in how many files.
        settings: What the corpus was made with.
    """

    found: int
    kept: dict[str, int]
    works: dict[str, int]
    notes: dict[str, int]
    duplicate_files: int
    quarantined_files: dict[str, int]
    duplicates: dict[str, str]
    quarantined: dict[str, dict[str, str]]
    repairs: dict[str, int]
    repaired_files: dict[str, int]
    settings: dict[str, Any]

    @property
    def bad(self) -> int:
        """Files that cannot be used."""
        return sum(self.quarantined_files.values())

    def __str__(self) -> str:
        kept = ", ".join(f"{n:,} {split}" for split, n in self.kept.items())
        total = sum(self.kept.values())
        lines = [
            f"{self.found:,} files found: {total:,} kept ({kept}), "
            f"{self.duplicate_files:,} duplicates, {self.bad:,} quarantined"
        ]
        if self.kept:
            lines += ["", f"{'split':<12}{'pieces':>9}{'works':>9}{'notes':>14}"]
            lines += [f"{s:<12}{n:>9,}{self.works[s]:>9,}{self.notes[s]:>14,}" for s, n in self.kept.items()]
        if self.quarantined_files:
            lines += ["", f"{'quarantined':<18}{'files':>9}"]
            lines += [f"{r:<18}{n:>9,}  {REASONS.get(r, '')}" for r, n in self.quarantined_files.items()]
        if self.repairs:
            lines += ["", f"{'repaired':<18}{'files':>9}{'times':>9}"]
            lines += [
                f"{name.replace('_', ' '):<18}{self.repaired_files[name]:>9,}{times:>9,}  {REPAIRS.get(name, '')}"
                for name, times in self.repairs.items()
            ]
        return "\n".join(lines)

    def warning(self, shown: int = 3) -> str:
        """One line on what could not be used; empty if there is nothing to say."""
        if not self.bad:
            return ""
        some = "; ".join(f"{name}: {q['reason']}" for name, q in list(self.quarantined.items())[:shown])
        more = f"; and {self.bad - shown:,} more" if self.bad > shown else ""
        return f"{self.bad:,} of {self.found:,} files could not be used ({some}{more}); all are in {FILES_FILE}"
