"""Encoders that turn images and prompts into unit vectors, and their weights."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit import VectorFitError
from vf_dreambooth.base_models import starter_folder

from .preprocess import prepare
from .protocols import EncoderSpec, Preprocess, Protocol

BATCH = 32  # images per forward, padded to it: a score must not depend on the other images of a batch
REMEDY = "name a local file, or use --protocol starter, whose scores cannot be compared with published ones"


@dataclass(frozen=True)
class Encoder:
    """An encoder of images, and of prompts if it has a tokenizer.

    `weights_sha256` identifies the weights; `verified` means that they are known to be the published ones.
    """

    name: str
    preprocess: Preprocess
    weights_sha256: str
    verified: bool
    embed: Callable[[Tensor], Tensor]
    embed_texts: Callable[[list[str]], Tensor] | None = None
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Identifies everything but the image that an embedding depends on."""
        content = f"{self.name} {self.weights_sha256} {self.preprocess} float32"
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings [n, d], float32 on the CPU."""
        embeddings = []
        for start in range(0, len(images), BATCH):
            chunk = torch.stack([prepare(image, self.preprocess) for image in images[start : start + BATCH]])
            padded = torch.cat([chunk, chunk.new_zeros(BATCH - len(chunk), *chunk.shape[1:])])
            embeddings.append(F.normalize(self.embed(padded.to(self.device)).float(), dim=-1)[: len(chunk)].cpu())
        return torch.cat(embeddings)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [n, d] of prompts, each embedded alone."""
        if self.embed_texts is None:
            raise VectorFitError(f"{self.name}: this encoder has no tokenizer; expected one that reads prompts")
        return torch.cat([F.normalize(self.embed_texts([text]).float(), dim=-1).cpu() for text in texts])


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over a model's parameters and buffers: names, shapes and float32 bytes in sorted order."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_file(path: Path | None, spec: EncoderSpec, flag: str) -> bool:
    """Whether a file is known to be the published one. Raises VectorFitError if it is known to be another."""
    if path is None:
        return True
    if not path.is_file():
        raise VectorFitError(f"{flag} {path}: no such file; expected {spec.published}")
    if spec.sha256 is None:
        return False  # the publisher gives no hash
    digest = _file_hash(path)
    if digest != spec.sha256:
        raise VectorFitError(
            f"{flag} {path}: SHA-256 {digest[:16]}..., expected {spec.sha256[:16]}... of {spec.published}; "
            "scores of other weights must not have that name"
        )
    return True


def build_timm(name: str, *, pretrained: bool) -> nn.Module:
    """A vision transformer whose output is the CLS token after the last norm."""
    import timm

    sizes = {"img_size": 224} if "dinov2" in name else {}
    return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="token", **sizes)


def _timm_weights(model: nn.Module, path: Path) -> None:
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    )
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    state = checkpoint_filter_fn(state, model)  # timm resamples position embeddings of another size
    unused = ("head.", "fc_norm.", "mask_token")
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith(unused)})


def _clip(name: str, weights: Path | None) -> nn.Module:
    """A CLIP with the published weights, or with those of a file: a state dict, or OpenAI's TorchScript archive."""
    import open_clip

    if weights is None:
        return open_clip.create_model(name, pretrained="openai", precision="fp32")
    try:
        state = torch.jit.load(weights, map_location="cpu").state_dict()
    except RuntimeError:
        return open_clip.create_model(name, pretrained=str(weights), precision="fp32")
    model = open_clip.create_model(name, pretrained=None, precision="fp32")
    sizes = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # buffers that are not weights
    model.load_state_dict({key: value.float() for key, value in state.items() if key not in sizes})
    return model


