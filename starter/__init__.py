"""The starter: a small Stable Diffusion trained from scratch on a world of rendered scenes."""
