"""Reads a folder of photos and their captions, and reports what is wrong with them."""

import hashlib
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from vectorfit import VectorFitError
from vf_training.problems import Problems

from .captions import read_lines
from .masks import is_mask, mask_path, read_mask

pillow_heif.register_heif_opener()

# Pillow picks the decoder by content. Only these are allowed: a PSD or EPS file named .png must not be decoded.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
READABLE = "JPEG, PNG, WebP, AVIF or HEIC"  # in messages
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp"}
FRAMES_ADVICE = "save single frames of it as JPEG, as with: ffmpeg -i FILE -r 1 frame%02d.jpg"
# The first bytes of other files (at an offset), and what to call them in messages.
SIGNATURES = {
    (0, b"8BPS"): "a Photoshop file",
    (0, b"%!PS"): "an EPS file",
    (0, b"\xc5\xd0\xd3\xc6"): "an EPS file",
    (0, b"GIF8"): "a GIF",
    (0, b"BM"): "a BMP",
    (0, b"II*\0"): "a TIFF",
    (0, b"MM\0*"): "a TIFF",
    (0, b"%PDF"): "a PDF",
    **{(4, b"ftyp" + brand): "a damaged HEIC or AVIF" for brand in (b"heic", b"heix", b"mif1", b"avif")},
    **{(4, b"ftyp" + brand): "a sequence of HEIC or AVIF frames" for brand in (b"hevc", b"msf1", b"avis")},
    (4, b"ftyp"): "a video",
    (0, b"\x1a\x45\xdf\xa3"): "a video",
    (8, b"AVI "): "a video",
}
# Bits of 64 in which two perceptual hashes differ. Photos of DreamBench's subjects differ in 12 and more; the same
# photo scaled, brightened, saved again or cut by 2 % in up to 10.
NEAR_DUPLICATE = 8


@dataclass(frozen=True)
class Photos:
    """The photos of a folder by name, upright and RGB, with their own prompts and masks or None; the ignored files."""

    images: list[Image.Image]
    names: list[str]
    ignored: list[str]
    captions: list[str | None] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)  # of every file by name, captions and masks included
    masks: list[Image.Image | None] = field(default_factory=list)

    def small(self, resolution: int) -> list[int]:
        """The indices of photos that are smaller than the training resolution."""
        return [index for index, image in enumerate(self.images) if min(image.size) < resolution]

    def alike(self) -> list[tuple[int, int]]:
        """The pairs of photos that are nearly the same picture."""
        hashes = [imagehash.phash(image) for image in self.images]
        return [(i, j) for i, j in combinations(range(len(hashes)), 2) if hashes[i] - hashes[j] <= NEAR_DUPLICATE]

    def warnings(self, resolution: int) -> list[str]:
        """Warnings before a training: small photos, near-duplicates, few photos."""
        names = self.names
        small = [
            f"{names[i]} is {self.images[i].width} x {self.images[i].height}, "
            f"smaller than the {resolution} pixels trained on"
            for i in self.small(resolution)
        ]
        alike = [f"{names[i]} and {names[j]} are nearly the same picture" for i, j in self.alike()]
        few = [f"only {len(self.images)} photo(s); three to ten work better"] if len(self.images) < 3 else []
        return small + alike + few


def _refusal(path: Path, error: Exception) -> str:
    """Why a file cannot be read as a photo, and what to do."""
    start, remedy = path.read_bytes()[:32] if path.is_file() else b"", "repair, convert or remove it"
    if not start:
        return f"it is empty, 0 bytes; {remedy}"
    kind = next((name for (at, magic), name in SIGNATURES.items() if start[at:].startswith(magic)), "")
    if kind in ("a video", "a sequence of HEIC or AVIF frames"):
        return f"not a {READABLE} but {kind}; {FRAMES_ADVICE}"
    if isinstance(error, UnidentifiedImageError):
        return f"not a {READABLE}" + (f" but {kind}" if kind else "") + f"; {remedy}"
    return f"{error}; {remedy}"


