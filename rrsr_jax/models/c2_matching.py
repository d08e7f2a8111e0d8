"""C2-Matching: contrastive correspondence and one deformable alignment per scale (Jiang et al. 2021), RRSR's baseline."""

from rrsr_jax.models.rrsr import RRSR


class C2Matching(RRSR):
    """RRSR without its additions, with more residual blocks at each scale. 8,865,547 trained parameters with the defaults."""

    alignments: tuple[int, int, int] = (1, 1, 1)
    blocks: tuple[int, int, int] = (16, 16, 16)
    experts: int = 0
