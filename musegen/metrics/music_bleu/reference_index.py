"""A corpus of reference pieces as an index: built once, saved to a folder, memory-mapped by any process.

The folder holds one `.npy` file for each array, `vocabulary.json` and `manifest.json`; the manifest gives the
format's version, the sizes and a SHA-256 of every file and of itself. Nothing in it is pickled. A folder is
written aside and then renamed, so it is complete or absent.

Tokens are strings or integers; `1` and `"1"` are different tokens. Lengths are in tokens.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .ngram_tables import NgramTables, build_tables, clipped_matches, smallest_unsigned

FORMAT = "music_bleu reference index"
FORMAT_VERSION = 1
# The default weights and the cumulative scores of the metric end at order 9.
DEFAULT_MAX_ORDER = 9
_MANIFEST = "manifest.json"
_VOCABULARY = "vocabulary.json"


class ReferenceIndexError(ValueError):
    """A saved index that is missing, torn, altered or of another version."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"reference index {path}: {problem}; build and save it again")


def as_tokens(sequence, where: str) -> list:
    """One token sequence as a list.

    Args:
        sequence: A list, tuple, array or tensor of tokens.
        where: What the sequence is, for the error.

    Raises:
        TypeError: Not a sequence of tokens. A string is refused: it would be taken apart into characters.
    """
    if isinstance(sequence, (str, bytes, dict)) or not (hasattr(sequence, "tolist") or hasattr(sequence, "__iter__")):
        raise TypeError(f"{where} is a {type(sequence).__name__}, not a sequence of tokens: encode or split it first")
    tokens = sequence.tolist() if hasattr(sequence, "tolist") else list(sequence)
    if not isinstance(tokens, list):
        raise TypeError(f"{where} has no dimension: a sequence of tokens is wanted")
    return tokens


def distinct_tokens(tokens: list, where: str) -> dict:
    """The distinct tokens of a sequence, each with its plain form, an int or a str.

    Checking only these is what makes checking cheap: a corpus of millions of tokens has a few hundred.

    Args:
        tokens: From `as_tokens`.
        where: What the sequence is, for the error.

    Raises:
        TypeError: A token is neither an integer nor a string.
    """
    try:
        distinct = set(tokens)
    except TypeError as error:
        raise TypeError(f"{where}: tokens are strings or integers ({error})") from None
    plain = {}
    for token in distinct:
        if isinstance(token, str):
            plain[token] = str(token)
        elif isinstance(token, (int, np.integer)):
            plain[token] = int(token)
        else:
            raise TypeError(f"{where} holds a {type(token).__name__}, {token!r}: tokens are strings or integers")
    return plain


