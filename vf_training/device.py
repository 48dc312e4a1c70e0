"""The machine a training runs on: its accelerator, its memory, its cores."""

import gc
import os
import sys

import torch


def has_accelerator() -> bool:
    """Whether there is an accelerator that torch can use: CUDA, MPS, XPU or another of its backends."""
    return torch.accelerator.is_available()


def best_device() -> str:
    """The accelerator if there is one, otherwise the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def describe_device() -> str:
    """The GPU's name, or the CPU with its number of threads, for the notes of a measurement."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Waits for the accelerator, if there is one: its work is queued, and a clock must not stop before it is done."""
    if has_accelerator():
        torch.accelerator.synchronize()


def serving_dtype(device: str | torch.device, half: torch.dtype = torch.float16) -> torch.dtype:
    """The precision to generate in: `half` on CUDA, where it halves memory and time; elsewhere float32."""
    return half if torch.device(device).type == "cuda" else torch.float32


def free_memory() -> None:
    """Gives what nothing refers to any more back to the accelerator, so that other processes can have it."""
    gc.collect()  # modules and their hooks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine had too little memory; backends say so in different ways."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words or "out of memory" in words


def forget_peak_memory() -> None:
    """Makes `peak_memory` count from now on, where there is an accelerator; of a process it cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """The most bytes in use: of the CUDA device since `forget_peak_memory`, if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main_memory() -> int:
    """The bytes of main memory that the machine has in all."""
    import psutil  # comes with accelerate

    return int(psutil.virtual_memory().total)


def accelerator_memory() -> int | None:
    """The bytes of memory that the CUDA device has in all; None without one: others share the main memory."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def use_all_cores(num_processes: int) -> None:
    """Gives each process its share of the CPU's cores. `accelerate launch` sets one thread by default."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))
