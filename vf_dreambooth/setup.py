"""Prepares a run before any model is loaded: settings, base, photos and run folder. Prints them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vectorfit import VectorFitError
from vf_training import methods
from vf_training.options import completed
from vf_training.problems import Problems
from vf_training.runs import RunFolder

from . import footprint, hub, together, trackers
from .base_models import BaseModel, resolve
from .captions import filled, photo_captions
from .checkpoint import find
from .cli import Command, parse, read_settings
from .config import Circumstances, TrainConfig
from .default_runs import newest_run
from .memory_presets import fitted
from .optimization import rates_of
from .photos import Photos, check_photos, digests, photo_paths, read_folder
from .pipeline import GenerationSettings
from .previews import Preview, previews
from .prior import user_class_paths

# What accelerate can do beside giving every process the whole model, and the variable that tells of it.
SPLITTING = {
    "FSDP": "ACCELERATE_USE_FSDP",
    "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
    "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
}


@dataclass(frozen=True)
class Setup:
    """One run: its complete settings, base model, photos and run folder."""

    config: TrainConfig
    base: BaseModel
    photos: Photos
    class_paths: list[Path]  # the user's own class images
    run: RunFolder
    generation: GenerationSettings
    num_processes: int
    previews: list[Preview]  # the rows of the sample grids
    held_out: Photos | None = None  # photos to validate on
    base_chosen: bool = False  # automatically, not by the user
    resume: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the run has its result and needs no more steps. The time is the last thing that a run writes."""
        recorded = self.run.read_config() if self.run.config.exists() else {}
        steps = recorded.get("settings", {}).get("max_train_steps", 0)
        return self.run.vectors.exists() and "seconds" in recorded and steps >= (self.config.max_train_steps or 0)

    def shaping(self) -> dict:
        return self.config.shaping(self.num_processes)

    def run_config(self) -> dict:
        """The content of the run's config.json, before it is known how the run ends."""
        origin = {
            "name": self.base.name,
            "location": self.config.base_model,
            "revision": self.base.revision,
            "variant": self.base.variant,
        }
        pictures = {"photos": self.photos.sha256, "class_images": digests(self.class_paths)}
        return {"settings": self.config.as_dict(), "base": origin, "num_processes": self.num_processes, **pictures}


def subject_folders(folder: Path) -> list[Path]:
    """The folder itself, or its sub-folders with photos if it has no photos itself: one subject each.

    Raises:
        VectorFitError: the folder is missing or unreadable.
    """
    if photo_paths(folder):
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for path in inner if photo_paths(path)] or [folder]


def _of_subject(command: Command, folder: Path) -> Command:
    """The command for one of several subjects, with its own photos and run folder."""
    run = RunFolder(Path(command.config.output_dir) / folder.name) if command.config.output_dir else None
    if run is None and command.resume_from_checkpoint:
        run = newest_run(folder)
    output = str(run.path) if run else None
    own = {"instance_data_dir": str(folder), "output_dir": output, "together": None}  # a run can go on alone
    return replace(command, config=replace(command.config, **own))


def _check_run_folder(config: TrainConfig, resume: str | None) -> None:
    """Raises VectorFitError for a run folder that is in use, or is inside the folder of photos."""
    run, photos = RunFolder(config.output_dir or "."), Path(config.instance_data_dir).resolve()
    inside = run.path.resolve()
    if inside == photos or photos in inside.parents:
        raise VectorFitError(
            f"--output_dir: {run.path} is the folder of the photos or inside it; give a folder elsewhere"
        )
    if run.path.exists() and not run.path.is_dir():
        raise VectorFitError(f"--output_dir: {run.path} is a file, expected a folder")
    if resume is None and (run.vectors.exists() or run.checkpoints()):
        state = "a finished run" if run.vectors.exists() else "a run with checkpoints"
        raise VectorFitError(
            f"--output_dir: {run.path} holds {state}; give another folder, delete that one, or resume with "
            "--resume_from_checkpoint latest"
        )


