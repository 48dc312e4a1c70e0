"""The starter: a small Stable Diffusion trained from scratch on scenes of 206 nouns drawn by seven icon sets."""
