"""How well a subject's likeness, the prompt and the class are balanced in its pictures.

Three scores, each from 0 to 1, are read between rows that need no subject:

- likeness, the mean of DINO and CLIP-I: 0 where the base's pictures of the class are, 1 where the photos are to each
  other;
- prompt, by CLIP-T: 0 where the photos are, which ignore every prompt, 1 where the base is;
- class, by drift: 0 where two of the base's class pictures differ as much, 1 where the class did not change.

The balance is their harmonic mean, which the weakest of the three decides.
"""

from dataclasses import dataclass
from statistics import fmean, harmonic_mean

from torch import Tensor

from .scoring import ceiling, pairwise


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of pictures: by DINO of the subject's and the class's, by CLIP of the subject's. Each [n, d]."""

    dino: Tensor
    cls: Tensor
    clip: Tensor


@dataclass(frozen=True)
class Scores:
    """The field's scores of a candidate, its three shares of 0 to 1 (None where they cannot be told), the balance."""

    dino: float
    clip_i: float
    clip_t: float
    drift: float
    likeness: float | None
    prompt: float | None
    cls: float | None
    balance: float


def share(value: float, zero: float, one: float) -> float | None:
    """Where a value lies between what counts 0 and what counts 1, cut off at both; None where these are the same."""
    return None if abs(one - zero) < 1e-6 else min(1.0, max(0.0, (value - zero) / (one - zero)))


@dataclass(frozen=True)
class Frame:
    """What the scores are read between: the photos by both encoders, the base's pictures, the prompts' texts."""

    photos_dino: Tensor
    photos_clip: Tensor
    base: Embedded
    texts: Tensor

    def _likeness(self, photos: Tensor, base: Tensor, value: float) -> float | None:
        zero, one = float(pairwise(base, photos).mean()), ceiling(photos)[1]
        # An encoder to which the photos are not more alike than the base's pictures to them sees no subject.
        return share(value, zero, 1.0 if one is None else one) if one is None or one > zero else None

    def scores(self, drawn: Embedded) -> Scores:
        """The scores of a candidate's pictures, which are in the order of the base's."""
        dino = float(pairwise(drawn.dino, self.photos_dino).mean())
        clip_i = float(pairwise(drawn.clip, self.photos_clip).mean())
        clip_t = _mean_cosine(drawn.clip, self.texts)
        drift = (1 - _mean_cosine(drawn.cls, self.base.cls)) / 2
        kinds = (self._likeness(self.photos_dino, self.base.dino, dino),)
        kinds += (self._likeness(self.photos_clip, self.base.clip, clip_i),)
        likeness = fmean(seen) if (seen := [kind for kind in kinds if kind is not None]) else None
        ignoring, following = (
            float(pairwise(self.photos_clip, self.texts).mean()),
            _mean_cosine(self.base.clip, self.texts),
        )
        prompt = share(clip_t, ignoring, following) if following > ignoring else None
        unlike = (1 - (ceiling(self.base.cls)[1] or 0.0)) / 2
        cls = share(drift, unlike, 0.0)
        told = [part for part in (likeness, prompt, cls) if part is not None]
        return Scores(dino, clip_i, clip_t, drift, likeness, prompt, cls, harmonic_mean(told) if told else 0.0)


def _mean_cosine(a: Tensor, b: Tensor) -> float:
    """The mean cosine of rows with the rows at their places. Shapes: unit vectors [n, d]."""
    return float((a.double() * b.double()).sum(1).mean())