class ReferenceIndex:
    """What BLEU asks of a shared corpus of references: counts of n-grams, and lengths.

    Use `ReferenceIndex.build` or `ReferenceIndex.load`. Attributes: `vocabulary` (sorted, integers first),
    `tables`, `lengths` (of the pieces, ascending), `content_hash` (SHA-256 of the pieces as a multiset;
    neither their order nor `max_order` changes it) and `encoding` (the token encoding's name, or None).
    """

    def __init__(
        self,
        vocabulary: list,
        tables: NgramTables,
        lengths: np.ndarray,
        content_hash: str,
        encoding: str | None = None,
    ):
        self.vocabulary = vocabulary
        self.tables = tables
        self.lengths = lengths
        self.content_hash = content_hash
        self.encoding = encoding
        self._distinct_lengths = np.unique(lengths)
        self._id_of = {token: number for number, token in enumerate(vocabulary)}

    def __repr__(self) -> str:
        return (
            f"ReferenceIndex({self.pieces} pieces, {self.tokens} tokens, vocabulary {len(self.vocabulary)}, "
            f"orders 1-{self.max_order}, encoding {self.encoding!r}, {self.content_hash[:16]})"
        )

    @property
    def max_order(self) -> int:
        """The largest n-gram order that the index counts."""
        return self.tables.max_order

    @property
    def pieces(self) -> int:
        """Number of reference pieces."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Total length of the reference pieces."""
        return int(self.lengths.sum())

    @property
    def nbytes(self) -> int:
        """Size of the arrays, in memory or on disk, in bytes."""
        return self.lengths.nbytes + sum(array.nbytes for array in self.tables.keys + self.tables.counts)

    @classmethod
    def build(
        cls,
        references: Iterable[Sequence],
        *,
        max_order: int = DEFAULT_MAX_ORDER,
        encoding: str | None = None,
    ) -> "ReferenceIndex":
        """Index a corpus. Time and memory are proportional to its number of tokens.

        Args:
            references: Token sequences, one a piece; an iterator is read once and not kept.
            max_order: Largest n-gram order.
            encoding: Name of the token encoding, kept with the index and shown in signatures.

        Raises:
            TypeError: A piece is not a sequence of strings or integers.
            ValueError: No pieces, or `max_order` below 1.
        """
        if max_order < 1:
            raise ValueError(f"max_order must be 1 or more, not {max_order}")
        vocabulary, tokens, lengths = _encode(references)
        if not len(lengths):
            raise ValueError("there are no references: at least one reference sequence is needed")
        content_hash = _content_hash(vocabulary, tokens, lengths)
        tables = build_tables(tokens, lengths, len(vocabulary), max_order)
        return cls(vocabulary, tables, np.sort(lengths), content_hash, encoding)

    def encode(self, tokens: Sequence) -> np.ndarray:
        """Token ids, -1 for a token that no reference holds; shape (length,), int64."""
        get = self._id_of.get
        return np.fromiter((get(token, -1) for token in tokens), dtype=np.int64, count=len(tokens))

    def matches(self, predictions: Sequence[Sequence]) -> np.ndarray:
        """Clipped n-gram matches of each prediction, shape (predictions, max_order), int64."""
        lengths = np.array([len(prediction) for prediction in predictions], dtype=np.int64)
        encoded = [self.encode(prediction) for prediction in predictions]
        tokens = np.concatenate([*encoded, np.zeros(0, dtype=np.int64)])  # (total,)
        return clipped_matches(self.tables, tokens, lengths)

    def closest_length(self, length: int) -> int:
        """The length of a reference that is closest to `length`; of two, the shorter."""
        return int(self._distinct_lengths[np.argmin(np.abs(self._distinct_lengths - length))])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the index to a folder that appears only when it is complete.

        Args:
            folder: Where to; its parents are made.
            overwrite: Replace a folder that exists. Processes that have it open keep what they opened.

        Returns:
            The folder.

        Raises:
            FileExistsError: `folder` exists and `overwrite` is False.
        """
        folder = Path(folder)
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} exists: pass overwrite=True to replace it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
        old = aside.with_suffix(".old")
        try:
            aside.mkdir()
            self._write(aside)
            if folder.exists():
                folder.rename(old)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def _write(self, folder: Path) -> None:
        for name, array in _arrays(self.tables, self.lengths).items():
            np.save(folder / name, array, allow_pickle=False)
        (folder / _VOCABULARY).write_text(_dump(self.vocabulary), encoding="ascii")
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "max_order": self.max_order,
            "pieces": self.pieces,
            "tokens": self.tokens,
            "encoding": self.encoding,
            "content_hash": self.content_hash,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": _file_hash(path)}
                for path in sorted(folder.iterdir())
            },
        }
        manifest["manifest_sha256"] = _manifest_hash(manifest)
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="ascii")

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True) -> "ReferenceIndex":
        """Memory-map a saved index: processes that load the same folder share its pages.

        Args:
            folder: As given to `save`.
            verify: Compare every file with its checksum, which reads it all once. The manifest's own checksum
                and the sizes are always compared.

        Raises:
            ReferenceIndexError: Missing, torn, altered, or of another version; the message names the file.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name, expected in manifest["files"].items():
            _check_file(folder, name, expected, verify)
        try:
            vocabulary = json.loads((folder / _VOCABULARY).read_text(encoding="ascii"))
            orders = manifest["max_order"]
            lengths = _open_array(folder, "lengths.npy")
            keys = tuple(_open_array(folder, f"keys_{n}.npy") for n in range(2, orders + 1))
            counts = tuple(_open_array(folder, f"counts_{n}.npy") for n in range(1, orders + 1))
        except (OSError, ValueError, KeyError) as error:
            raise ReferenceIndexError(folder, f"cannot be read ({error})") from error
        tables = NgramTables(len(vocabulary), keys, counts)
        return cls(vocabulary, tables, lengths, manifest["content_hash"], manifest["encoding"])


