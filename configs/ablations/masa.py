"""Table 2 in miniature: MASA*. Published result at full size: CUFED5 27.47 dB / 0.815."""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    c = photos.get_config()
    c.model = ConfigDict(dict(name="masa", features=32, encoder_blocks=1, decoder_blocks=1, blocks=(3, 2, 1)))
    c.weights = ConfigDict(dict(masa=""))
    c.learning_rates = ConfigDict(dict(default=5e-4))
    c.init_gain = 1.0
    c.loss.rtrr = 0.0
    return c
