"""Which device is chosen, and what people are told when something is missing."""

import sys

import pytest
import torch

from golfpack.errors import UsageError
from golfpack.kernels import select
from golfpack.kernels.select import choose_device, triton_available, use_kernels


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """machine(cuda=..., triton=...) pretends."""

    def pretend(*, cuda: bool, triton: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(select, "find_spec", lambda name: object() if triton else None)
        monkeypatch.setattr(select, "_import_problem", lambda: "")
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    return pretend


def test_auto_takes_what_is_there_and_says_what_is_missing(machine):
    machine(cuda=True, triton=True)
    assert choose_device("auto") == select.Device("cuda", kernels=True)
    machine(cuda=True, triton=False)
    found = choose_device("auto")
    assert (found.name, found.kernels) == ("cuda", False)
    assert "triton is not installed" in str(found.note)
    assert "pip install triton" in str(found.note)
    machine(cuda=False, triton=True)
    found = choose_device("auto")
    assert (found.name, found.kernels) == ("cpu", False)
    assert "no CUDA device" in str(found.note)


def test_cuda_wants_all_of_it(machine):
    machine(cuda=True, triton=True)
    assert choose_device("cuda") == select.Device("cuda", kernels=True)
    machine(cuda=True, triton=False)
    with pytest.raises(UsageError, match="triton is not installed") as e:
        choose_device("cuda")
    assert "pip install triton" in str(e.value.hint)
    machine(cuda=False, triton=True)
    with pytest.raises(UsageError, match="no CUDA device"):
        choose_device("cuda")


def test_cpu_asks_nothing_and_other_names_are_unknown(machine):
    machine(cuda=True, triton=True)
    assert choose_device("cpu") == select.Device("cpu", kernels=False)
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        choose_device("tpu")  # type: ignore[arg-type]


def test_kernels_run_on_cuda_alone_unless_asked_for(machine):
    machine(cuda=True, triton=True)
    assert use_kernels(torch.device("cuda"))
    assert not use_kernels(torch.device("cpu"))
    machine(cuda=True, triton=False)
    assert not use_kernels(torch.device("cuda"))


def test_a_triton_that_cannot_be_used_is_named_as_such(machine, monkeypatch):
    machine(cuda=True, triton=True)
    monkeypatch.setattr(select, "_import_problem", lambda: "OSError: libcuda.so")
    assert triton_available() == (False, "triton cannot be imported (OSError: libcuda.so)")
    assert "anew" in str(choose_device("auto").note)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UsageError, match="interpret kernels on the CPU") as e:
        choose_device("cuda")
    assert "unset TRITON_INTERPRET" in str(e.value.hint)


def test_a_failed_import_becomes_half_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.language", None)  # importing it raises ImportError
    select._import_problem.cache_clear()
    said = select._import_problem()
    select._import_problem.cache_clear()
    assert said.startswith("ModuleNotFoundError: ")
