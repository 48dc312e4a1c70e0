"""What a training leaves behind: subject file, checkpoints, sample grids, log and card."""

import base64
import json
import time
from io import BytesIO
from pathlib import Path

from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import nn

from vf_training import methods
from vf_training.analysis import write_training
from vf_training.device import peak_memory

from . import card, checkpoint
from .images import grid, write_png
from .optimization import Optimization
from .pipeline import previewing, sample
from .prompts import preview_prompts
from .setup import Setup


class Record:
    """One run folder being written. Only the main process writes; on the others every method does nothing."""

    def __init__(
        self,
        setup: Setup,
        pipe: StableDiffusionPipeline,
        models: dict[str, nn.Module],
        optimization: Optimization,
        accelerator: Accelerator,
        began: float,
    ) -> None:
        self.setup, self.config, self.run = setup, setup.config, setup.run
        self.pipe, self.models, self.optimization, self.accelerator = pipe, models, optimization, accelerator
        self.writes = accelerator.is_main_process
        self.began = began  # by time.perf_counter; moved back by what a resumed run took before
        self.shown: Image.Image | None = None  # the subject in the newest sample grid

    @property
    def seconds(self) -> float:
        """What the run has taken so far, class images included, over all its stretches."""
        return time.perf_counter() - self.began

    def _modelspec(self) -> dict[str, str]:
        """How other tools list the file: ModelSpec 1.0.1, with a picture of the subject where one was drawn."""
        side = self.config.resolution
        generation = "v2" if self.pipe.text_encoder.config.hidden_size == 1024 else "v1"
        kind = "vectorfit" if self.optimization.trains_vectors else self.config.method
        spec = {
            "sai_model_spec": "1.0.1",
            "architecture": f"stable-diffusion-{generation}/{kind}",
            "implementation": "vectorfit",
            "title": self.config.trigger,
            "trigger_phrase": self.config.trigger,
            "resolution": f"{side}x{side}",
            "prediction_type": self.pipe.scheduler.config.prediction_type,
        }
        if self.shown is not None:
            data = BytesIO()
            self.shown.convert("RGB").resize((min(side, 256),) * 2).save(data, format="JPEG", quality=85)
            spec["thumbnail"] = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        return {f"modelspec.{name}": value for name, value in spec.items()}

    def _save(self, path: Path) -> None:
        """The subject file; the same training gives the same bytes, so no path and no time goes into it."""
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

    def samples(self, step: int) -> None:
        """The sample grid of a step: fixed prompts, fixed seeds. Training does not notice."""
        config, count = self.config, self.config.num_validation_images
        if not (self.writes and count):
            return
        prompts = preview_prompts(config.instance_prompt, config.class_prompt)
        prompts += [config.validation_prompt] if config.validation_prompt else []
        seeds = [*range(count)] * len(prompts)
        with self.optimization.averaged(), previewing(self.pipe), self.accelerator.autocast():
            asked = [prompt for prompt in prompts for _ in range(count)]
            images = sample(self.pipe, asked, seeds, self.setup.sampling, places=range(len(asked)))
        self.shown = images[0]
        rows = [images[index * count : (index + 1) * count] for index in range(len(prompts))]
        sheet = grid(rows, row_titles=prompts, cell=min(256, max(128, config.resolution)))
        write_png(self.run.samples(step), sheet)

    def log(self, entry: dict) -> None:
        if self.writes:
            self.run.append_log(entry)

    def checkpoint(self, step: int) -> None:
        """Everything to go on from after `step`; the oldest go."""
        if not self.writes:
            return
        with self.run.new_checkpoint(step) as folder:
            self._save(folder / "vectors.safetensors")
            checkpoint.write_state(folder, checkpoint.state_of(self.optimization, self.accelerator, step, self.seconds))
        self.run.keep_checkpoints(list(self.run.checkpoints())[-self.config.checkpoints_total_limit :])

    def resume(self, folder: Path | None) -> int:
        """Takes up a checkpoint, or the beginning where there is none; returns the steps already made."""
        step, seconds = 0, 0.0
        if folder is not None:
            step, seconds = checkpoint.restore(folder, self.optimization, self.accelerator, self.models)
        self.began -= seconds
        if self.writes:
            # What lies beyond would be made again; a log that tells it twice misleads.
            self.run.keep_checkpoints([kept for kept in self.run.checkpoints() if kept <= step])
            self.run.cut_log(step)
        return step

    def finish(self) -> None:
        """The result: it counts as finished once the subject file is there, so that comes last but the time."""
        if self.writes:
            if self.shown is None:  # resumed after the last step, whose grid shows in the file
                self.samples(self.config.max_train_steps)
            card.write(self.setup)
            if self.optimization.trains_vectors:
                write_training(self.optimization.vectors, self.run.read_log(), self.run.path / "analysis")
            self._save(self.run.vectors)
            self.run.write_config(
                {**self.setup.record(), "seconds": round(self.seconds, 1), "peak_memory": peak_memory()}
            )