def _check_resumed(setup: Setup) -> None:
    """Raises VectorFitError if a resumed run was started with other settings or other images."""
    assert setup.resume is not None
    if not setup.run.config.exists():
        return
    if find(setup.run, setup.resume) is None:
        return  # nothing was trained yet: the run starts again, with the new settings
    recorded = setup.run.read_config()
    before = TrainConfig(**{**read_settings(setup.run.config), "output_dir": str(setup.run.path)})
    old, new = before.shaping(recorded.get("num_processes", 1)), setup.shaping()
    if new["max_train_steps"] > old["max_train_steps"] and setup.config.lr_scheduler.startswith("constant"):
        old["max_train_steps"] = new["max_train_steps"]  # with a constant rate, a longer run is the same so far
    problems = [
        f"--{name}: the run was begun with {old[name]!r}, got {new[name]!r}" for name in old if old[name] != new[name]
    ]
    for kind in ("photos", "class_images"):
        then, now = recorded.get(kind, {}), setup.run_config()[kind]
        changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if changed:
            problems.append(f"{kind.replace('_', ' ')}: {', '.join(changed)} changed since the run was started")
    if problems:
        problems.append(
            f"{setup.run.path}: a resumed run must keep its settings; start a new run with another --output_dir"
        )
        raise VectorFitError("\n".join(problems))


def _held_out(config: TrainConfig, photos: Photos | None) -> Photos | None:
    """The photos to validate on, where a folder of them is given.

    Raises:
        VectorFitError: they cannot be read, or some are trained on too.
    """
    if config.validation_data_dir is None:
        return None
    folder = Path(config.validation_data_dir)
    try:
        found = read_folder(folder)
    except VectorFitError as error:
        raise VectorFitError("\n".join(f"--validation_data_dir: {line}" for line in str(error).splitlines())) from error
    trained = {photos.sha256[name] for name in photos.names} if photos else set()
    shared = [name for name in found.names if found.sha256[name] in trained]
    if shared:
        raise VectorFitError(
            f"--validation_data_dir: {', '.join(shared)} in {folder} are trained on too; keep other photos there"
        )
    return found


def _filled_in(config: TrainConfig) -> tuple[TrainConfig, list[Preview]]:
    """The settings with the placeholders of their prompts filled in, and the rows of the sample grids.

    Raises:
        VectorFitError: a wrong placeholder, or the file of prompts cannot be used.
    """
    given, rows, problems = {}, [], Problems()
    for name in ("instance_prompt", "class_prompt", "validation_prompt"):
        with problems.noting():
            try:
                given[name] = (text := getattr(config, name)) and filled(text, config)
            except VectorFitError as error:
                raise VectorFitError(f"--{name}: {error}") from error
    config = replace(config, **given)
    with problems.noting():
        rows = previews(config)
    problems.raise_all()
    return config, rows


