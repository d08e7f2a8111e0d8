"""EDSR of baseline size, without reference: data, batch and steps of RRSR's run, the rate halved as in its own paper.

    python -m rrsr_jax.main --config=configs/edsr.py --workdir=runs/edsr

Published result: CUFED5 25.93 dB / 0.777; of which size of EDSR, the paper does not say.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model = ConfigDict(dict(name="edsr", features=64, blocks=16))
    c.weights = ConfigDict()
    c.loss.rtrr = 0.0  # a model that ignores its reference learns nothing from it
    c.learning_rates = ConfigDict(dict(default=1e-4))
    c.decay_steps = (200_000,)
    c.decay_factor = 0.5
    c.eval.columns = "lr_itself"
    return c
