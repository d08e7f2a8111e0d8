"""EDSR of baseline size, without reference: SRCNN's config with the rate halved as in its own paper.

    python -m rrsr_jax.main --config=configs/edsr.py --workdir=runs/edsr

Published result: CUFED5 25.93 dB / 0.777; the paper does not say of which size of EDSR. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import srcnn


def get_config() -> ConfigDict:
    c = srcnn.get_config()
    c.model = ConfigDict(dict(name="edsr", features=64, blocks=16))
    c.learning_rates = ConfigDict(dict(default=1e-4))
    c.decay_steps = (200_000,)
    c.decay_factor = 0.5
    return c
