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

    return pretend


def test_auto_takes_what_is_there_and_says_what_is_missing(machine):
    machine(cuda=True, triton=True)
    assert choose_device("auto") == select.Device("cuda", kernels=True)
    machine(cuda=True, triton=False)
    found = choose_device("auto")
    assert (found.name, found.kernels) == ("cuda", False)
    assert "triton is not installed" in str(found.note)
    assert "golfpack[gpu]" in str(found.note)
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
    assert "golfpack[gpu]" in str(e.value.hint)
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


def test_a_broken_triton_is_named_as_such(monkeypatch):
    monkeypatch.setattr(select, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "triton.language", None)  # importing it raises ImportError
    select._import_problem.cache_clear()
    works, reason = triton_available()
    select._import_problem.cache_clear()
    assert not works
    assert "cannot be imported (ModuleNotFoundError" in reason
