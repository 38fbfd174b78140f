"""Word pieces: a vocabulary learnt from texts, and texts as numbers of its pieces.

WordPiece as in BERT (Devlin et al., arXiv 1810.04805; Wu et al., arXiv 1609.08144), by the
`tokenizers` library.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.data.sources import one_line_of
from ktbench.records import KtbenchError
from ktbench.system import extras
from ktbench.system.files import MOST_TEXT, read_regular

PAD, UNKNOWN, BEGIN, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Pieces that are no text, numbered from 0 in this order."""
Text = str | tuple[str, str]
"""A text, or a pair of them."""
MOST_PIECES = 1_000_000
"""Most pieces of a vocabulary."""
LONGEST_WORD = 100
"""Letters of the longest word that is taken apart: the library's own bound."""

_LONG_RUN = re.compile(rf"\S{{{LONGEST_WORD + 1}}}")
_AT_ONCE = 4096
"""Texts that are taken apart at a time when their pieces are counted."""
_SPACES = re.compile("[ \\t\\n\\r]+")
"""Characters that every tokenizer takes for spaces."""


def learn(texts: Sequence[Text], size: int, *, lowercase: bool) -> str:
    """Return a tokenizer, as JSON, of at most `size` pieces learnt from texts.

    A function of the texts alone. The library numbers pieces within words by the order of a hash
    table, which differs from process to process and decides ties; so all of single letters are
    given to it in order beforehand.
    """
    extras.require("text", "a vocabulary of word pieces")
    from tokenizers import Tokenizer, models, trainers

    plain = _without_template(lowercase=lowercase)
    flat = [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]
    flat = [_without_long_words(plain, text) for text in flat]
    letters = {letter for text in flat for letter in plain.normalizer.normalize_str(text)}
    alphabet = sorted(letter for letter in letters if not letter.isspace())
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in alphabet)],
        show_progress=False,
    )
    plain.train_from_iterator(flat, trainer)
    pieces = sorted(plain.get_vocab().items(), key=lambda item: item[1])
    numbered = {piece: number for number, (piece, _) in enumerate(pieces)}
    learnt = _without_template(lowercase=lowercase)
    learnt.model = models.WordPiece(vocab=numbered, unk_token=UNKNOWN)
    assert isinstance(learnt, Tokenizer)
    return str(learnt.to_str())


def _without_long_words(tokenizer: Any, text: str) -> str:
    """Leave out words that are read as one unknown piece, whatever the vocabulary.

    A vocabulary would take hours to learn from a text of a million letters without a space.
    """
    if _LONG_RUN.search(text) is None:
        return text
    normal = tokenizer.normalizer.normalize_str(text)
    words = tokenizer.pre_tokenizer.pre_tokenize_str(normal)
    return " ".join(word for word, _ in words if len(word) <= LONGEST_WORD)


