"""RRSR with the full objective (eq. 6): 10,000 steps by pixels alone, then with discriminator and perceptual loss.

    python -m rrsr_jax.main --config=configs/cufed5_gan.py --workdir=runs/cufed5_gan \\
        --config.weights.vgg=vgg19.pth --config.init_from=runs/cufed5

From a run of `configs/matcher.py:student` it starts with that correspondence net and all else untrained, as in the paper; with
`--config.pixel_steps=0` a finished -rec run is refined at once.
Published result: CUFED5 28.09 dB / 0.835. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.stage = "gan"
    c.weights.discriminator = ""
    c.pixel_steps = 10_000
    c.loss = ConfigDict(dict(rec=1.0, rtrr=0.4, perceptual=1e-4, adversarial=1e-6))
    c.perceptual = ConfigDict(dict(layer_weights=dict(relu5_1=1.0), criterion="frobenius", normalise=False))
    c.objective = "wgan_gp"  # or wgan_gp_per_pixel, standard, relativistic, relativistic_detached
    c.penalty = 10.0  # weight of the gradient penalty
    c.updates = ("discriminator", "generator")  # of a step, in this order
    c.discriminator = ConfigDict(dict(name="rrsr", features=(32, 64, 128, 256, 512), head=1024))
    c.learning_rates.discriminator = 1e-4
    return c
