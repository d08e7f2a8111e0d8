"""TTSR-rec: 200 epochs of L1; the texture extractor starts as VGG-19 and is trained with the rest, at a tenth of the rate.

    python -m rrsr_jax.main --config=configs/ttsr.py --workdir=runs/ttsr --config.weights.vgg=vgg19.pth

Published results: CUFED5 27.09 dB / 0.804, trained by its own authors; 27.03 dB / 0.800, trained by RRSR's. Time on a GPU: not
measured yet. With reciprocal training: `configs/table2.py:ttsr_rtrr`.
"""

from ml_collections import ConfigDict

from configs import cufed5

EPOCH = 11_871 // 9  # steps


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model = ConfigDict(
        dict(name="ttsr", features=64, blocks=(16, 16, 8, 4), vgg_channels=(64, 128, 256), match_tile=2**22)
    )
    c.weights = ConfigDict(dict(vgg="", ttsr=""))
    c.loss.rtrr = 0.0
    c.learning_rates = ConfigDict(dict(default=1e-4, vgg=1e-5))
    c.steps = 200 * EPOCH
    c.decay_steps = ()
    c.eval.border = 0
    c.eval.published_padding = False  # to pad input and reference to a common size is C2-Matching's and RRSR's protocol
    return c
