"""From PEFT's adapter folders to subject files and back."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vectorfit.atomic import PathLike, write_atomically
from vectorfit.errors import VectorFitError
from vectorfit.fingerprint import base_matrix, by_canonical_path, canonical_name, sketch, weights_sha256
from vectorfit.injection import inject, remove
from vectorfit.modules import Models, join, named_models, vectorfit_layers
from vectorfit.record import injection_of
from vectorfit.vectors_file import load_vectors, save_vectors

from .config import NAME, VectorFitConfig
from .layer import PARAMETERS
from .model import verify

WEIGHTS = "adapter_model.safetensors"
WRAPPER = "base_model.model."  # what PEFT puts before every name in a file


def to_subject_file(
    models: Models, folder: PathLike, path: PathLike, *, base_model: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a PEFT adapter's folder as a subject file. `models` is the plain base, of one folder or several by name.

    Of several models, {"unet": unet, "text_encoder": text_encoder}, each has its adapter in a subfolder of its name.

    Raises:
        VectorFitError: the folder holds no VectorFit adapter, or one that does not fit the base.
    """
    adapters = {name: _read_adapter(Path(folder) / name) for name in named_models(models)}
    configs = [config for config, _ in adapters.values()]
    vectors = {join(n, path): v for n, (_, tensors) in adapters.items() for path, v in _vectors_in(tensors).items()}
    saved = {join(n, path): v for n, (_, tensors) in adapters.items() for path, v in _saved_in(tensors).items()}
    targets = {name.rpartition(".")[0] for name in vectors}
    core = dataclasses.replace(
        configs[0].core(sorted(targets)), modules_to_save=tuple({n.rpartition(".")[0] for n in saved})
    )
    inject(models, core)
    parameters = injection_of(models).parameters
    try:
        for name, (config, _) in adapters.items():
            layers = by_canonical_path(dict(vectorfit_layers(named_models(models)[name])))
            verify(f"{folder}/{name}", config, {path: base_matrix(layer) for path, layer in layers.items()})
        unmatched = set(parameters) ^ (set(vectors) | set(saved))
        if unmatched:
            raise VectorFitError(
                f"{folder}: {sorted(unmatched)[0]} and {len(unmatched) - 1} more are not in both adapter and model"
            )
        for name, value in {**vectors, **saved}.items():
            if parameters[name].shape != value.shape:
                raise VectorFitError(
                    f"{folder}: {name} has shape {tuple(value.shape)}, expected {tuple(parameters[name].shape)}; "
                    "give the base that the adapter was trained on, with its head"
                )
            parameters[name].data.copy_(value)
        save_vectors(models, path, base_model=base_model, metadata=metadata)
    finally:
        remove(models)


def to_adapter(models: Models, path: PathLike, folder: PathLike) -> None:
    """Writes a subject file as a PEFT adapter's folder. `models` as for `to_subject_file`; they stay as they are.

    Raises:
        VectorFitError: as `vectorfit.load_vectors` does.
    """
    present_layer = next(vectorfit_layers(models), None)
    if present_layer is not None:
        raise VectorFitError(
            f"{present_layer[0]} is a VectorFit layer; expected the plain base: vectorfit.remove(model)"
        )
    metadata = load_vectors(models, path)
    try:
        core = json.loads(metadata["vectorfit.config"])
        present = {canonical_name(name) for name in load_file(path)}
        for prefix, model in named_models(models).items():
            injection = injection_of(model)
            values = {name: v for name, v in injection.vectors.items() if canonical_name(join(prefix, name)) in present}
            tensors = {_adapter_name(name): value for name, value in values.items()}
            tensors |= {f"{WRAPPER}{name}": value for name, value in injection.head_parameters.items()}
            layers = by_canonical_path(injection.layers, {canonical_name(name.rpartition(".")[0]) for name in values})
            config = VectorFitConfig(
                target_modules=sorted({name.rpartition(".")[0] for name in values}),
                modules_to_save=sorted(injection.heads) or None,
                variant=core["variant"],
                norm_biases=core["bias"] == "all",
                pattern=core.get("pattern", "plain"),
                pattern_width=core.get("pattern_width", 1),
                base_model_name_or_path=metadata["vectorfit.base_model"],
                base_sha256=weights_sha256(layers),
                base_sketch=sketch(layers),
                inference_mode=True,
            )
            config.save_pretrained(str(Path(folder) / prefix))
            kept = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
            write_atomically(Path(folder) / prefix / WEIGHTS, save(kept, {"format": "pt"}))
    finally:
        remove(models)


def _adapter_name(name: str) -> str:
    """A vector's name in an adapter's file: "0.sigma" is "base_model.model.0.vectorfit_sigma"."""
    path, _, kind = name.rpartition(".")
    return f"{WRAPPER}{path}.{PARAMETERS[kind]}"


def _read_adapter(folder: Path) -> tuple[VectorFitConfig, dict[str, Tensor]]:
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise VectorFitError(f"{folder}: not a PEFT adapter's folder ({error})") from error
    if not isinstance(config, VectorFitConfig):
        raise VectorFitError(f"{folder}: an adapter of type {config.peft_type}, expected {NAME}")
    return config, {name.removeprefix(WRAPPER): value for name, value in tensors.items()}


def _vectors_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kinds = {attribute: kind for kind, attribute in PARAMETERS.items()}
    split = {name: name.rpartition(".") for name in tensors}
    return {f"{path}.{kinds[last]}": tensors[name] for name, (path, _, last) in split.items() if last in kinds}


def _saved_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of modules trained whole."""
    return {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in PARAMETERS.values()}
