"""The instruction sets that kernels here really use: other sets give other bits.

Found out from the processor's flags and the environment, as nothing heavy is to be imported;
`tests/networks/test_instruction_set.py` holds them against what torch says.
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
"""What torch compiles its own kernels for, from the least on, and the flags that each needs."""
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
"""Likewise of oneDNN, by the names that its variable takes."""
_MKL = ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")


def instruction_set(environment: Mapping[str, str] | None = None) -> str | None:
    """`AVX512, oneDNN AVX512_CORE_BF16`, say, variables of the environment obeyed.

    None where it cannot be known: on other processors than x86, and other systems than Linux.
    """
    given = os.environ if environment is None else environment
    flags = _flags()
    if not flags:
        return None
    torch = _highest(_TORCH, flags, given.get("ATEN_CPU_CAPABILITY", ""))
    named = given.get("ONEDNN_MAX_CPU_ISA") or given.get("DNNL_MAX_CPU_ISA", "")
    parts = [torch, f"oneDNN {_highest(_ONEDNN, flags, named)}"]
    parts += [f"{name}={given[name]}" for name in _MKL if given.get(name)]
    return ", ".join(parts)


def kind() -> str:
    """The kind of machine that names what is kept: with its instruction set where that is not the
    processor's own, so that what was kept before keeps its name."""
    here = instruction_set()
    return platform.machine() if here == instruction_set({}) else f"{platform.machine()}, {here}"


def _highest(known: Sequence[tuple[str, tuple[str, ...]]], flags: frozenset[str], most: str) -> str:
    """The highest set that the processor has, up to `most` where that is one of them."""
    names = [name for name, _ in known]
    last = names.index(most.upper()) if most.upper() in names else len(names) - 1
    return [name for name, needed in known[: last + 1] if flags.issuperset(needed)][-1]


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
