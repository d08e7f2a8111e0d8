"""RankSRGAN's chain of stages in small on the embedded photographs: three methods, a Ranker of their results, and a generator.

    python -m rrsr_jax.experiments.table --configs configs/rank_chain.py --workdir=runs/rank_chain

runs them one after another, each after those that it needs, and prints one table. At full size these are rows of
`configs/table1.py`: srgan_rec, srgan, esrgan_rec, esrgan, ranker, ranksrgan_rec, ranksrgan.

| row | stage | published result at full size |
|---|---|---|
| srresnet | SRGAN's generator by pixels | none |
| srgan | SRGAN from it | CUFED5 24.40 dB / 0.702 |
| psnr | ESRGAN's generator by pixels | none |
| esrgan | ESRGAN from it | CUFED5 21.90 dB / 0.633 |
| ranker | the Ranker, on patches of the results of srresnet, srgan and esrgan | none |
| start | RankSRGAN's generator by pixels | none |
| ranksrgan | RankSRGAN from it, with the Ranker | CUFED5 22.31 dB / 0.635 |

The losses of features are left out, because they need VGG-19's weights, and L1 takes their place. The Ranker sees results on the
two photographs that the models are tested on: others are not embedded. Time: not measured yet.
"""

from ml_collections import ConfigDict

from configs import table1

_SMALL = dict(features=16, blocks=2)


def _in_small(row: str, steps: int) -> ConfigDict:
    c = table1.get_config(row)
    c.data.update(name="embedded", patch=64, warp=False, threads=2, prefetch=4)
    c.update(batch_size=4, steps=steps, schedule="steps", decay_steps=(), init_from="")
    c.update(log_every=10, image_every=1_000_000, checkpoint_every=100)
    c.learning_rates.default = 1e-3 if c.stage == "rec" else 1e-4
    c.eval.update(sets="" if c.stage == "ranker" else "embedded")
    return c


def _generator(row: str, steps: int, start: str = "") -> ConfigDict:
    c = _in_small(row, steps)
    c.model.update(_SMALL)
    if c.model.name == "esrgan":
        c.model.update(blocks=1, growth=8)
    c.init_from = start  # a row of the same list
    if c.stage == "gan":
        c.loss.update(rec=1.0, perceptual=0.0, adversarial=5e-3)
        c.discriminator.update(features=(16, 32, 64), hidden=64)
    return c


def _ranker() -> ConfigDict:
    c = _in_small("ranker", 200)
    c.model.update(features=(16, 32, 64), hidden=64)
    c.data.patch = 128
    c.rank_set.update(srresnet="srresnet", srgan="srgan", esrgan="esrgan", images="embedded", stride=16, block=32)
    return c


def _ranksrgan() -> ConfigDict:
    c = _generator("ranksrgan", 100, "start")
    c.ranker.update(features=(16, 32, 64), hidden=64)
    c.weights.ranksrgan_ranker = "ranker"  # a row of the same list
    return c


ROWS = {
    "srresnet": lambda: _generator("srgan_rec", 300),
    "srgan": lambda: _generator("srgan", 100, "srresnet"),
    "psnr": lambda: _generator("esrgan_rec", 300),
    "esrgan": lambda: _generator("esrgan", 100, "psnr"),
    "ranker": _ranker,
    "start": lambda: _generator("ranksrgan_rec", 300),
    "ranksrgan": _ranksrgan,
}


def get_config(row: str) -> ConfigDict:
    return ROWS[row]()
