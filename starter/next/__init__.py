"""The starter's next world: 206 nouns drawn by seven icon sets, 128 x 128 pixels, and the trainings on it.

Its weights are still being trained; until they are, `starter/` beside it is what everything else uses.
"""
