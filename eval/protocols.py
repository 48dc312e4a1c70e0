"""Named, versioned protocols: encoders and preprocessing. Results of different protocols are never compared."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from vectorfit import VectorFitError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Preprocess:
    """Short side to `resize` (bicubic, antialiased, by Pillow), the centre `crop` square, then mean and std."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: the library that builds it ("timm", "open_clip", or "starter" for ours) and its name there.

    `sha256` is the hash of the published weights' file, if it is known.
    """

    library: str
    model: str
    preprocess: Preprocess | None = None  # None for the starter's encoders, whose folder has it
    published: str = ""  # the source of the weights, and the file for --dino_weights or --clip_weights
    sha256: str | None = None


@dataclass(frozen=True)
class Protocol:
    """The two encoders, and the text that CLIP-T compares an image with.

    DINO and CLIP-I are the mean cosine of all pairs of a generated and a real image, per subject and then over
    subjects. CLIP-T is the cosine of image and prompt; `text` "without-token" leaves out the unique token.
    """

    name: str
    version: int
    dino: EncoderSpec
    clip: EncoderSpec
    labels: tuple[str, str, str] = ("DINO", "CLIP-I", "CLIP-T")
    text: str = "without-token"

    @property
    def hash(self) -> str:
        """A hash of everything that a score depends on."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


DINO_S16 = EncoderSpec(
    "timm",
    "vit_small_patch16_224.dino",
    Preprocess(256, 224, *IMAGENET),
    "timm/vit_small_patch16_224.dino, or facebookresearch/dino's dino_deitsmall16_pretrain.pth",
)
CLIP_B32 = EncoderSpec(
    "open_clip",
    "ViT-B-32-quickgelu",
    Preprocess(224, 224, *OPENAI),
    "OpenAI's ViT-B-32.pt",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
)
CLIP_L14 = EncoderSpec(
    "open_clip",
    "ViT-L-14-quickgelu",
    Preprocess(224, 224, *OPENAI),
    "OpenAI's ViT-L-14.pt",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
)
DINOV2_B14 = EncoderSpec(
    "timm", "vit_base_patch14_dinov2.lvd142m", Preprocess(256, 224, *IMAGENET), "timm/vit_base_patch14_dinov2.lvd142m"
)

USUAL = "dreambench-2023"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Ruiz et al. 2023, arXiv 2208.12242, and the choices of the code that followed it.
        Protocol("dreambench-2023", 1, DINO_S16, CLIP_B32),
        Protocol("clip-l14", 1, DINO_S16, CLIP_L14, ("DINO", "CLIP-I (L/14)", "CLIP-T (L/14)")),
        Protocol("dinov2", 1, DINOV2_B14, CLIP_B32, ("DINOv2", "CLIP-I", "CLIP-T")),
        Protocol(
            "starter",
            1,
            EncoderSpec("starter", "dino"),
            EncoderSpec("starter", "clip"),
            ("starter DINO", "starter CLIP-I", "starter CLIP-T"),
        ),
    )
}


def named(name: str, *, with_token: bool = False) -> Protocol:
    """The protocol of a name. Raises VectorFitError for an unknown name."""
    if name not in PROTOCOLS:
        raise VectorFitError(f"--protocol: got {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return dataclasses.replace(PROTOCOLS[name], text="with-token") if with_token else PROTOCOLS[name]
