"""Explanations of failed conversions in one line: the operator, what is wrong, what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from ktbench.records import ExportSpec, KtbenchError, one_line

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0e-\x1f\x7f]")
_OPERATOR = (
    re.compile(r"OpOverload\(op='([\w.:]+)'"),
    re.compile(r"[Ll]owering not found:? *([\w.:]+)"),
    re.compile(r"target=torch\.ops\.([\w.]+)"),
    re.compile(r"\boperators? '?([\w.]+::[\w.]+)"),
    re.compile(r"\b((?:aten|prims|prim|onnx|torchvision|tfl|stablehlo)(?:::|\.)\w+(?:\.\w+)?)"),
    re.compile(r"\b(?:op|operator|node)\b[^\w]*\w*\(?([A-Z][A-Z0-9_]{2,})\b"),
)
_MISSING = re.compile(
    r"No ONNX function found|[Ll]owering not found|[Nn]o conversion|UnsupportedOperator"
    r"|operator .* to ONNX .* is not supported|No decompositions registered"
)
_BY_VALUE = re.compile(
    r"GuardOnDataDependent|data-dependent|DynamicControlFlow|UserErrorType.DYNAMIC|SymBool", re.I
)
_GRAPH = re.compile(r" While executing %| Signature: | Caused by: | For more information")
_ADVICE = "leave this format out of exports, or write the network without it"
_LONGEST = 260


def reason_of(error: Exception, spec: ExportSpec) -> str:
    """Return one line on what a converter raised, without colours, advice or stack traces."""
    complete = isinstance(error, KtbenchError)  # what ktbench raises says it all
    texts = [clean(str(error))] if complete else [clean(text) for text in _chain(error)]
    everything = " ".join(texts)
    operator = next(
        (match[1] for text in reversed(texts) for p in _OPERATOR if (match := p.search(text))), None
    )
    if operator is not None and _MISSING.search(everything):
        opset = f" opset {spec.opset}" if spec.format == "onnx" else ""
        return (
            f"{spec.format}{opset} has no operator for {operator}: write the network without it, "
            "or leave this format out of exports"
        )
    if _BY_VALUE.search(everything):
        return (
            f"forward decides by the values that it computes{_place(error)}, which no graph can "
            "hold: compute both ways and choose with torch.where, or leave it out of exports"
        )
    reason = clean(one_line(error))
    innermost = next((text for text in reversed(texts) if text), reason)
    if len(texts) > 1 and innermost not in reason:
        reason = f"{_GRAPH.split(innermost)[0][:_LONGEST]}{_place(error)}"
    reason = _GRAPH.split(reason)[0][:_LONGEST].rstrip(" .:")
    reason = reason if operator is None or operator in reason else f"{operator}: {reason}"
    return reason if _ADVICE in reason else f"{reason}: {_ADVICE}"


def clean(text: str) -> str:
    """Return a text as one line without the codes that colour a terminal."""
    return " ".join(_COLOUR.sub("", text).split())


def _chain(error: BaseException) -> Iterator[str]:
    """Yield the texts of an error and of its causes, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < 20:
        seen.add(id(current))
        kind = "" if isinstance(current, KtbenchError) else f"{type(current).__name__}: "
        yield f"{kind}{current}"
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


def _place(error: BaseException) -> str:
    """Return the innermost line of user code in an error and its causes, if there is one."""
    place = ""
    current: BaseException | None = error
    for _ in range(20):
        if current is None:
            break
        for frame in traceback.extract_tb(current.__traceback__):
            parts = Path(frame.filename).parts
            if "site-packages" not in parts and not set(parts) & {"torch", "ktbench"}:
                place = f" ({Path(frame.filename).name}:{frame.lineno})"
        current = current.__cause__ or current.__context__
    return place
