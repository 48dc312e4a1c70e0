"""What every command of ours does: join its processes, and end with one clear line instead of a traceback."""

import os
import sys
from collections.abc import Callable

import torch

from vectorfit import VectorFitError

from .device import has_accelerator

RESUME = "the same command with --resume_from_checkpoint latest goes on"


def join_processes() -> None:
    """Makes processes that were started together on CPUs find each other.

    accelerate joins them there only when told that CPUs are meant: otherwise each would train alone, over the files of
    the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not has_accelerator():
        from accelerate import PartialState

        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # for an Accelerator
        PartialState(cpu=True)  # which heeds no variable


def part_processes() -> None:
    """Ends what `join_processes` began: torch warns of a group that nobody ended."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def hide_loading_bars() -> None:
    """Turns off the bars with which diffusers and transformers load weights from disk; downloads keep theirs."""
    for library in ("diffusers", "transformers"):
        if library in sys.modules:
            logging = sys.modules.get(f"{library}.utils.logging")
            if logging is not None:
                logging.disable_progress_bar()


def status_of(main: Callable[[], None], *, prefix: str = "error", interrupted: str = RESUME) -> int:
    """Runs a command and returns its exit status: 0, 2 for what the user can mend, 130 after Ctrl-C.

    What the user can mend is printed, a line each after `prefix`; `interrupted` says what to do after Ctrl-C.
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
            raise  # a fault of ours
        print(f"{prefix}: {package} is not installed: pip install 'vectorfit[all]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0


def exit_clearly(main: Callable[[], None], interrupted: str = RESUME) -> None:
    """Runs a command as the process's only work: it ends with the status of `status_of` where that is not 0."""
    join_processes()
    hide_loading_bars()
    status = status_of(main, interrupted=interrupted)
    if status:
        raise SystemExit(status)
