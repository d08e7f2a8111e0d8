"""What training and evaluation ask of a model."""

import jax

SCALES = (1, 2, 4)


def check_images(**images: jax.Array) -> None:
    """Raises ValueError unless every image is a (N, H, W, 3) float batch, all with one N."""
    sizes = set()
    for name, image in images.items():
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"{name}: a batch of RGB images (N, H, W, 3) expected, got shape {image.shape}")
        if not jax.numpy.issubdtype(image.dtype, jax.numpy.floating):
            raise ValueError(
                f"{name}: floating point in [0, 1] expected, got {image.dtype}; divide 8-bit images by 255"
            )
        sizes.add(image.shape[0])
    if len(sizes) > 1:
        raise ValueError(f"batches of one size expected, got { ({k: v.shape[0] for k, v in images.items()}) }")
