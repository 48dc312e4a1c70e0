"""The machine a training runs on: its accelerator, its memory, its cores."""

import os
import sys

import torch


def has_accelerator() -> bool:
    """Whether there is a GPU that torch can use."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def best_device() -> str:
    """The accelerator where there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def peak_memory() -> int:
    """Bytes at the peak so far: of the accelerator where there is one, otherwise of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def use_all_cores(num_processes: int) -> None:
    """Gives each process its share of the CPU's cores: `accelerate launch` leaves one thread unless told otherwise."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))