def _upright(path: Path) -> Image.Image:
    """One photo as it is stored, but turned upright as its camera says.

    Raises:
        VectorFitError: it is not a readable photo, or an animation.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1) if image.format in ("WEBP", "AVIF", "PNG") else 1
            upright = ImageOps.exif_transpose(image)
            upright.load()
    except PermissionError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); allow it or remove it") from error
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise VectorFitError(f"{path}: cannot be read as an image: {_refusal(path, error)}") from error
    if frames > 1:
        raise VectorFitError(f"{path}: an animation of {frames} frames, expected a photo; {FRAMES_ADVICE}")
    return upright


def open_photo(path: Path) -> Image.Image:
    """One photo, RGB: turned upright as its camera says, transparency laid over white.

    Raises:
        VectorFitError: it is not a readable photo.
    """
    return _rgb(_upright(path))


def _rgb(upright: Image.Image) -> Image.Image:
    """A picture in RGB, its transparency laid over white."""
    if upright.mode.startswith("I"):  # 16 bits a pixel, which a plain conversion would turn white
        return Image.fromarray((np.asarray(upright, np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise VectorFitError(
            f"{folder}: no such folder; expected a folder with three to ten photos of one subject"
        ) from error
    except NotADirectoryError as error:
        raise VectorFitError(f"{folder}: a file; expected a folder with three to ten photos of one subject") from error
    except OSError as error:
        raise VectorFitError(f"{folder}: cannot be read ({error.strerror}); allow reading it") from error


def photo_paths(folder: Path) -> list[Path]:
    """The files of a folder whose names are those of photos, without masks, sub-folders and hidden files.

    Raises:
        VectorFitError: the folder is missing or unreadable.
    """
    entries = _entries(folder)
    photos = [p for p in entries if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return [p for p in photos if not is_mask(p)]


def _caption(path: Path) -> str | None:
    """The prompt in PHOTO.txt beside a photo. Raises VectorFitError when that file cannot be read or is empty."""
    beside = path.with_suffix(".txt")
    return " ".join(read_lines(beside)) if beside.exists() else None


def read_folder(folder: Path) -> Photos:
    """All photos of a folder with their captions and masks. Sub-folders, hidden files and other files are ignored.

    Raises:
        VectorFitError: the folder is missing or has no photo, or photos, captions or masks cannot be used (all are
            named).
    """
    paths, problems = photo_paths(folder), Problems()
    companions = [beside for p in paths for beside in (p.with_suffix(".txt"), mask_path(p)) if beside.exists()]
    used = {p.name for p in (*paths, *companions)}
    ignored = [p.name for p in _entries(folder) if p.name not in used]
    if not paths:
        content = f"found only {', '.join(ignored[:3])}" if ignored else "it is empty"
        videos = any(Path(name).suffix.lower() in VIDEO_SUFFIXES for name in ignored)
        advice = f"; from a video, {FRAMES_ADVICE}" if videos else ""
        raise VectorFitError(f"{folder}: no photos, {content}; expected {READABLE} files of one subject{advice}")
    images, captions, masks = [], [], []
    for path in paths:
        with problems.noting():
            upright = _upright(path)
            images.append(_rgb(upright))
            masks.append(read_mask(path, upright))
        with problems.noting():
            captions.append(_caption(path))
    for name in ignored:
        if is_mask(Path(name)):
            problems.messages.append(f"{folder / name}: a mask without its photo; name it after the photo or remove it")
    problems.raise_all()
    return Photos(images, [p.name for p in paths], ignored, captions, digests(paths + companions), masks)


def digests(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_photos(paths: list[Path]) -> None:
    """Tries to open every photo. Raises VectorFitError with all that cannot be read."""
    problems = Problems()
    for path in paths:
        with problems.noting():
            open_photo(path)
    problems.raise_all()
