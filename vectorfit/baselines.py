"""What VectorFit is compared with where weights change otherwise: LoRA, through PEFT, and full fine-tuning.

LoRA adapts the linear layers that VectorFit adapts; full fine-tuning trains everything. Their files hold the change:
LoRA's two factors of every weight, or the difference of every parameter from the base's. SVFT and the paper's variants
are the core's own (`VectorFitConfig`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .atomic import PathLike, write_atomically
from .config import VectorFitConfig
from .errors import VectorFitError
from .fingerprint import canonical_name, tensors_sha256
from .plan import Models, Plan, join, named_models, plan
from .vectors_file import FORMAT_VERSION, PREFIX, read_metadata, sorted_header

KINDS = ("lora", "full")
RANK = 2  # of LoRA in the paper's Table 5
_PRISTINE = "_vectorfit_pristine"  # an attribute of a module: its weights before a baseline's change was added


class Baseline:
    """One of `KINDS`, put into models: the parameters to train, and how they are saved.

    `seed` is that of LoRA's random first factor.

    Raises:
        VectorFitError: an unknown kind, or nothing to adapt.
    """

    def __init__(self, models: Models, kind: str, rank: int = RANK, seed: int = 0) -> None:
        if kind not in KINDS:
            raise VectorFitError(f"baseline: got {kind!r}, expected one of {', '.join(KINDS)}")
        self.models, self.kind = named_models(models), kind
        self.plan: Plan = plan(models, VectorFitConfig())
        self.paths = {layer.path for layer in self.plan.layers}
        weights = self._weights()
        self.base_sha256 = _hash(weights)
        # Full fine-tuning changes them, and its file holds the differences.
        self.base = {name: value.detach().cpu().clone() for name, value in weights.items()} if kind == "full" else {}
        for model in self.models.values():
            model.requires_grad_(False)
        if kind == "lora":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._inject_lora(rank)
        else:
            for parameter in self._weights().values():
                parameter.requires_grad_(True)

    def _weights(self) -> dict[str, nn.Parameter]:
        """What may change, by its name in the base: everything, or weights and biases of the layers LoRA adapts."""
        found = {}
        for prefix, model in self.models.items():
            for name, parameter in model.named_parameters():
                own = join(prefix, name.replace(".base_layer", ""))
                path, _, kind = own.rpartition(".")
                if self.kind == "full" or (path in self.paths and kind in ("weight", "bias")):
                    found[own] = parameter
        return found

    def _inject_lora(self, rank: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        for prefix, model in self.models.items():
            here = [path for path, _ in model.named_modules() if join(prefix, path) in self.paths]
            exactly = "|".join(map(re.escape, here))  # of a list, PEFT takes every layer whose path ends so
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly, init_lora_weights="gaussian")
            if here:
                inject_adapter_in_model(config, model)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {
            join(prefix, name): parameter
            for prefix, model in self.models.items()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def summary(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters.values())
        share = 100 * count / self.plan.num_total
        return f"{self.kind}: {count:,} parameters trained ({share:.4f} % of {self.plan.num_total:,})"

    def _changes(self) -> dict[str, Tensor]:
        """What the file holds: "PATH.lora_A" [r, in] and "PATH.lora_B" [out, r], or each parameter's difference."""
        if self.kind == "full":
            return {name: (value.detach().cpu() - self.base[name]).float() for name, value in self._weights().items()}
        found = {}
        for name, parameter in self.parameters.items():
            path, factor = name.removesuffix(".default.weight").rsplit(".", 1)
            found[f"{path}.{factor}"] = parameter.detach().float().cpu()
        return found

    def save(
        self,
        path: PathLike,
        *,
        base_model: str,
        base_revision: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Writes the change, LoRA's in float32 and full fine-tuning's in float16. Equal trainings give equal bytes."""
        dtype = torch.float32 if self.kind == "lora" else torch.float16
        changes = {canonical_name(name): value.to(dtype).contiguous() for name, value in self._changes().items()}
        broken = next((name for name, value in changes.items() if not torch.isfinite(value).all()), None)
        if broken is not None:
            raise VectorFitError(f"{path}: not written, {broken} holds NaN or infinity")
        own = {
            "format_version": FORMAT_VERSION,
            "baseline": self.kind,
            "base_model": base_model,
            "base_revision": base_revision or "",
            "base_sha256": self.base_sha256,
            "vectors_sha256": tensors_sha256(changes),
        }
        header = {"format": "pt", **(metadata or {}), **{PREFIX + key: value for key, value in own.items()}}
        write_atomically(path, sorted_header(save(dict(sorted(changes.items())), header)))


def _hash(weights: Mapping[str, Tensor]) -> str:
    return tensors_sha256({canonical_name(name): value.detach().float().cpu() for name, value in weights.items()})


def kind_of(path: PathLike) -> str | None:
    """Which baseline a file is of, None for VectorFit's own. Raises VectorFitError when it is neither."""
    return read_metadata(path).get(PREFIX + "baseline")


@torch.no_grad()
def apply(models: Models, path: PathLike, strength: float = 1.0) -> None:
    """Adds a baseline's change to the models' weights; `restore` takes it away.

    Raises:
        VectorFitError: the file is damaged, or of another base.
    """
    restore(models)
    metadata = read_metadata(path)
    try:
        tensors = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise VectorFitError(f"{path}: cannot be read ({error}); train it again") from error
    if metadata.get(PREFIX + "vectors_sha256") != tensors_sha256(tensors):
        raise VectorFitError(f"{path}: its contents are not those it was written with; fetch or train it again")
    parameters = {
        canonical_name(join(prefix, name)): parameter
        for prefix, model in named_models(models).items()
        for name, parameter in model.named_parameters()
    }
    paths = {name.rpartition(".")[0] for name in tensors}
    lora = metadata[PREFIX + "baseline"] == "lora"
    own = {name: p for name, p in parameters.items() if name in tensors or (lora and name.rpartition(".")[0] in paths)}
    if metadata.get(PREFIX + "base_sha256") != _hash(own):
        base = metadata.get(PREFIX + "base_model")
        raise VectorFitError(f"{path}: made for other weights than these; it was trained on {base!r}, load it on that")
    if lora:
        changes = {f"{layer}.weight": tensors[f"{layer}.lora_B"] @ tensors[f"{layer}.lora_A"] for layer in paths}
    else:
        changes = tensors
    pristine = {name: parameters[name].detach().clone() for name in changes}
    for name, change in changes.items():
        parameters[name].data += strength * change.to(parameters[name])
    for prefix, model in named_models(models).items():
        model.__dict__[_PRISTINE] = {n: v for n, v in pristine.items() if not prefix or n.startswith(f"{prefix}.")}


@torch.no_grad()
def restore(models: Models) -> None:
    """Puts the base's own bits back where a baseline's change was added."""
    for prefix, model in named_models(models).items():
        pristine = model.__dict__.pop(_PRISTINE, {})
        for name, parameter in model.named_parameters():
            kept = pristine.get(canonical_name(join(prefix, name)))
            if kept is not None:
                parameter.data.copy_(kept)
