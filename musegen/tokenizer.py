"""`MusicTokenizer`: miditok's REMI with BPE as a transformers tokenizer; scores to ids and back.

A piece is BOS, a header of control tokens (`musegen.controls`), bars of REMI tokens (`musegen.remi`), EOS. BPE
(`tokenizers`) merges what recurs inside a bar, never across bars, and leaves control tokens alone; without these no
header is written. Saved, it is two JSON files: `tokenizer.json`, which any `PreTrainedTokenizerFast` reads, and
`miditok.json`, the parameters of REMI.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import symusic
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from musegen import controls as c
from musegen import grid as g
from musegen.errors import ScoreError, TokenizerError
from musegen.ranges import playable_shift
from musegen.remi import SPECIAL_TOKENS, parameters_of, remi_ids, remi_of, remi_score
from musegen.scores import ScoreLimits, canonical_score, limit_unisons
from musegen.shipped import teach

MIDITOK_FILE = "miditok.json"
_NO_PROGRAM = -2  # in place of a program, of ids that name none


class MusicTokenizer(PreTrainedTokenizerFast):
    """Scores to token ids and back.

    Made by `musegen.tokenizer_training.train_tokenizer` or `from_pretrained`; it has no `__init__` of its own, so
    that `AutoTokenizer` can build it. The text form of a token is one character; `token_names` tells what an id means.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "miditok_file": MIDITOK_FILE}
    model_input_names = ["input_ids", "attention_mask"]

    @property
    def remi(self):
        """The `miditok.REMI` beneath, with this tokenizer's BPE."""
        remi = self.__dict__.get("_remi")
        if remi is None:
            remi = self.__dict__["_remi"] = self._load_remi()
        return remi

    def _load_remi(self):
        path = self.init_kwargs.get("miditok_file") or Path(self.name_or_path) / MIDITOK_FILE
        try:
            parameters = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{path}: no REMI parameters there ({error})") from None
        return remi_of(parameters, self.backend_tokenizer.to_str())

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        files = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        name = f"{filename_prefix}-{MIDITOK_FILE}" if filename_prefix else MIDITOK_FILE
        path = Path(save_directory) / name
        path.write_text(json.dumps(parameters_of(self.remi), indent=1), encoding="utf-8")
        return (*files, str(path))

    def __getstate__(self):
        # miditok objects hold lambdas in some versions: a copy in another process reloads its own.
        state = dict(self.__dict__)
        state.pop("_remi", None)
        return state

    def base_ids(self, score: symusic.Score) -> np.ndarray:
        """REMI ids before BPE, without BOS and EOS.

        Args:
            score: A canonical score (`musegen.scores.canonical_score`).

        Returns:
            int32 (tokens,), each below `base_size`.

        Raises:
            TokenizerError: If the score is not canonical.
        """
        if score.ticks_per_quarter != g.TICKS_PER_QUARTER:
            raise TokenizerError(
                f"a score of {score.ticks_per_quarter} ticks a quarter is not canonical; "
                "load it with musegen.scores.load_score or pass it through canonical_score"
            )
        return remi_ids(self.remi, score)

    @property
    def base_size(self) -> int:
        """How many ids stand for themselves, before the merges begin."""
        return len(self.remi.vocab)

    def merge(self, base_ids: np.ndarray) -> list[int]:
        """Apply BPE to REMI ids, bar by bar."""
        return list(itertools.chain.from_iterable(self.merge_bars(base_ids)))

    def merge_bars(self, base_ids: np.ndarray) -> list[list[int]]:
        """Apply BPE to REMI ids and return the ids of each bar.

        Args:
            base_ids: int32 (tokens,); what stands before the first bar line counts as a bar.
        """
        base_ids = np.asarray(base_ids)
        if not len(base_ids):
            return []
        words = self._bars(base_ids)
        encoding = self.backend_tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        bars: list[list[int]] = [[] for _ in words]
        for token, word in zip(encoding.ids, encoding.word_ids):
            bars[word].append(token)
        return bars

    def _bars(self, base_ids: np.ndarray) -> list[str]:
        """The text of each bar, as BPE reads it."""
        characters = self._characters[base_ids]
        cuts = np.flatnonzero(base_ids == self.bar_id)
        bounds = [0, *cuts[cuts > 0].tolist(), len(base_ids)]
        return ["".join(characters[a:b]) for a, b in itertools.pairwise(bounds)]

    @property
    def bar_id(self) -> int:
        """The REMI id of a bar line."""
        return self.remi.vocab["Bar_None"]

    @property
    def _characters(self) -> np.ndarray:
        table = self.__dict__.get("_character_table")
        if table is None:
            remi = self.remi
            table = np.array([remi._vocab_base_id_to_byte[i] for i in range(len(remi.vocab))])
            self.__dict__["_character_table"] = table
        return table

    def split(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Undo BPE: ids to REMI ids, int32.

        Raises:
            TokenizerError: If an id is not in the vocabulary.
        """
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        table = self.expansions
        if len(ids) and (ids.min() < 0 or ids.max() >= len(table)):
            raise TokenizerError(f"id {ids[(ids < 0) | (ids >= len(table))][0]} is not in 0..{len(table) - 1}")
        return np.concatenate([table[i] for i in ids]) if len(ids) else np.empty(0, np.int32)

    @property
    def expansions(self) -> list[np.ndarray]:
        """For each id, the REMI ids that it stands for: int32 (1 or more,); none for an id never produced."""
        table = self.__dict__.get("_expansions")
        if table is None:
            of_character = {c: i for i, c in enumerate(self._characters.tolist())}
            table = []
            for i in range(len(self)):
                text = (self.convert_ids_to_tokens(i) or "").lstrip("▁")
                table.append(np.array([of_character[c] for c in text], dtype=np.int32))
            self.__dict__["_expansions"] = table
        return table

    def token_names(self, ids: Sequence[int]) -> list[str]:
        """Readable names, such as `Pitch_60`, of all that the ids stand for."""
        names = self._base_names
        return [names[i] for i in self.split(ids)]

    @property
    def _base_names(self) -> list[str]:
        names = self.__dict__.get("_names")
        if names is None:
            vocabulary = self.remi.vocab
            names = self.__dict__["_names"] = sorted(vocabulary, key=vocabulary.get)
        return names

    @property
    def has_controls(self) -> bool:
        """Whether its vocabulary has the control tokens of `musegen.controls`."""
        return f"{c.CONTINUED}_None" in self.remi.vocab

    @property
    def composers(self) -> list[str]:
        """Slugs of the composers that have a token."""
        return [name.partition("_")[2] for name in self._base_names if name.startswith("Composer_")]

    def header_ids(self, controls: c.Controls) -> list[int]:
        """Ids of a header; what the vocabulary has no token for is left out."""
        vocabulary = self.remi.vocab
        names = [f"Composer_{controls.composer}"]
        if controls.key is not None:
            names.append(c.key_token(controls.key))
        if controls.tempo is not None:
            tempos = np.asarray(self.remi.tempos)
            names.append(f"Tempo_{tempos[np.abs(tempos - controls.tempo).argmin()]}")
        names += [f"Program_{program}" for program in controls.programs]
        return [vocabulary[name] for name in names if name in vocabulary] if self.has_controls else []

    def controls_in(self, ids: Sequence[int]) -> c.Controls:
        """The header that stands at the beginning of a stream."""
        names = self._base_names
        composer = key = tempo = None
        programs = []
        for i in ids:
            word, _, rest = names[i].partition("_") if i < len(names) else ("", "", "")
            if word in ("Left", "Bar") or not word:
                break
            if word == "Composer":
                composer = rest
            elif word == "Key":
                key = c.parse_key(f"{rest[:-3]} {rest[-3:]}")
            elif word == "Tempo":
                tempo = float(rest)
            elif word == "Program":
                programs.append(int(rest))
        return c.Controls(composer, key, tempo, tuple(programs))

    def left_id(self, bars: int) -> int:
        """The id that says how many bars are left, this one included; the tokenizer must have control tokens."""
        return self.remi.vocab[f"Left_{c.left_step(bars)}"]

    def stream(
        self,
        bars: Sequence[Sequence[int]],
        header: Sequence[int] = (),
        *,
        first: int = 0,
        stop: int | None = None,
        total: int | None = None,
        bos: bool = True,
        eos: bool = True,
        left: bool = True,
    ) -> list[int]:
        """Lay out bars `first` to `stop` (exclusive) of a piece, with header and `Left` tokens.

        Args:
            bars: Ids of each bar of the piece (`merge_bars`).
            header: Ids of its header.
            first: Above 0 the stream begins with CNT in the place of BOS.
            stop: All to the end by default.
            total: Bars of the whole piece, if more than are given.
            bos: Begin with BOS and the header.
            eos: End with EOS, if the end of the piece is reached.
            left: Write `Left` tokens.
        """
        total = len(bars) if total is None else total
        stop = len(bars) if stop is None else min(stop, len(bars))
        ids: list[int] = []
        if bos:
            opening = self.bos_token_id if first == 0 or not self.has_controls else self.continued_id
            ids += [opening, *header]
        for index in range(first, stop):
            ids += self.left_before(total - index, index == first) if left else []
            ids += bars[index]
        return [*ids, self.eos_token_id] if eos and stop == total else ids

    def left_before(self, left: int, opens: bool) -> list[int]:
        """The `Left` token before a bar, where one stands: none or one id.

        Args:
            left: Bars left, this one included.
            opens: Whether the bar is the first of its stream.
        """
        if self.has_controls and (opens or c.left_step(left) != c.left_step(left + 1)):
            return [self.left_id(left)]
        return []

    @property
    def continued_id(self) -> int:
        """The id of CNT, or of BOS where there are no control tokens."""
        return self.remi.vocab.get(f"{c.CONTINUED}_None", self.bos_token_id)

    @property
    def gap_id(self) -> int | None:
        """The id of GAP; None where there are no control tokens."""
        return self.remi.vocab.get(f"{c.GAP}_None")

    def encode_score(
        self, score: symusic.Score, *, bos: bool = True, eos: bool = True, controls: c.Controls | None = None
    ) -> list[int]:
        """Token ids of a score.

        Args:
            score: A canonical score.
            bos: Begin with the BOS id and the header. Without it there are no control tokens at all.
            eos: End with the EOS id.
            controls: The header; by default what the score says of itself.

        Raises:
            TokenizerError: If the score is not canonical.
        """
        bars = self.merge_bars(self.base_ids(score))
        if not bos:
            return [*itertools.chain.from_iterable(bars), *[self.eos_token_id] * eos]
        header = self.header_ids(c.controls_of(score) if controls is None else controls)
        ids = self.stream(bars, header, eos=False)
        return [*ids, self.eos_token_id] if eos else ids

    def decode_score(self, ids: Sequence[int], *, limits: ScoreLimits | None = None) -> symusic.Score:
        """The canonical score that ids stand for. Any ids decode; those that make no sense are passed over.

        Args:
            ids: Of one piece; headers and special tokens are ignored.
            limits: What the piece may hold; `ScoreLimits()` by default.

        Returns:
            One track a program, sorted notes. A piece without a note has no track.

        Raises:
            TokenizerError: If an id is not in the vocabulary or the piece breaks the limits.
        """
        limits = limits or ScoreLimits()
        base = self._sounding(self.split(ids))
        bars = int((base == self.bar_id).sum())
        if bars > limits.bars:
            raise TokenizerError(f"{bars:,} bars; at most {limits.bars:,} are decoded")
        if not len(base):
            return symusic.Score(g.TICKS_PER_QUARTER)
        score = remi_score(self.remi, base)
        if not any(len(track.notes) for track in score.tracks):
            return symusic.Score(g.TICKS_PER_QUARTER)
        try:
            return limit_unisons(canonical_score(score, "decoded tokens", limits).score)
        except ScoreError as error:
            raise TokenizerError(str(error)) from None

    def _sounding(self, base: np.ndarray) -> np.ndarray:
        """REMI ids without special tokens and headers."""
        opens = (base == self.bos_token_id) | (base == self.continued_id)
        bar = base == self.bar_id
        # In a header: after an opening and before the bar line that follows it; before any, all is header.
        index = np.arange(len(base))
        opened = np.maximum.accumulate(np.where(opens, index, -1))
        barred = np.maximum.accumulate(np.where(bar, index, -1))
        header = (opened > barred) & (opened >= 0)
        return base[~header & (base >= self._specials)]

    @property
    def _specials(self) -> int:
        return len(self.remi.config.special_tokens)

    def transposed(self, base_ids: np.ndarray, semitones: int) -> np.ndarray:
        """REMI ids with every pitch moved, drums excepted.

        Args:
            base_ids: int32 (tokens,).
            semitones: Up, or down if negative; the caller keeps it within `transpositions`.
        """
        out = np.array(base_ids, dtype=np.int32)
        out[self._pitched(out)] += semitones
        return out

    def transpositions(self, base_ids: np.ndarray) -> tuple[int, int]:
        """The lowest and highest transposition that keeps every pitch within what its program can play.

        A program that the piece takes beyond its range (`musegen.ranges`) goes no further there.
        """
        base_ids = np.asarray(base_ids)
        pitched = np.flatnonzero(self._pitched(base_ids))
        programs = self._programs_in_force(base_ids)[pitched]
        return playable_shift(base_ids[pitched] - self._first_pitch, np.maximum(programs, 0))

    @property
    def _first_pitch(self) -> int:
        return self.remi.vocab["Pitch_0"]

    def _pitched(self, base_ids: np.ndarray) -> np.ndarray:
        first = self._first_pitch
        pitched = (base_ids >= first) & (base_ids < first + 128)
        drums = self.remi.vocab.get("Program_-1")
        if drums is not None and np.any(base_ids == drums):
            pitched &= self._programs_in_force(base_ids) != g.DRUMS
        return pitched

    def _programs_in_force(self, base_ids: np.ndarray) -> np.ndarray:
        """For each id the program that was named last; 0, which General MIDI begins with, before any."""
        programs = self._program_table[base_ids]
        named = np.maximum.accumulate(np.where(programs != _NO_PROGRAM, np.arange(len(base_ids)), -1))
        return np.where(named >= 0, programs[np.maximum(named, 0)], 0)

    @property
    def _program_table(self) -> np.ndarray:
        table = self.__dict__.get("_programs")
        if table is None:
            table = np.full(self.base_size, _NO_PROGRAM)
            for name, i in self.remi.vocab.items():
                if name.startswith("Program_"):
                    table[i] = int(name.removeprefix("Program_"))
            self.__dict__["_programs"] = table
        return table


def wrap_remi(remi, trained: bool = True) -> MusicTokenizer:
    """A `MusicTokenizer` over a `miditok.REMI`, trained or not."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    names = {f"{name.lower()}_token": remi._vocab_base_id_to_byte[i] for i, name in enumerate(SPECIAL_TOKENS)}
    model = (
        remi._model
        if trained
        else Tokenizer(BPE(vocab={c: i for i, c in remi._vocab_base_id_to_byte.items()}, merges=[]))
    )
    tokenizer = MusicTokenizer(tokenizer_object=model, clean_up_tokenization_spaces=False, **names)
    tokenizer.__dict__["_remi"] = remi
    return tokenizer


def load_tokenizer(path: str | Path) -> MusicTokenizer:
    """Load a tokenizer from a folder or the Hub, with one clear line where there is none.

    Raises:
        TokenizerError: If there is no music tokenizer.
    """
    folder = Path(path)
    if folder.is_dir():
        missing = [name for name in ("tokenizer.json", MIDITOK_FILE) if not (folder / name).is_file()]
        if missing:
            raise TokenizerError(f"{path}: no music tokenizer there ({', '.join(missing)} missing)")
    elif os.sep in str(path) and str(path).count("/") != 1:
        raise TokenizerError(f"{path}: no such folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:
        raise TokenizerError(f"{path}: no tokenizer loads from there ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(tokenizer, MusicTokenizer):
        raise TokenizerError(f"{path}: a {type(tokenizer).__name__}, not a MusicTokenizer")
    return tokenizer


def iterate_bars(tokenizer: MusicTokenizer, ids: Sequence[int]) -> Iterator[list[int]]:
    """The ids of one bar after another; what stands before the first bar line comes first, if anything does."""
    bar_id = tokenizer.bar_id
    bar: list[int] = []
    for i in ids:
        expansion = tokenizer.expansions[i]
        if len(expansion) and expansion[0] == bar_id and bar:
            yield bar
            bar = []
        bar.append(int(i))
    if bar:
        yield bar


class _TokenizerKey(PreTrainedConfig):
    """A key under which AutoTokenizer knows the class: it looks classes up by name, but files them by config."""

    model_type = "musegen-tokenizer"


AutoTokenizer.register(_TokenizerKey, MusicTokenizer, exist_ok=True)
teach(AutoTokenizer)
