"""Writes a run folder: subject file, checkpoints, sample grids, log and card."""

import base64
import json
import shlex
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image

from vf_training import methods
from vf_training.analysis import write_training
from vf_training.device import peak_memory
from vf_training.runs import VECTORS, RunFolder

from . import card, checkpoint, trackers
from .families import family_of
from .images import grid, write_png
from .optimization import Optimization
from .pipeline import generate_images, previewing, quickly
from .residency import drawing_on, unchecked
from .setup import Setup
from .stopwatch import Stopwatch
from .validation import Validation


def what_next(run: RunFolder) -> list[str]:
    """The last lines of a training: where its pictures are, and what to try."""
    settings = run.read_config()["settings"]
    prompt = f"{settings['instance_prompt']} in the snow"
    grids = [f"samples      {grid}" for grid in run.sample_grids()[-1:]]
    generate = f"vectorfit generate --vectors {shlex.quote(str(run.path))} --prompt {json.dumps(prompt)} --compare"
    return [*grids, f"next         {generate}"]


class RunWriter:
    """Writes one run folder. Only the main process writes; on the others every method does nothing."""

    def __init__(
        self,
        setup: Setup,
        pipe: DiffusionPipeline,
        optimization: Optimization,
        accelerator: Accelerator,
        stopwatch: Stopwatch,
    ) -> None:
        self.setup, self.config, self.run = setup, setup.config, setup.run
        self.pipe, self.optimization, self.accelerator, self.stopwatch = pipe, optimization, accelerator, stopwatch
        self.writes = accelerator.is_main_process
        self.validation = Validation(self.config, pipe, setup.held_out) if self.writes and setup.held_out else None
        self.thumbnail: Image.Image | None = None  # the subject in the newest sample grid

    def _modelspec(self) -> dict[str, str]:
        """What other tools list of the file: ModelSpec 1.0.1, with an image of the subject where there is one."""
        side = self.config.resolution
        family = family_of(self.pipe)
        method = "vectorfit" if self.optimization.trains_vectors else self.config.method
        spec = {
            "sai_model_spec": "1.0.1",
            "architecture": f"{family.architecture(self.pipe)}/{method}",
            "implementation": "vectorfit",
            "title": self.config.trigger,
            "trigger_phrase": self.config.trigger,
            "resolution": f"{side}x{side}",
            "prediction_type": family.noise_schedule(self.pipe).prediction_type,
        }
        if self.thumbnail is not None:
            data = BytesIO()
            self.thumbnail.convert("RGB").resize((min(side, 256),) * 2).save(data, format="JPEG", quality=85)
            spec["thumbnail"] = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        return {f"modelspec.{name}": value for name, value in spec.items()}

    def _save(self, path: Path) -> None:
        """Writes the subject file. Equal trainings give equal bytes, so it holds no path and no time."""
        with self.optimization.averaged():
            methods.save(
                self.optimization.trained,
                path,
                base_model=self.setup.base.name,
                base_revision=self.setup.base.revision,
                metadata={
                    "vectorfit.base_variant": self.setup.base.variant or "",
                    "vectorfit.training": json.dumps(self.setup.shaping(), sort_keys=True),
                    **self._modelspec(),
                },
            )

    def sample_grid(self, step: int) -> None:
        """Writes the sample grid of a step, with fixed prompts and seeds. It does not change the training."""
        config, count = self.config, self.config.num_validation_images
        if not (self.writes and count):
            return
        contexts = (
            self.optimization.averaged(),
            previewing(self.pipe),
            unchecked(self.pipe),
            drawing_on(self.pipe, self.accelerator.device),
            quickly(self.pipe, self.setup.base.preset),
            self.accelerator.autocast(),
        )
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            rows = self._rows(count)
        prompts = [preview.prompt for preview in self.setup.previews]
        self.thumbnail = rows[next((i for i, prompt in enumerate(prompts) if config.token in prompt), 0)][0]
        sheet = grid(rows, row_titles=prompts, cell=min(256, max(128, config.resolution)))
        write_png(self.run.sample_grid(step), sheet)
        trackers.send_picture(self.accelerator, "samples", sheet, step)

    def _rows(self, count: int) -> list[list[Image.Image]]:
        """`count` pictures of every preview. Those with the same settings are drawn together."""
        usual, rows = self.setup.generation, self.setup.previews
        drawn: dict[int, list[Image.Image]] = {}
        for settings in dict.fromkeys(row.settings(usual) for row in rows):
            alike = [index for index, row in enumerate(rows) if row.settings(usual) == settings]
            prompts = [rows[index].prompt for index in alike for _ in range(count)]
            seeds = [rows[index].seed + n for index in alike for n in range(count)]
            images = generate_images(self.pipe, prompts, seeds, settings, positions=range(len(prompts)))
            drawn |= {index: images[n * count : (n + 1) * count] for n, index in enumerate(alike)}
        return [drawn[index] for index in range(len(rows))]

    def validate(self) -> dict[str, float]:
        """The validation loss as it is logged, where the run has photos for it. It does not change the training."""
        if self.validation is None:
            return {}
        with self.optimization.averaged():
            return {"validation_loss": self.validation.loss(self.accelerator)}

    def begin(self) -> None:
        """What is known before the first step: the base's sample grid and validation loss."""
        if self.config.num_validation_images:
            self.accelerator.print("samples      drawing those of the base, to compare with")
        self.sample_grid(0)
        if losses := self.validate():
            self.accelerator.print(f"validation   loss {losses['validation_loss']:.4f} before training")
            self.accelerator.log(losses, step=0)

    def log(self, entry: dict) -> None:
        if self.writes:
            self.run.append_log(entry)

    def checkpoint(self, step: int) -> None:
        """Writes all that is needed to resume after `step`, and removes the oldest checkpoints."""
        if not self.writes:
            return
        with self.run.new_checkpoint(step) as folder:
            self._save(folder / VECTORS)
            checkpoint.write_state(
                folder, checkpoint.state_of(self.optimization, self.accelerator, step, self.stopwatch.seconds)
            )
        self.run.keep_checkpoints(list(self.run.checkpoints())[-self.config.checkpoints_total_limit :])

    def finish(self) -> None:
        """Writes the result. A run counts as finished when it has a subject file and a time, so these come last."""
        if self.writes:
            if self.thumbnail is None:  # resumed after the last step; the subject file shows its grid
                self.sample_grid(self.config.max_train_steps)
            card.write(self.setup, family_of(self.pipe))
            if self.optimization.trains_vectors:
                for path in write_training(self.optimization.vectors, self.run.read_log(), self.run.analysis):
                    with Image.open(path) as figure:
                        name = f"analysis/{path.stem}"
                        trackers.send_picture(self.accelerator, name, figure, self.config.max_train_steps)
            self._save(self.run.vectors)
            self.run.write_config(
                {**self.setup.run_config(), "seconds": round(self.stopwatch.seconds, 1), "peak_memory": peak_memory()}
            )
