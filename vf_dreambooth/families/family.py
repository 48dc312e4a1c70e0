"""The interface of a family of base models: presets, models, latents, noise, names in other tools.

Each family implements it in a file of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from vectorfit import VectorFitError
from vectorfit.export import Naming
from vf_dreambooth.presets import TEXT_ENCODERS, Preset

INDEX = "model_index.json"  # the file in which diffusers names a pipeline's class


class NoiseSchedule(ABC):
    """How noise is added in training, and what the model learns to predict from a noisy latent.

    Shapes, here and below: latents and noise [n, c, h, w], timesteps [n] from 0 to `num_timesteps`, whole numbers where
    the model knows no others.
    """

    num_timesteps: int
    prediction_type: str

    @abstractmethod
    def draw_timestep(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A random timestep [1] to train latents of this shape (c, h, w) at."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents [n, c, h, w]."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict [n, c, h, w]."""

    @abstractmethod
    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """The Min-SNR weight of each sample [n]. Source: Hang et al. 2023 (arXiv 2303.09556)."""


class Denoiser(nn.Module, ABC):
    """Text encoders and denoising model as one module: one thing to accumulate over, to wrap and to synchronise."""

    @abstractmethod
    def encode(self, prompt_ids: Tensor) -> Any:
        """The encoded prompts, one for each row of `prompt_ids` [p, length], as `Family.tokenize` gives them."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Any, prompt_index: Tensor) -> Tensor:
        """The prediction [n, c, h, w]; sample i has the encoded prompt number `prompt_index[i]`."""

    kept: Any = None  # encoded prompts

    @torch.no_grad()
    def keep(self, prompt_ids: Tensor) -> None:
        """Encodes prompts for all calls to come, where the text encoder stays as it is."""
        self.kept = self.encode(prompt_ids)

    def forward(self, noisy: Tensor, timesteps: Tensor, prompt_ids: Tensor | None, prompt_index: Tensor) -> Tensor:
        """The prediction [n, c, h, w]. Each prompt is encoded once, however many samples have it.

        Without `prompt_ids`, `prompt_index` is of the prompts that `keep` encoded.
        """
        encoded = self.kept if prompt_ids is None else self.encode(prompt_ids)
        return self.predict(noisy, timesteps, encoded, prompt_index)


class Family(ABC):
    """A family of base models: everything that differs between, say, Stable Diffusion 1 and Flux.

    Attributes:
        name: as messages call it.
        pipeline_classes: names of its pipeline classes in diffusers, as model_index.json has them; `load` gives the
            first.
        parts: the parts that a complete model has, by their names in diffusers.
        single_file_types: what diffusers calls checkpoints of this family in a single file.
        presets: settings of known bases, by their names.
        default_preset: the name of the base whose preset the other bases of the family take.
        hub_tag: the family's tag on the hub.
        takes_other_schedulers: whether it generates with diffusers' schedulers for epsilon and velocity models too.
        half: the half precision that it generates in where that pays.
        takes_negative_prompt: whether it generates away from a second prompt.
        diff_naming: the tool among them whose names ComfyUI reads an exact change under.
        namings: how other tools name the layers of its models, by the tools' names.
    """

    name: str
    pipeline_classes: tuple[str, ...]
    parts: tuple[str, ...]
    single_file_types: tuple[str, ...]
    presets: dict[str, Preset]
    default_preset: str
    hub_tag: str
    takes_other_schedulers: bool = True
    takes_negative_prompt: bool = True
    half: torch.dtype = torch.float16
    diff_naming: str = "kohya"
    namings: Mapping[str, Naming]

    def preset(self, base: str) -> Preset:
        """The preset of a base, by its name."""
        return self.presets.get(base, self.presets[self.default_preset])

    def naming(self, tool: str, pipe: DiffusionPipeline) -> Naming:
        """How a tool names the layers of a pipeline's models.

        Raises:
            VectorFitError: the family has no names for this tool.
        """
        if tool not in self.namings:
            raise VectorFitError(f"naming: got {tool!r}, expected one of {', '.join(self.namings)} for a {self.name}")
        return self.namings[tool]

    def load(self, location: str, revision: str | None = None, variant: str | None = None) -> DiffusionPipeline:
        """Loads a folder, a single file or a hub id in float32. Raises whatever diffusers raises."""
        pipeline, path = getattr(diffusers, self.pipeline_classes[0]), Path(location)
        if path.is_file():
            # diffusers asks the hub for the configuration, unless a folder in its layout is around the file.
            folder = str(path.parent) if (path.parent / INDEX).exists() else None
            return pipeline.from_single_file(str(path), config=folder, torch_dtype=torch.float32)
        absent = dict.fromkeys(self.absent_parts(path))
        return pipeline.from_pretrained(location, revision=revision, variant=variant, dtype=torch.float32, **absent)

    def absent_parts(self, folder: Path) -> list[str]:
        """The parts that a base in a folder may lack, and lacks."""
        return []

    def why_unfit(self, pipe: DiffusionPipeline) -> str:
        """Why a loaded pipeline is not a usable base of this family; empty if it is one."""
        missing = [part for part in self.parts if getattr(pipe, part, None) is None]
        return f"it lacks {', '.join(missing)}" if missing else self.why_unlike(pipe)

    @abstractmethod
    def why_unlike(self, pipe: DiffusionPipeline) -> str:
        """Why a pipeline that has all parts is still not one of this family; empty if it is one."""

    @abstractmethod
    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        """The models that a training adapts, under the names they have in subject files and exports.

        The names are those of the pipeline's parts, so that `TEXT_ENCODERS` matches the text encoders'.
        """

    def models_to_train(self, pipe: DiffusionPipeline, *, text_encoders: bool) -> dict[str, nn.Module]:
        """The adapted models with or without the text encoders.

        Raises:
            VectorFitError: the family adapts no text encoder, and one is asked for.
        """
        models = self.adapted_models(pipe)
        rest = {name: model for name, model in models.items() if not fnmatch(name, TEXT_ENCODERS)}
        if text_encoders and models == rest:
            raise VectorFitError(
                f"--train_text_encoder: a {self.name} reads prompts by a language model, which is not adapted; "
                "leave it out"
            )
        return models if text_encoders else rest

    def unreached(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        """The modules inside the adapted models that no gradient reaches, so that they are left as they are."""
        return []

    @abstractmethod
    def image_models(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        """The models whose weights decide what an image looks like."""

    @abstractmethod
    def encode_images(self, pipe: DiffusionPipeline, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, scaled as the model expects them, each [n, c, h, w].

        Shapes: `pixels` [n, 3, height, width] in -1..1.
        """

    @abstractmethod
    def latent_shape(self, pipe: DiffusionPipeline, resolution: int) -> tuple[int, int, int]:
        """The shape (c, h, w) of the latents of a square image with sides of `resolution` pixels."""

    def call_arguments(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """What the pipeline must be told when it generates, beside prompts, size, steps, guidance and seeds."""
        return {}

    @abstractmethod
    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        """Token ids [p, length], padded and cut to the length that the base was trained with.

        A base with several tokenizers has their ids one after the other in a row.
        """

    @abstractmethod
    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        """The pipeline's models as one trainable module."""

    @abstractmethod
    def noise_schedule(self, pipe: DiffusionPipeline) -> NoiseSchedule:
        """The noise that the base was trained with, whatever scheduler the pipeline generates with."""

    @abstractmethod
    def architecture(self, pipe: DiffusionPipeline) -> str:
        """The base's name in ModelSpec, such as stable-diffusion-v1."""
