"""The instruction set that figures are taken on is found out, recorded and never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktbench.networks.instruction_set import instruction_set, kind
from ktbench.results import ResultsFolder
from ktbench.results.membership import refuse_to_mix
from ktbench.system.provenance import collect
from tests.support.instruction_sets import SETS, python
from tests.support.running import Commands, write_matrix

SAID = """
import torch
from ktbench.networks.instruction_set import instruction_set
torch.nn.functional.conv2d(torch.zeros(1, 8, 4, 4), torch.zeros(8, 8, 1, 1))
print(instruction_set().partition(",")[0], torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.slow
@pytest.mark.parametrize("under", ["native", "default"])
def test_what_the_environment_leaves_of_the_processor_is_what_torch_uses(under: str) -> None:
    ran = python(["-c", SAID], under, checked=False)
    ours, torchs = ran.stdout.split()
    assert ours == torchs, ran.stderr


def test_a_cap_on_onednn_is_obeyed_and_what_is_no_name_of_a_set_is_not() -> None:
    assert str(instruction_set(SETS["AVX2"])).endswith("oneDNN AVX2")
    assert str(instruction_set({"DNNL_MAX_CPU_ISA": "avx2"})).endswith("oneDNN AVX2")
    assert instruction_set({"ONEDNN_MAX_CPU_ISA": "ALL"}) == instruction_set({})
    assert str(instruction_set({"MKL_CBWR": "COMPATIBLE"})).endswith(", MKL_CBWR=COMPATIBLE")


def test_what_is_kept_has_another_name_under_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = kind()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX")
    assert kind() != usual


@pytest.mark.slow
def test_a_run_under_another_set_is_refused_and_a_folder_that_names_none_is_not(
    ktbench: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = write_matrix(Path("m.yaml"), methods=["none"])
    ktbench.here = True
    run = ("run", matrix, "--results", "r")
    assert ktbench(*run).code == 0
    results = ResultsFolder(Path("r"))
    here = collect().instruction_set
    assert here and results.lock().provenance.instruction_set == here
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX")
    refused = ktbench(*run)
    assert refused.code == 2
    assert f"instruction set {here}, this run has" in refused.err
    lock = results.lock()
    for old, new in ((None, here), (here, None)):
        provenances = [
            lock.provenance.model_copy(update={"instruction_set": i}) for i in (old, new)
        ]
        refuse_to_mix(Path("r"), *(lock.model_copy(update={"provenance": p}) for p in provenances))
