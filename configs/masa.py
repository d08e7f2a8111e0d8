"""MASA-rec: 160 epochs of L1, the rate on its way down a cosine that would reach 0 after 500.

    python -m rrsr_jax.main --config=configs/masa.py --workdir=runs/masa

Published results: CUFED5 27.54 dB / 0.814, trained by its own authors; 27.47 dB / 0.815, trained by RRSR's. Time on a GPU: not
measured yet. With reciprocal training: `configs/table2.py:masa_rtrr`.
"""

from ml_collections import ConfigDict

from configs import cufed5

EPOCH = 11_871 // 9  # steps


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model = ConfigDict(
        dict(name="masa", features=64, encoder_blocks=4, decoder_blocks=2, blocks=(12, 8, 4), match_tile=2**22)
    )
    c.weights = ConfigDict(dict(masa=""))
    c.loss.rtrr = 0.0
    c.learning_rates = ConfigDict(dict(default=1e-4))
    c.steps = 160 * EPOCH
    c.schedule = "cosine"
    c.decay_steps = (500 * EPOCH,)
    c.eval.border = 0
    c.eval.published_padding = False  # to pad input and reference to a common size is C2-Matching's and RRSR's protocol
    return c
