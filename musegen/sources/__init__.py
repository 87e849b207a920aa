"""What `corpus build` can be pointed at, and the stream of score files in it.

A source is a file, a folder with all below it, an archive (.zip, .tar, .tar.gz, .tgz), a table with a column of MIDI
bytes (.parquet, .arrow), `music21:PATH` for the scores that the music21 wheel carries, or `hub:ORG/NAME[:SPLIT]` for
a dataset on the Hub. Archives and tables may also lie in folders. `discover` gives their files in an order that
depends on nothing but their names.

What lies in archives and tables is read into memory within bounds and never unpacked to disk. Whatever cannot be
handed on (a link, a bomb, an encrypted member, the rest of a torn archive) comes as a `SourceFile` that says why, so
that it is counted.
"""

from musegen.sources.discovery import count_scores, discover, find_scores
from musegen.sources.files import ARCHIVE_REASONS, ArchiveLimits, SourceFile, work_of

__all__ = ["ARCHIVE_REASONS", "ArchiveLimits", "SourceFile", "count_scores", "discover", "find_scores", "work_of"]
