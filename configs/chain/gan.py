"""All stages in small, 4: 50 more steps by pixels, then with a discriminator.

Published result at full size: CUFED5 28.09 dB / 0.835. The perceptual loss, which needs VGG-19's weights, is left out
(`--set weights.vgg=vgg19.pth loss.perceptual=1e-4`).
"""

from ml_collections import ConfigDict

from configs import cufed5_gan
from configs.chain import rec


def get_config() -> ConfigDict:
    c, full = rec.get_config(), cufed5_gan.get_config()
    c.stage = "gan"
    c.init_from = "rec"  # of the same list
    c.weights.discriminator = ""
    c.pixel_steps = 50
    c.loss = full.loss
    c.loss.update(perceptual=0.0, adversarial=5e-3)
    c.penalty = full.penalty
    c.discriminator = ConfigDict(dict(features=(16, 32, 64), head=128))
    c.learning_rates.update(discriminator=1e-4, default=1e-4, vgg=1e-4)
    c.steps = 250
    c.decay_steps = ()
    return c