def read_manifest(folder: Path) -> dict:
    """The manifest of a saved index, checked against its own checksum.

    Raises:
        ReferenceIndexError: No manifest, a torn or altered one, or one of another format version.
    """
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise ReferenceIndexError(folder, f"has no {_MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise ReferenceIndexError(folder, f"{_MANIFEST} is torn ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ReferenceIndexError(folder, f"{_MANIFEST} is not one of a {FORMAT}")
    if manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version")
        raise ReferenceIndexError(folder, f"has format version {found}, this metric reads {FORMAT_VERSION}")
    if manifest.get("manifest_sha256") != _manifest_hash(manifest):
        raise ReferenceIndexError(folder, f"{_MANIFEST} does not match its checksum")
    return manifest


def _encode(references):
    """All pieces as dense ids: sorted vocabulary, ids in the narrowest type, lengths in int64."""
    ids = {}
    parts = []
    for number, piece in enumerate(references):
        where = f"reference {number}"
        tokens = as_tokens(piece, where)
        for token in distinct_tokens(tokens, where).values():
            ids.setdefault(token, len(ids))
        parts.append(np.fromiter(map(ids.__getitem__, tokens), dtype=np.uint32, count=len(tokens)))
    vocabulary = sorted(ids, key=lambda token: (isinstance(token, str), token))
    sorted_id = np.empty(len(ids), dtype=smallest_unsigned(max(len(ids), 1)))
    sorted_id[[ids[token] for token in vocabulary]] = np.arange(len(ids))
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    tokens = sorted_id[np.concatenate([*parts, np.zeros(0, dtype=np.uint32)])]  # (total,)
    return vocabulary, tokens, lengths


def _content_hash(vocabulary, tokens, lengths):
    """SHA-256 of the vocabulary and of the sorted hashes of the pieces."""
    pieces = np.split(tokens, np.cumsum(lengths)[:-1])
    digests = sorted(hashlib.sha256(piece.astype("<u4").tobytes()).digest() for piece in pieces)
    return hashlib.sha256(_dump(vocabulary).encode("ascii") + b"".join(digests)).hexdigest()


def _dump(vocabulary):
    return json.dumps(vocabulary, separators=(",", ":"))


def _arrays(tables, lengths):
    """The arrays of an index by file name."""
    arrays = {"lengths.npy": lengths}
    arrays |= {f"counts_{n}.npy": counts for n, counts in enumerate(tables.counts, 1)}
    arrays |= {f"keys_{n}.npy": keys for n, keys in enumerate(tables.keys, 2)}
    return arrays


def _open_array(folder, name):
    return np.load(folder / name, mmap_mode="r", allow_pickle=False)


def _file_hash(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _manifest_hash(manifest):
    content = {name: value for name, value in manifest.items() if name != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _check_file(folder, name, expected, verify):
    path = folder / name
    if not path.is_file():
        raise ReferenceIndexError(folder, f"{name} is missing")
    if path.stat().st_size != expected["bytes"]:
        raise ReferenceIndexError(folder, f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}")
    if verify and _file_hash(path) != expected["sha256"]:
        raise ReferenceIndexError(folder, f"{name} does not match its checksum")
