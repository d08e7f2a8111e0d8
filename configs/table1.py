"""The paper's Table 1: models that have no config of their own, by pixels alone (`_rec`) and as their authors trained them.

    python -m rrsr_jax.main --config=configs/table1.py:esrgan_rec --workdir=runs/esrgan_rec
    python -m rrsr_jax.main --config=configs/table1.py:esrgan --workdir=runs/esrgan \\
        --config.init_from=runs/esrgan_rec --config.weights.vgg=vgg19.pth
    python -m rrsr_jax.experiments.table --configs configs/table1.py --workdir=runs/table1 \\
        --set weights.vgg=vgg19.pth  # all rows; those with init_from start from that row

| row | what | published result on CUFED5 |
|---|---|---|
| nlsn | NLSN | 26.53 dB / 0.784 |
| srgan_rec, srgan | SRResNet; SRGAN | none; 24.40 dB / 0.702 |
| enet_rec, enet | ENet-E; ENet-PAT | none; 24.24 dB / 0.695 |
| esrgan_rec, esrgan | RRDB_PSNR; ESRGAN | none; 21.90 dB / 0.633 |
| ranksrgan_rec, ranksrgan | RankSRGAN's generator, trained as RRDB_PSNR; RankSRGAN | none; 22.31 dB / 0.635 |
| ranker | the Ranker that RankSRGAN learns from: by results of srgan_rec, srgan and esrgan on their training images | none |
| crossnet, crossnet_rtrr | CrossNet; with reciprocal training | 25.48 dB / 0.764; none |
| srntt_rec, srntt_rtrr, srntt | SRNTT-rec; with reciprocal training; SRNTT | 26.24 dB / 0.784; none; 25.61 dB / 0.764 |
| ssen_rec, ssen_rtrr | SSEN, as far as it is known; with reciprocal training | 26.78 dB / 0.791; none |
| dcsr_rec, dcsr_rtrr, dcsr | DCSR-rec; with reciprocal training; DCSR | 27.30 dB / 0.807; none; 25.39 dB / 0.733 |
| ttsr_rec, ttsr_gan | TTSR-rec (`configs/ttsr.py`); TTSR | 27.09 dB / 0.804; 25.53 dB / 0.765 |
| masa_rec, masa_gan | MASA-rec (`configs/masa.py`); MASA | 27.54 dB / 0.814; 24.92 dB / 0.729 |

Without a reference, optimiser, schedule, batch and patch are those of each method's own publication, with patches of at most
CUFED's 160 pixels; the data are those of the paper's run. With references (from CrossNet on) all of this is as in the paper's
run, but SSEN, TTSR and MASA have their own. Losses and their weights are those of each method's publication. Where it is silent,
the choice is ours, see docs/differences.md. SRNTT, DCSR and TTSR, and all losses of features, need VGG-19's file. Before
`ranker`, evaluate the runs that it looks at on `cufed`: `--mode=eval --config.eval.sets=cufed`. Time on a GPU: not measured yet.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import cufed5, masa, srcnn, ttsr

EPOCH = 11_871 // 9  # steps
_NLSN = dict(decay_steps=(200_000, 400_000, 600_000, 800_000), decay_factor=0.5)
_PSNR = dict(
    batch_size=16,
    steps=1_000_000,
    adam_betas=(0.9, 0.99),
    patch=128,
    learning_rate=2e-4,
    schedule="cosine_restarts",
    decay_steps=(250_000, 500_000, 750_000, 1_000_000),
    decay_factor=5e-4,  # to 1e-7
)
_ESRGAN = dict(steps=500_000, decay_steps=(50_000, 100_000, 200_000, 300_000), decay_factor=0.5)

# By model without a reference: its fields, and of the training what differs from SRCNN's.
_SINGLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nlsn": (
        dict(name="nlsn", features=256, groups=4, blocks=8, chunk=144, rounds=4, residual_scale=0.1, seed=0),
        dict(batch_size=16, steps=1_000_000, patch=160, learning_rate=1e-4, **_NLSN),
    ),
    "srgan": (
        dict(name="srgan", features=64, blocks=16),
        dict(batch_size=16, steps=1_000_000, patch=96, learning_rate=1e-4, pixel_loss="mse"),
    ),
    "enet": (
        dict(name="enet", features=64, blocks=10, half_pixel=False),
        dict(batch_size=16, steps=255_000, patch=128, learning_rate=1e-4, pixel_loss="mse"),
    ),
    "esrgan": (dict(name="esrgan", features=64, blocks=23, growth=32), _PSNR),
    "ranksrgan": (dict(name="ranksrgan", features=64, blocks=16), _PSNR),
    # Without images of its own: the results of three other runs.
    "ranker": (
        dict(name="ranker", features=(64, 128, 256, 512, 512), hidden=100),
        dict(
            stage="ranker",
            loss=dict(ranking=1.0),
            rank_set=dict(srresnet="srgan_rec", srgan="srgan", esrgan="esrgan", images="cufed", stride=160, block=32),
            batch_size=16,
            steps=400_000,
            patch=160,
            learning_rate=1e-4,
            decay_steps=(100_000, 200_000),
            decay_factor=0.5,
            weight_decay=1e-4,
        ),
    ),
}

# By model with references: its fields, the files and rates of its modules besides the model's own, and of the training what
# differs from the paper's run.
_REFSR: dict[str, tuple[dict[str, Any], dict[str, float], dict[str, Any]]] = {
    "crossnet": (
        dict(
            name="crossnet",
            features=64,
            flow_channels=(64, 128, 256, 512, 512, 1024),
            flow_up_channels=(256, 256, 128, 64, 64, 64),
        ),
        {},
        dict(pixel_loss="charbonnier"),
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
        dict(batch_size=32, steps=100_000, schedule="cosine", decay_steps=(100_000,), pixel_loss="charbonnier"),
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
_VGG_STYLE = dict(name="vgg_style", features=(64, 128, 256, 512, 512), hidden=100, initial="he")
_PAIRS = dict(features=(32, 64, 128, 256, 512), hidden=1024)
_BEFORE_ACTIVATION = dict(layer_weights=dict(conv5_4=1.0), criterion="l1", normalise=False)
_G_D, _D_D_G = ("generator", "discriminator"), ("discriminator", "discriminator", "generator")

# By method: weights of the terms, and the other fields of the GAN stage.
_LOSSES: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "srgan": (
        dict(perceptual=0.006, adversarial=1e-3),
        dict(
            objective="standard",
            updates=_G_D,
            discriminator=dict(name="srgan", features=(64, 128, 256, 512), hidden=1024),
            perceptual=dict(layer_weights=dict(relu5_4=1.0), criterion="mse", normalise=False),
            steps=200_000,
            decay_steps=(100_000,),
            decay_factor=0.1,
        ),
    ),
    "enet": (
        dict(perceptual=1.0, texture=1.0, adversarial=2.0),
        dict(
            objective="standard",
            updates=_G_D,
            discriminator=dict(name="enet", **_PAIRS),
            perceptual=dict(layer_weights=dict(pool2=0.2, pool5=0.02), criterion="mse", normalise=True),
            texture=dict(layer_weights=dict(relu1_1=3e-7, relu2_1=1e-6, relu3_1=1e-6)),
        ),
    ),
    "esrgan": (
        dict(rec=1e-2, perceptual=1.0, adversarial=5e-3),
        dict(
            objective="relativistic",
            updates=_G_D,
            discriminator=_VGG_STYLE,
            perceptual=_BEFORE_ACTIVATION,
            adam_betas=(0.9, 0.999),
            learning_rate=1e-4,
            **_ESRGAN,
        ),
    ),
    "ranksrgan": (
        dict(perceptual=1.0, ranking=0.03, adversarial=5e-3),
        dict(
            objective="standard",
            updates=_G_D,
            discriminator=_VGG_STYLE | dict(initial="default"),
            ranker=dict(features=(64, 128, 256, 512, 512), hidden=100),
            perceptual=_BEFORE_ACTIVATION,
            batch_size=8,
            patch=160,  # its own patches have 296 pixels
            learning_rate=1e-4,
            **_ESRGAN,
        ),
    ),
    "srntt": (
        # Its L1 and back-projection are of images from -1 to 1, and so twice these.
        dict(rec=2.0, upscale=2.0, perceptual=1e-4, texture_transfer=1e-4, back_projection=0.0, adversarial=1e-6),
        dict(
            objective="wgan_gp_per_pixel",
            updates=(*_D_D_G, "discriminator"),
            discriminator=dict(name="srntt", **_PAIRS),
            perceptual=dict(layer_weights=dict(relu5_1=1.0), criterion="mse", normalise=False),
            pixel_steps=5 * EPOCH,
        ),
    ),
    "dcsr": (
        dict(rec=1.0, contextual_ref=0.05, contextual_hr=0.01),
        dict(updates=("generator",), pixel_loss="blurred_l1"),
    ),
    "ttsr": (
        dict(rec=2.0, perceptual=1e-2, transferal=1e-2, adversarial=1e-3),  # rec: of images from -1 to 1, as SRNTT's
        dict(
            objective="wgan_gp",
            updates=_D_D_G,
            discriminator=dict(name="enet", **_PAIRS),
            perceptual=dict(layer_weights=dict(relu5_1=1.0), criterion="mse", normalise=False),
            pixel_steps=2 * EPOCH,
        ),
    ),
    "masa": (
        dict(rec=1.0, perceptual=1.0, adversarial=5e-3),
        dict(
            objective="relativistic",
            updates=_G_D,
            discriminator=_VGG_STYLE,
            perceptual=_BEFORE_ACTIVATION,
            pixel_steps=160 * EPOCH,
            steps=210 * EPOCH,
        ),
    ),
}

# By row: the method, and `rec`, `rtrr` or `all`, its losses.
ROWS = {
    "nlsn": ("nlsn", "rec"),
    "ranker": ("ranker", "rec"),
    **{f"{name}_rec": (name, "rec") for name in ("srgan", "enet", "esrgan", "ranksrgan")},
    "crossnet": ("crossnet", "rec"),
    **{f"{name}_rec": (name, "rec") for name in ("srntt", "ssen", "dcsr", "ttsr", "masa")},
    **{f"{name}_rtrr": (name, "rtrr") for name in ("crossnet", "srntt", "ssen", "dcsr")},
    **{f"{name}_gan" if name in ("ttsr", "masa") else name: (name, "all") for name in _LOSSES},
}


def get_config(row: str) -> ConfigDict:
    name, losses = ROWS[row]
    if name in ("ttsr", "masa"):
        c = {"ttsr": ttsr, "masa": masa}[name].get_config()
    else:
        c = _with_references(name) if name in _REFSR else _without_references(name)
    if losses == "rtrr":
        c.loss.rtrr = 0.4
    return _with_all_losses(c, name) if losses == "all" else c


def _with_references(name: str) -> ConfigDict:
    model, rates, training = _REFSR[name]
    c = cufed5.get_config()
    c.model = ConfigDict(model)
    c.weights = ConfigDict({part: "" for part in (*rates, name)})
    c.learning_rates = ConfigDict(dict(default=1e-4, **rates))
    c.loss.rtrr = 0.0
    if name == "srntt":
        c.loss.upscale = 1.0
    c.eval.published_padding = False  # these models match and warp, and padding would take part
    c.update(training)
    return c


def _without_references(name: str) -> ConfigDict:
    model, training = _SINGLE[name]
    c = srcnn.get_config()
    c.model = ConfigDict(model)
    c.weights = ConfigDict({name: ""})
    if name == "ranker":
        c.weights = ConfigDict(dict(ranksrgan_ranker=""))
        c.loss = ConfigDict()
        c.eval.sets = ""
    c.learning_rates = ConfigDict(dict(default=1e-4))
    return _trained_by(c, training)


def _trained_by(c: ConfigDict, training: dict[str, Any]) -> ConfigDict:
    training = dict(training)
    c.data.patch = training.pop("patch", c.data.patch)
    c.learning_rates.default = training.pop("learning_rate", c.learning_rates.default)
    c.update(training)
    return c


def _with_all_losses(c: ConfigDict, name: str) -> ConfigDict:
    weights, fields = _LOSSES[name]
    c.stage, c.pixel_steps = "gan", 0
    c.loss = ConfigDict(dict(rec=0.0, rtrr=0.0, adversarial=0.0) | weights)
    c.weights.vgg = ""
    if "adversarial" in weights:
        c.penalty = 10.0
        c.weights.discriminator = ""
        c.learning_rates.discriminator = 1e-4
    if "ranking" in weights:
        c.weights.ranksrgan_ranker = "ranker"  # a row of this file
    if name in _SINGLE:
        c.init_from = f"{name}_rec"  # a row of this file
        fields = dict(schedule="steps", pixel_loss="l1") | fields
    return _trained_by(c, fields)
