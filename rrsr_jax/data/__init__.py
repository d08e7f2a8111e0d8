"""Training and evaluation data: images, datasets, and the input pipeline."""
