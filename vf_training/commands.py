"""What every command does: starts torch.distributed, and ends with one clear line instead of a traceback."""

import os
import sys
from collections.abc import Callable

from vectorfit import VectorFitError

RESUME = "the same command with --resume_from_checkpoint latest resumes"


def join_processes() -> None:
    """Joins processes that were started together on CPUs.

    accelerate joins them only if a CPU is requested. Otherwise each would train alone and overwrite the others' files.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    from .device import has_accelerator

    if not has_accelerator():
        from accelerate import PartialState

        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # for an Accelerator
        PartialState(cpu=True)  # it ignores the variable


def part_processes() -> None:
    """Destroys the group of `join_processes`: torch warns if a process ends without that."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def hide_loading_bars() -> None:
    """Turns off the progress bars of diffusers and transformers for loading weights from disk, not for downloads."""
    for library in ("diffusers", "transformers"):
        if library in sys.modules:
            logging = sys.modules.get(f"{library}.utils.logging")
            if logging is not None:
                logging.disable_progress_bar()


def status_of(main: Callable[[], None], *, prefix: str = "error", interrupted: str = RESUME) -> int:
    """Runs a command and returns its exit status: 0, 2 for an error that the user can fix, 130 after Ctrl-C.

    Each line of such an error is printed after `prefix`. `interrupted` says what to do after Ctrl-C.
    """
    try:
        main()
    except VectorFitError as error:
        print("\n".join(f"{prefix}: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    except OSError as error:
        message = f"{error.filename}: cannot be read or written ({error.strerror})" if error.filename else str(error)
        print(f"{prefix}: {message}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith(("vectorfit", "vf_")):
            raise  # a bug in this project
        print(f"{prefix}: {package} is not installed: pip install 'vectorfit[all]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0


def exit_clearly(main: Callable[[], None], interrupted: str = RESUME) -> None:
    """Runs a command as a process of its own, which ends with the status of `status_of` if that is not 0."""
    join_processes()
    hide_loading_bars()
    status = status_of(main, interrupted=interrupted)
    if status:
        raise SystemExit(status)
