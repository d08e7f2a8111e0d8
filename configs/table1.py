"""The paper's Table 1: models that have no config of their own, trained by pixels alone.

    python -m rrsr_jax.main --config=configs/table1.py:esrgan_rec --workdir=runs/esrgan_rec
    python -m rrsr_jax.experiments.table --configs configs/table1.py --workdir=runs/table1  # all rows

| row | what | published result on CUFED5 |
|---|---|---|
| nlsn | NLSN | 26.53 dB / 0.784 |
| srgan_rec | SRResNet, SRGAN's first stage; its paper has the squared error in place of L1 | none; SRGAN 24.40 dB / 0.702 |
| enet_rec | ENet-E, without discriminator; its paper has the squared error in place of L1 | none; ENet 24.24 dB / 0.695 |
| esrgan_rec | RRDB_PSNR, ESRGAN's first stage | none; ESRGAN 21.90 dB / 0.633 |
| ranksrgan_rec | RankSRGAN's generator, trained as RRDB_PSNR | none; RankSRGAN 22.31 dB / 0.635 |
| crossnet | CrossNet; its paper has a Charbonnier loss in place of L1 | 25.48 dB / 0.764 |
| crossnet_rtrr | CrossNet with reciprocal training | none |
| srntt_rec | SRNTT without its other losses | 26.24 dB / 0.784 |
| srntt_rtrr | SRNTT-rec with reciprocal training | none |
| ssen_rec | SSEN, as far as it is known; presumably with a Charbonnier loss in place of L1 | 26.78 dB / 0.791 |
| ssen_rtrr | SSEN-rec with reciprocal training | none |
| dcsr_rec | DCSR without its other losses | 27.30 dB / 0.807 |
| dcsr_rtrr | DCSR-rec with reciprocal training | none |

Without a reference, optimiser, schedule, batch and patch are those of each method's own publication, with patches of at most
CUFED's 160 pixels; the data are those of the paper's run. Where a publication is silent, the choice is ours: batch and steps of
ENet, all of RankSRGAN's. With references (from CrossNet on) all of this is as in the paper's run, but SSEN has its own batch and
schedule. SRNTT and DCSR start from `--config.weights.vgg=vgg19.pth`. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5, srcnn

_HALVED = dict(decay_steps=(200_000, 400_000, 600_000, 800_000), decay_factor=0.5)
_PSNR = dict(batch_size=16, steps=1_000_000, adam_betas=(0.9, 0.99), patch=128, learning_rate=2e-4, **_HALVED)

# By row without a reference: the fields of the model, and of the training where they are not SRCNN's.
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

# By model with references: the fields of the model, the files and rates of its modules besides the
# model's own, and of the training what differs from the paper's run.
_REFSR = {
    "crossnet": (
        dict(
            name="crossnet",
            features=64,
            flow_channels=(64, 128, 256, 512, 512, 1024),
            flow_up_channels=(256, 256, 128, 64, 64, 64),
        ),
        {},
        {},
    ),
    "srntt": (
        dict(
            name="srntt",
            features=64,
            context_blocks=16,
            blocks=(16, 8, 4),
            vgg_channels=(64, 128, 256),
            vgg_mean=(0.485, 0.456, 0.406),  # of torchvision's weights; MatConvNet's: models.encoders.MATCONVNET_MEAN
            vgg_std=(0.229, 0.224, 0.225),
            match_tile=2**22,
        ),
        dict(vgg=0.0),
        {},
    ),
    "ssen": (
        dict(
            name="ssen",
            features=64,
            encoder_blocks=5,
            alignments=3,
            blocks=16,
            attention_tile=2**22,
            deform_conv="",
        ),
        {},
        dict(batch_size=32, steps=100_000, schedule="cosine", decay_steps=(100_000,)),
    ),
    "dcsr": (
        dict(
            name="dcsr",
            scale=4,
            features=64,
            encoder_blocks=8,
            ref_encoder_blocks=4,
            blocks=(8, 4, 4),
            align_features=32,
            match_features=16,
            vgg_channels=(64, 128, 256),
            match_tile=2**22,
        ),
        dict(vgg=1e-4),
        {},
    ),
}
# Rows of models with references: the model, and the weight of the reciprocal loss.
ROWS |= {
    "crossnet": ("crossnet", 0.0),
    "crossnet_rtrr": ("crossnet", 0.4),
    "srntt_rec": ("srntt", 0.0),
    "srntt_rtrr": ("srntt", 0.4),
    "ssen_rec": ("ssen", 0.0),
    "ssen_rtrr": ("ssen", 0.4),
    "dcsr_rec": ("dcsr", 0.0),
    "dcsr_rtrr": ("dcsr", 0.4),
}


def get_config(row: str) -> ConfigDict:
    model, training = ROWS[row]
    return _with_references(model, training) if isinstance(model, str) else _without_references(model, training)


def _with_references(name: str, rtrr: float) -> ConfigDict:
    model, rates, training = _REFSR[name]
    c = cufed5.get_config()
    c.model = ConfigDict(model)
    c.weights = ConfigDict({part: "" for part in (*rates, name)})
    c.learning_rates = ConfigDict(dict(default=1e-4, **rates))
    c.loss.rtrr = rtrr
    c.eval.published_padding = False  # these models match and warp, and padding would take part
    c.update(training)
    return c


def _without_references(model: dict, training: dict) -> ConfigDict:
    training = dict(training)
    c = srcnn.get_config()
    c.model = ConfigDict(model)
    c.weights = ConfigDict({model["name"]: ""})
    c.learning_rates = ConfigDict(dict(default=training.pop("learning_rate")))
    c.data.patch = training.pop("patch")
    c.update(training)
    return c