def _settle(command: Command, base: BaseModel | None, problems: Problems) -> Setup | None:
    """The setup of one subject, or None if something is wrong, which is added to `problems`."""
    config, photos, class_paths = command.config, None, []
    before = len(problems.messages)
    with problems.noting():
        photos = read_folder(Path(config.instance_data_dir))
    with problems.noting():
        config.noun()
    if config.output_dir:
        with problems.noting():
            _check_run_folder(config, command.resume_from_checkpoint)
    if config.class_data_dir:
        with problems.noting():
            class_paths, _ = user_class_paths(Path(config.class_data_dir), config.num_class_images or 10**9)
            check_photos(class_paths)
    held_out = None
    with problems.noting():
        held_out = _held_out(config, photos)
    if base is None or photos is None or len(problems.messages) > before:
        return None
    config = completed(config, Circumstances(base, _precision(), _accumulation()))
    config = fitted(config, config.memory)
    rows: list[Preview] = []
    with problems.noting():
        photos = replace(photos, captions=photo_captions(photos.captions, photos.names, config))
        if held_out is not None:
            held_out = replace(held_out, captions=photo_captions(held_out.captions, held_out.names, config))
    with problems.noting():
        config, rows = _filled_in(config)
    if config.mixed_precision == "fp16" and not torch.cuda.is_available():
        problems.messages.append("--mixed_precision: fp16 needs a GPU; here bf16 or no")
    with problems.noting():
        footprint.check(base, config)
    preset = base.preset
    steps = preset.quick[1] if preset.quick else preset.num_inference_steps
    generation = GenerationSettings(steps, preset.guidance_scale, config.resolution, config.sample_batch_size)
    chosen, resume = command.config.base_model == "auto", command.resume_from_checkpoint
    class_paths = class_paths[: config.num_class_images]
    run = RunFolder(config.output_dir)
    setup = Setup(config, base, photos, class_paths, run, generation, _num_processes(), rows, held_out, chosen, resume)
    if resume is not None:
        with problems.noting():
            _check_resumed(setup)
    return setup


def _check_machine(command: Command, several: bool) -> None:
    """Raises VectorFitError for missing packages, and for flags that do not work with several subjects."""
    config, problems = command.config, []
    if config.report_to:
        try:
            trackers.check(config.report_to)
        except VectorFitError as error:
            problems.append(str(error))
    if several and config.hub_model_id:
        problems.append("--hub_model_id: several subjects cannot share one repository; leave it out")
    if several and command.resume_from_checkpoint not in (None, "latest"):
        problems.append("--resume_from_checkpoint: several subjects are resumed with latest, got a path")
    if (config.together or 1) > 1:
        problems += together.problems(config, several=several, num_processes=_num_processes())
    for name, variable in SPLITTING.items():
        if os.environ.get(variable, "false").lower() == "true":
            problems.append(
                f"accelerate is configured for {name}, which splits the model; here every process holds it whole. "
                "Use accelerate launch --multi_gpu (or --num_processes 1), or change it with 'accelerate config'"
            )
    if problems:
        raise VectorFitError("\n".join(problems))


def prepare(arguments: Sequence[str] | None) -> tuple[list[Setup], Command]:
    """Prepares the runs of a command line, one per subject, and returns the command too.

    Raises:
        VectorFitError: all errors in flags, folders, photos, base model and run folder, one per line.
    """
    problems, base, folders = Problems(), None, []
    command = parse(arguments, problems)
    config = command.config
    if config.push_to_hub and not (command.dry_run or command.print_config):
        with problems.noting():
            hub.check_login()
    with problems.noting():
        base = resolve(config.base_model, config.revision, config.variant)
    if not any("--instance_dir" in message for message in problems.messages):
        with problems.noting():
            folders = subject_folders(Path(config.instance_data_dir))
    several = bool(folders) and folders != [Path(config.instance_data_dir)]
    with problems.noting():
        _check_machine(command, several)
    commands = [_of_subject(command, folder) if several else command for folder in folders]
    setups = [_settle(each, base, problems) for each in commands]
    problems.raise_all()
    return [setup for setup in setups if setup is not None], command


