"""Names of splits: one rule for folders, files and the splits of a hub's data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ktbench.records import KtbenchError

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words that name a split, in upper or lower case."""

_BY_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")


def split_word(name: str) -> tuple[str, str] | None:
    """Return the one split word of a name, in lower case, and its other words, or None.

    `seg_train` → (`train`, `seg`), `Test2017` → (`test`, ``); `latest` and `train-vs-test` hold
    no split word or several, and name no split.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    hits = [word for word in words if word in _BY_WORD]
    if len(hits) != 1:
        return None
    return hits[0], " ".join(word for word in words if word not in _BY_WORD)


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, whatever else is in it."""
    hit = split_word(name)
    return _BY_WORD[hit[0]] if hit else None


def plain_split(name: str) -> str | None:
    """Return the split that a name stands for where it holds nothing else but numbers."""
    hit = split_word(name)
    return _BY_WORD[hit[0]] if hit and not hit[1] else None


def by_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Map splits to names that go together: `train` and `val`, or `seg_train` and `seg_test`.

    Empty where no name stands for training. Raises KtbenchError when two stand for one split.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        hit = split_word(name)
        if hit is not None:
            groups.setdefault(hit[1], {}).setdefault(_BY_WORD[hit[0]], []).append(name)
    whole = [g for rest, g in groups.items() if "train" in g and (len(g) > 1 or not rest)]
    if not whole:
        return {}
    if len(whole) > 1:
        _refuse_two([name for g in whole for name in g["train"]], "train", where)
    return _single(whole[0], where)


def _single(group: Mapping[str, list[str]], where: str) -> dict[str, str]:
    for split, names in group.items():
        if len(names) > 1:
            _refuse_two(names, split, where)
    return {split: names[0] for split, names in group.items()}


def _refuse_two(names: list[str], split: str, where: str) -> None:
    raise KtbenchError(
        f"data: {where} has {' and '.join(sorted(names))}, both for the {split} split: keep one, "
        f"or put them into one named {split}"
    )
