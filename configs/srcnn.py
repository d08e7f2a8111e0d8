"""SRCNN, without reference: data, batch and steps of RRSR's run, the last layer at a tenth of the rate as in its paper.

    python -m rrsr_jax.main --config=configs/srcnn.py --workdir=runs/srcnn

Published result: CUFED5 25.33 dB / 0.745. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model = ConfigDict(dict(name="srcnn", features=(64, 32), kernels=(9, 5, 5)))
    c.weights = ConfigDict()
    c.loss.rtrr = 0.0  # a model that ignores its reference learns nothing from it
    c.learning_rates = ConfigDict(dict(default=1e-4, conv3=1e-5))
    c.decay_steps = ()
    c.eval.references = "lr_itself"
    return c