def announce(setup: Setup, say: Callable[[str], None]) -> None:
    """Prints everything that was chosen or inferred."""
    config, photos = setup.config, setup.photos
    chosen = " (chosen for this machine; --base_model takes another)" if setup.base_chosen else ""
    say(f"base model   {setup.base.name}{chosen}")
    say(f"photos       {len(photos.images)} from {config.instance_data_dir}")
    if photos.ignored:
        say(f"             ignored, not photos: {', '.join(photos.ignored)}")
    own = [caption for caption in photos.captions if caption]
    if own:
        say(f"             {len(own)} with a prompt of their own, such as {own[0]!r}")
    if masked := sum(mask is not None for mask in photos.masks):
        say(f"             {masked} with a mask; what it leaves out counts {config.unmasked_weight}")
    without_token = sum(config.token not in caption for caption in own)
    unnamed = [f"{without_token} prompts of photos do not say {config.token!r}"] if without_token else []
    if config.token not in str(config.instance_prompt):
        unnamed.append(f"the prompt does not say the token {config.token!r}; --token sets the token")
    for warning in photos.warnings(config.resolution or 0) + unnamed:
        say(f"warning      {warning}")
    say(f"prompts      {config.instance_prompt!r} for the subject, {config.class_prompt!r} for its class")
    say(f"prior        {_prior(setup)}")
    batch = config.effective_batch_size * setup.num_processes
    images = f"{batch} photos" + (f" and {batch} class samples" if config.with_class_samples else "")
    *special, main = rates_of(config)
    own_rates = ", ".join(f"{rate.of.replace('_', ' ')} {rate.value}" for rate in special)
    rate = f"rate {main.value}" + (f" ({own_rates})" if own_rates else "")
    say(
        f"training     {config.max_train_steps} steps of {images}, {rate}, seed {config.seed}, {config.mixed_precision}"
    )
    one_rate = config.bias_lr is None and config.optimizer != "prodigy" and methods.find(config.method).trains_biases
    if one_rate and setup.base.preset.bias_lr is None:
        say("             the paper's one rate for sigma and biases: no sweep of ours found one for each here. If the")
        say("             subject does not appear, raise --learning_rate, and try a tenth of it as --bias_lr")
    if config.compile:
        say("compiling    the first step takes a minute or more, and so does the first after a resumed start")
    for line in _several_processes(setup):
        say(line)
    times = f"at step {config.avf_first_step}, then every {config.avf_every}, {config.avf_num_freezes} times"
    if setup.held_out:
        say(f"validation   the loss on {len(setup.held_out.images)} photos in {config.validation_data_dir}")
    say(f"freezing     {f'the top {config.avf_top_k} vectors {times}' if config.freezes else 'none'}")
    say(f"run folder   {setup.run.path}")


def _prior(setup: Setup) -> str:
    config = setup.config
    if config.prior == "drift":
        return f"penalty on drift, weight {config.drift_weight}"
    if config.prior == "base_prediction":
        return f"the base's prediction for the photos under the class prompt, weight {config.prior_loss_weight}"
    if config.prior == "none":
        return "none: the class may drift towards the subject"
    images = f"{config.num_class_images} class images"
    if config.class_data_dir:
        available = len(photo_paths(Path(config.class_data_dir)))
        images = f"{len(setup.class_paths)} of the {available} class images in {config.class_data_dir}"
    return f"{images}, weight {config.prior_loss_weight}"


def _several_processes(setup: Setup) -> list[str]:
    """What changes where several processes train: the batch grows with them, and the machines share files."""
    count, own = setup.num_processes, setup.config.effective_batch_size
    if count == 1:
        return []
    batch = f"{count} processes of {own}: a step takes {count * own} photos at the rate that suits {own}"
    kept = f"; --train_batch_size {own // count} keeps it at {own}" if own % count == 0 else ""
    several = _number("LOCAL_WORLD_SIZE", count) < count
    shared = "several machines: --output_dir must be on a file system that all of them share"
    return [f"warning      {batch}{kept}", *([f"warning      {shared}"] if several else [])]


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else otherwise


def _num_processes() -> int:
    """The number of processes that accelerate launched."""
    return _number("WORLD_SIZE", 1)


def _accumulation() -> int:
    """The batches per update that accelerate was launched or configured with."""
    return _number("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", 1)


def _precision() -> str:
    """The mixed precision that accelerate was launched or configured with, or one that suits the hardware."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched in ("fp16", "bf16"):
        return launched
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # CPUs without bf16 instructions emulate them, ten times slower than float32.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
