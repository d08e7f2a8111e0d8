"""RRSR in small, on the photographs embedded in scikit-image: nine minutes on two CPU cores, nothing to download.

    python -m rrsr_jax.main --config=configs/demo.py --workdir=runs/demo

Expected on the held-out crops: bicubic 28.07 dB, right reference 29.3 dB, unrelated reference 28.8 dB.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model.update(
        features=32,
        context_blocks=4,
        alignments=(1, 2, 2),
        blocks=(2, 1, 1),
        experts=4,
        groups=2,
        vgg_channels=(16, 32, 64),
        correspondence_channels=(16, 32, 64),
    )
    c.init_gain = 2.0
    c.data.update(name="embedded", patch=64, warp_range=(2.0, 8.0), threads=2, prefetch=4)
    c.data.view.update(corners=1 / 32, whole_pixels=True)
    c.batch_size = 2
    c.steps = 1_000
    # No pretrained weights here: the reference's features are learnt with the rest, the correspondence net stays untrained.
    c.learning_rates.update(default=1e-3, offset_4x=1e-4, offset_2x=1e-4, offset_1x=1e-4, vgg=1e-3)
    c.decay_steps = (800,)
    c.log_every = 10
    c.image_every = 250
    c.checkpoint_every = 100
    c.eval.update(sets="embedded", sheets=6)
    return c