def load_dino(spec: EncoderSpec, weights: Path | None, device: str) -> Encoder:
    """The encoder of DINO scores.

    Raises:
        VectorFitError: the weights cannot be downloaded, or the file holds other weights; with what to do.
    """
    verified = _check_file(weights, spec, "--dino_weights")
    if spec.library == "starter":
        return _starter(spec.model, device)
    try:
        model = build_timm(spec.model, pretrained=weights is None)
        if weights is not None:
            _timm_weights(model, weights)
    except Exception as error:  # a hub client or an unknown file may raise anything
        raise _not_available(spec, "--dino_weights", error) from error
    return _ready(spec, model, verified, device, lambda m: m)


def load_clip(spec: EncoderSpec, weights: Path | None, device: str) -> Encoder:
    """The encoder of CLIP-I and CLIP-T. Raises VectorFitError as `load_dino` does."""
    verified = _check_file(weights, spec, "--clip_weights")
    if spec.library == "starter":
        return _starter(spec.model, device)
    import open_clip

    try:
        model = _clip(spec.model, weights)
        tokenizer = open_clip.get_tokenizer(spec.model)
    except Exception as error:
        raise _not_available(spec, "--clip_weights", error) from error
    return _ready(spec, model, verified, device, lambda m: m.encode_image, lambda m: _reader(m, tokenizer, device))


def _not_available(spec: EncoderSpec, flag: str, error: Exception) -> VectorFitError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return VectorFitError(f"{spec.model}: its weights ({spec.published}) are not available: {reason}; {flag}: {REMEDY}")


def _ready(
    spec: EncoderSpec,
    model: nn.Module,
    verified: bool,
    device: str,
    images: Callable[[nn.Module], Callable[[Tensor], Tensor]],
    texts: Callable[[nn.Module], Callable[[list[str]], Tensor]] | None = None,
) -> Encoder:
    model = model.float().eval().requires_grad_(False).to(device)
    assert spec.preprocess is not None
    reader = texts(model) if texts else None
    return Encoder(spec.model, spec.preprocess, weights_hash(model), verified, images(model), reader, device)


def _reader(model: nn.Module, tokenize: Callable[[list[str]], Tensor], device: str) -> Callable[[list[str]], Tensor]:
    return lambda texts: model.encode_text(tokenize(texts).to(device))


def _starter(name: str, device: str) -> Encoder:
    """An encoder of the starter, from a folder with config.json and model.safetensors."""
    folder = starter_folder().parent / name
    try:
        config = json.loads((folder / "config.json").read_text())
        state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    except OSError as error:
        raise VectorFitError(
            f"{folder}: the starter's {name} is missing ({error.strerror}); use a full checkout"
        ) from error
    preprocess = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config["preprocess"].items()
    }
    spec = EncoderSpec("starter", f"starter-{name}", Preprocess(**preprocess))
    if config["architecture"] == "timm":
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(**config["model"])
        model.load_state_dict(state)
        return _ready(spec, model, True, device, lambda m: m)
    from open_clip import CLIP
    from transformers import CLIPTokenizer

    model = CLIP(**config["model"])
    model.load_state_dict(state)
    tokenizer = CLIPTokenizer.from_pretrained(starter_folder() / "tokenizer")
    length = config["model"]["text_cfg"]["context_length"]

    def tokenize(texts: list[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        return tokenizer(texts, **options).input_ids

    return _ready(spec, model, True, device, lambda m: m.encode_image, lambda m: _reader(m, tokenize, device))


@dataclass(frozen=True)
class Encoders:
    """The two encoders of a protocol."""

    dino: Encoder
    clip: Encoder

    @classmethod
    def load(
        cls, protocol: Protocol, dino_weights: Path | None = None, clip_weights: Path | None = None, device: str = "cpu"
    ) -> "Encoders":
        missing = [name for name in ("timm", "open_clip") if importlib.util.find_spec(name) is None]
        if missing:
            raise VectorFitError(
                f"{' and '.join(missing)}: not installed, but needed for scores; pip install vectorfit[eval]"
            )
        return cls(load_dino(protocol.dino, dino_weights, device), load_clip(protocol.clip, clip_weights, device))
