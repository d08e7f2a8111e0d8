"""The paper's Table 1: models without a reference that have no config of their own, trained by pixels alone.

    python -m rrsr_jax.main --config=configs/table1.py:esrgan_rec --workdir=runs/esrgan_rec
    python -m rrsr_jax.experiments.table --configs configs/table1.py --workdir=runs/table1  # all rows

| row | what | published result on CUFED5 |
|---|---|---|
| nlsn | NLSN | 26.53 dB / 0.784 |
| srgan_rec | SRResNet, SRGAN's first stage; its paper has the squared error in place of L1 | none; SRGAN 24.40 dB / 0.702 |
| enet_rec | ENet-E, without discriminator; its paper has the squared error in place of L1 | none; ENet 24.24 dB / 0.695 |
| esrgan_rec | RRDB_PSNR, ESRGAN's first stage | none; ESRGAN 21.90 dB / 0.633 |
| ranksrgan_rec | RankSRGAN's generator, trained as RRDB_PSNR | none; RankSRGAN 22.31 dB / 0.635 |

Optimiser, schedule, batch and patch are those of each method's own publication, with patches of at most CUFED's 160 pixels; the
data are those of the paper's run. Where a publication is silent, the choice is ours: batch and steps of ENet, all of RankSRGAN's.
Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import srcnn

_HALVED = dict(decay_steps=(200_000, 400_000, 600_000, 800_000), decay_factor=0.5)
_PSNR = dict(batch_size=16, steps=1_000_000, adam_betas=(0.9, 0.99), patch=128, learning_rate=2e-4, **_HALVED)

# By row: the fields of the model, and of the training where they are not SRCNN's.
ROWS = {
    "nlsn": (
        dict(name="nlsn", features=256, groups=4, blocks=8, chunk=144, rounds=4, residual_scale=0.1, seed=0),
        dict(batch_size=16, steps=1_000_000, patch=160, learning_rate=1e-4, **_HALVED),
    ),
    "srgan_rec": (
        dict(name="srgan", features=64, blocks=16),
        dict(batch_size=16, steps=1_000_000, patch=96, learning_rate=1e-4),
    ),
    "enet_rec": (
        dict(name="enet", features=64, blocks=10, half_pixel=False),
        dict(batch_size=16, steps=255_000, patch=128, learning_rate=1e-4),
    ),
    "esrgan_rec": (dict(name="esrgan", features=64, blocks=23, growth=32), _PSNR),
    "ranksrgan_rec": (dict(name="ranksrgan", features=64, blocks=16), _PSNR),
}


def get_config(row: str) -> ConfigDict:
    model, training = ROWS[row]
    training = dict(training)
    c = srcnn.get_config()
    c.model = ConfigDict(model)
    c.weights = ConfigDict({model["name"]: ""})
    c.learning_rates = ConfigDict(dict(default=training.pop("learning_rate")))
    c.data.patch = training.pop("patch")
    c.update(training)
    return c