def _without_template(*, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def numbers_of(tokenizer: str, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Return whole texts as numbers of their pieces, without [CLS], [SEP] and padding.

    Pieces never reach over a space, so each distinct word is read once: many times as fast.
    """
    extras.require("text", "reading texts")
    from tokenizers import Tokenizer

    split = [[word for word in _SPACES.split(text) if word] for text in texts]
    places = {word: place for place, word in enumerate(dict.fromkeys(chain(*split)))}
    encoded = Tokenizer.from_str(tokenizer).encode_batch(list(places), add_special_tokens=False)
    numbers = [np.array(one.ids, np.int32) for one in encoded]
    nothing = np.zeros(0, np.int32)
    return [np.concatenate([nothing, *(numbers[places[w]] for w in words)]) for words in split]


def read_tokenizer(path: Path) -> str:
    """Return a user's own tokenizer as JSON; KtbenchError for one without BERT's special pieces."""
    extras.require("text", "a tokenizer")
    from tokenizers import Tokenizer

    try:
        text = read_regular(path, MOST_TEXT).decode()
        tokenizer = Tokenizer.from_str(text)
        tokenizer.encode("a \ue000")  # a piece that is unknown
    except OSError as error:
        raise KtbenchError(f"data: {path}: {(error.strerror or 'not readable').lower()}") from error
    except KtbenchError:
        raise
    except Exception as error:  # whatever the library raises for one that cannot be used
        raise KtbenchError(
            f"data: {path}: not a tokenizer ({one_line_of(error)}): save it by the tokenizers "
            "library"
        ) from error
    if lacking := [name for name in SPECIAL if tokenizer.token_to_id(name) is None]:
        raise KtbenchError(f"data: {path}: it has no piece {lacking[0]}, as those of BERT have")
    if (size := _size(tokenizer)) > MOST_PIECES:
        raise KtbenchError(
            f"data: {path}: it numbers a piece {size - 1:,}: numbers below {MOST_PIECES:,} are read"
        )
    return text


def _size(tokenizer: Any) -> int:
    """Return the number that follows those of all pieces, which may leave gaps."""
    return int(1 + max(tokenizer.get_vocab().values()))


def segments(ids: NDArray[np.int32], mask: NDArray[np.int32], end: int) -> NDArray[np.int32]:
    """Return 1 for each piece of a pair's second text, its [SEP] included, else 0: (n, length)."""
    ends = (ids == end).astype(np.int32)
    before = np.cumsum(ends, axis=1, dtype=np.int32) - ends
    second: NDArray[np.int32] = np.minimum(before, 1) * mask
    return second


class WordPieces:
    """Turns texts into numbers: [CLS], the pieces, [SEP], and padding up to a length."""

    def __init__(self, tokenizer: str, length: int) -> None:
        extras.require("text", "reading texts")
        from tokenizers import Tokenizer, processors

        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.encode_special_tokens = True  # a text that writes [SEP] does not end there
        self.length = length
        numbers = {name: self._tokenizer.token_to_id(name) for name in SPECIAL}
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}",
            pair=f"{BEGIN} $A {END} $B:1 {END}:1",
            special_tokens=[(name, numbers[name]) for name in (BEGIN, END)],
        )
        self._whole = Tokenizer.from_str(self._tokenizer.to_str())
        self._whole.encode_special_tokens = True  # not a part of the JSON
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(length=length, pad_id=numbers[PAD], pad_token=PAD)

    @property
    def size(self) -> int:
        """Number of pieces: one more than the greatest of their numbers."""
        return _size(self._tokenizer)

    @property
    def special(self) -> dict[str, int]:
        """Numbers of the pieces that are no text, by their names."""
        return {name: int(self._tokenizer.token_to_id(name) or 0) for name in SPECIAL}

    @property
    def end(self) -> int:
        """Number of the piece that ends each text."""
        return int(self._tokenizer.token_to_id(END) or 0)

    @property
    def described(self) -> dict[str, Any]:
        """Return the tokenizer as the library's JSON, for whoever prepares texts elsewhere."""
        described: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return described

    def numbers(self, texts: Sequence[Text]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return ids and mask, each (n, length); of a pair the longer text is cut first."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([one.ids for one in encoded], np.int32).reshape(-1, self.length)
        mask = np.array([one.attention_mask for one in encoded], np.int32)
        return ids, mask.reshape(-1, self.length)

    def remarks(self, by_split: Mapping[str, Sequence[Text]]) -> tuple[str, ...]:
        """Return what is lost of the texts of each split, a line each: see `_Counted`."""
        counted = {split: self._counted(texts) for split, texts in by_split.items()}
        longest = max((c.longest for c in counted.values()), default=0)
        learnt_from: set[bytes] = counted["train"].digests if "train" in counted else set()
        also = {
            split: sum(one in learnt_from for one in c.in_order)
            for split, c in counted.items()
            if split != "train"
        }
        sizes = {split: len(texts) for split, texts in by_split.items()}
        pieces = {split: c.pieces for split, c in counted.items()}
        lines = (
            (
                {split: c.cut for split, c in counted.items()},
                sizes,
                f"texts cut after {self.length} word pieces (the longest has {longest:,})",
            ),
            (
                {split: c.unknown for split, c in counted.items()},
                pieces,
                "word pieces unknown to the vocabulary",
            ),
            (also, sizes, "texts that are in train, too (the same word pieces)"),
        )
        return tuple(f"{what}: {_shares(n, of)}" for n, of, what in lines if any(n.values()))

    def _counted(self, texts: Sequence[Text]) -> _Counted:
        whole = self._whole
        unknown_id, *ends = (whole.token_to_id(name) for name in (UNKNOWN, BEGIN, END))
        cut = unknown = pieces = longest = 0
        digests = []
        for start in range(0, len(texts), _AT_ONCE):
            for one in whole.encode_batch(list(texts[start : start + _AT_ONCE])):
                ids = np.array(one.ids, np.int32)
                cut += len(ids) > self.length
                longest = max(longest, len(ids))
                unknown += int((ids == unknown_id).sum())
                pieces += len(ids) - int(np.isin(ids, np.array(ends)).sum())
                digests.append(hashlib.sha256(ids.data).digest())
        return _Counted(cut, unknown, pieces, longest, digests)


@dataclass(frozen=True)
class _Counted:
    """Counts over the texts of a split."""

    cut: int
    """Texts longer than a network reads."""
    unknown: int
    pieces: int
    """Pieces of the whole texts, without those that begin and end them."""
    longest: int
    in_order: list[bytes]
    """Digest of each text's pieces."""

    @property
    def digests(self) -> set[bytes]:
        return set(self.in_order)


def _shares(counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} of {sizes[split]:,} in {split}" for split, count in counts.items())
