"""Table 2 in miniature: TTSR*. Published result at full size: CUFED5 27.03 dB / 0.800."""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    c = photos.get_config()
    c.model = ConfigDict(dict(name="ttsr", features=32, blocks=(4, 4, 2, 1), vgg_channels=(16, 32, 64)))
    c.weights = ConfigDict(dict(vgg="", ttsr=""))
    c.learning_rates = ConfigDict(
        dict(default=3e-4, vgg=3e-4)
    )  # at 1e-3 all outputs soon lie where the clipping has no gradient
    c.init_gain = 1.0
    c.loss.rtrr = 0.0
    return c
