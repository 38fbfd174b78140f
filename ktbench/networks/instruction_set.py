"""Instruction sets that kernels really use on this machine: other sets give other bits.

They are derived from the processor's flags and the environment without importing anything heavy;
`tests/networks/test_instruction_set.py` compares them with torch's own report.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")
_TORCH = (("DEFAULT", ()), ("AVX2", _AVX2), ("AVX512", _AVX512))
"""Sets for which torch compiles its own kernels, ascending, with the flags that each needs."""
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_FP16 = (*_BF16, "avx512_fp16")
_ONEDNN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GENERIC", ()),
    ("SSE41", ("sse4_1",)),
    ("AVX", ("avx",)),
    ("AVX2", _AVX2),
    ("AVX2_VNNI", (*_AVX2, "avx_vnni")),
    ("AVX512_CORE", _AVX512),
    ("AVX512_CORE_VNNI", _VNNI),
    ("AVX512_CORE_BF16", _BF16),
    ("AVX512_CORE_FP16", _FP16),
    ("AVX512_CORE_AMX", (*_FP16, "amx_bf16", "amx_int8")),
)
"""Sets of oneDNN, likewise, by the names that its variable takes."""
_MKL = ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")


def instruction_set(environment: Mapping[str, str] | None = None) -> str | None:
    """Describe the instruction set as the environment limits it: `AVX512, oneDNN AVX512_CORE_BF16`.

    None where it cannot be known: on other processors than x86, and other systems than Linux.
    """
    variables = os.environ if environment is None else environment
    flags = _flags()
    if not flags:
        return None
    torch = _highest(_TORCH, flags, variables.get("ATEN_CPU_CAPABILITY", ""))
    limit = variables.get("ONEDNN_MAX_CPU_ISA") or variables.get("DNNL_MAX_CPU_ISA", "")
    parts = [torch, f"oneDNN {_highest(_ONEDNN, flags, limit)}"]
    parts += [f"{name}={variables[name]}" for name in _MKL if variables.get(name)]
    return ", ".join(parts)


def kind() -> str:
    """Name the kind of machine in names of cached files.

    The instruction set is part of it only where it is not the processor's own, so that older files
    keep their names.
    """
    here = instruction_set()
    return platform.machine() if here == instruction_set({}) else f"{platform.machine()}, {here}"


def _highest(sets: Sequence[tuple[str, tuple[str, ...]]], flags: frozenset[str], most: str) -> str:
    """Return the highest set that the processor has, up to `most` where that is one of them."""
    names = [name for name, _ in sets]
    last = names.index(most.upper()) if most.upper() in names else len(names) - 1
    return [name for name, needed in sets[: last + 1] if flags.issuperset(needed)][-1]


@cache
def _flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    except (OSError, UnicodeDecodeError):
        pass
    return frozenset()
