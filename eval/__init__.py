"""DINO, CLIP-I and CLIP-T: how like the subject, and how true to the prompt, generated pictures are."""
