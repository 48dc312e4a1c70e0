"""DINO, CLIP-I and CLIP-T: how similar generated images are to the subject, and how well they follow the prompt."""
