"""DreamBooth with VectorFit: five photos in, a subject file out, prompts answered."""
