"""Aspect-ratio buckets: sizes for photos that are not square, with about as many pixels as the square."""

import math

PARTS = 8  # of the square's side: 64 pixels at 512, which every UNet can halve three times in its latents
LEAST = 0.8  # the share of the square's pixels that a bucket has at least
SHAPES = [
    (width, height)
    for width in range(PARTS // 2, 2 * PARTS + 1)
    for height in range(PARTS // 2, 2 * PARTS + 1)
    if LEAST * PARTS**2 <= width * height <= PARTS**2
]


def bucket(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Width and height in pixels at which a picture of this size is trained: the nearest shape, at most 1:4."""

    def distance(shape: tuple[int, int]) -> tuple[float, int]:
        ratio = math.log(size[0] / size[1]) - math.log(shape[0] / shape[1])
        return round(abs(ratio), 9), -shape[0] * shape[1]  # of shapes alike the larger

    width, height = min(SHAPES, key=distance)
    return width * resolution // PARTS, height * resolution // PARTS
