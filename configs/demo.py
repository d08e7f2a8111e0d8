"""RRSR in small, on the photographs embedded in scikit-image: minutes on two CPU cores, nothing to download.

python -m rrsr_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model.update(
        features=32,
        context_blocks=4,
        blocks=(4, 2, 2),
        experts=4,
        groups=4,
        vgg_channels=(16, 32, 64),
        correspondence_channels=(16, 32, 64),
    )
    c.data.update(name="embedded", patch=96, threads=2, prefetch=4)
    c.batch_size = 4
    c.steps = 1_000
    # No pretrained weights here: the reference's features are learnt with the rest.
    c.learning_rates.update(default=5e-4, offset_4x=5e-4, offset_2x=5e-4, offset_1x=5e-4, vgg=5e-4)
    c.decay_steps = (800,)
    c.log_every = 10
    c.image_every = 250
    c.checkpoint_every = 100
    c.eval.update(name="embedded", crops=16, patch=160, sheets=6)
    return c
