"""What the machine has: an accelerator or none, memory, cores."""

import os
import weakref

import pytest
import torch

from vf_training import device


def test_the_best_device_takes_tensors_and_is_the_cpu_without_an_accelerator():
    assert (device.best_device() == "cpu") != device.has_accelerator()
    assert torch.ones(2, device=device.best_device()).sum().item() == 2


@pytest.mark.gpu
def test_with_a_gpu_it_is_the_gpu():
    assert device.best_device() == "cuda"
    before = device.peak_memory()
    held = torch.empty(before // 4 + 2**26, device="cuda")
    assert device.peak_memory() >= 4 * held.numel()


@pytest.mark.skipif(torch.cuda.is_available(), reason="then it is the GPU's memory")
def test_the_peak_of_the_process_is_in_bytes_and_never_falls():
    before = device.peak_memory()
    assert 2**24 < before < 2**44  # a process with torch takes more than 16 MiB; kilobytes would be too few
    block = torch.ones(before // 4 + 2**24)  # float32: 64 MiB more than ever before
    after = device.peak_memory()
    assert after > before
    del block
    assert device.peak_memory() >= after


@pytest.fixture
def _threads_come_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_come_back")
@pytest.mark.parametrize(("environment", "processes"), [("1", 1), ("1", 2), ("1", 1000), ("3", 1)])
def test_each_process_gets_its_share_of_the_cores_unless_the_user_chose(monkeypatch, environment, processes):
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    torch.set_num_threads(3)
    device.use_all_cores(processes)
    assert torch.get_num_threads() == (max(1, 8 // processes) if environment == "1" else 3)


def test_pictures_are_drawn_in_half_precision_on_cuda_alone():
    assert device.serving_dtype("cuda:1") == torch.float16
    assert device.serving_dtype("cuda:1", torch.bfloat16) == torch.bfloat16
    assert {device.serving_dtype(kind) for kind in ("cpu", "mps", "xpu")} == {torch.float32}


def test_freeing_memory_collects_what_refers_to_itself():
    class Holder:
        pass

    holder = Holder()
    holder.itself, gone = holder, weakref.ref(holder)
    del holder
    device.free_memory()
    assert gone() is None


@pytest.mark.gpu
def test_a_peak_is_forgotten_and_freed_memory_is_the_cards_again():
    held = torch.empty(2**28, device="cuda")
    high = device.peak_memory()
    del held
    device.free_memory()
    device.forget_peak_memory()
    assert device.peak_memory() <= high - 2**29
    assert torch.cuda.memory_reserved() < high


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert device.is_out_of_memory(error) == expected


def test_the_memory_of_the_machine_is_more_than_a_process_has():
    assert device.main_memory() > device.peak_memory() or device.accelerator_memory()
