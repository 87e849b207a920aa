"""Score files to a corpus: a `DatasetDict` in a folder that `datasets.load_dataset` reads as it lies.

The stages are plain functions, so that any engine can run them over any number of machines:

1. `musegen.sources.discover`: sources to a stream of files.
2. `reading.read_file`: one file to one `Reading`, a row or the reason why there is none. Runs in isolated workers.
3. `reducing.reduce_rows`: which rows are kept, in which split. Sees light columns only.
4. `writing.write_corpus`: Parquet shards, report, card and checksums.

`building.build_corpus` runs them with a journal between 2 and 3, in which each outcome stands once: a build that is
killed at any moment goes on from there.

Layout of the folder: `data/SPLIT-00000-of-000NN.parquet`, `README.md` (the dataset card, with the configuration that
the Hub's viewer reads), `report.json` (counts and settings), `files.parquet` (what became of every file) and
`SHA256SUMS`.
"""

from musegen.corpus.building import build_corpus
from musegen.corpus.limits import BuildLimits
from musegen.corpus.loading import corpus_scores, features, load_corpus, verify_corpus
from musegen.corpus.reading import ReadOptions, key_name, piece_row, read_file
from musegen.corpus.report import REPORT_FILE, CorpusReport
from musegen.corpus.schema import SPLITS
from musegen.work_groups import SplitOptions

__all__ = [
    "REPORT_FILE",
    "SPLITS",
    "BuildLimits",
    "CorpusReport",
    "ReadOptions",
    "SplitOptions",
    "build_corpus",
    "corpus_scores",
    "features",
    "key_name",
    "load_corpus",
    "piece_row",
    "read_file",
    "verify_corpus",
]
