"""RRSR in small on a folder of photographs, without a pair dataset: pairs are made by warping and relighting crops.

    python -m rrsr_jax.data.prepare --dataset=photos --source=DIR [--tile=320]
    python -m rrsr_jax.main --config=configs/photos.py --workdir=runs/photos

Half an hour on two CPU cores. Published result: none. For the full-size model take the `model`, `steps` and rates of
`configs/cufed5.py`.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    c = demo.get_config()
    c.data.update(name="photos")
    c.data.view.update(shift=0.25, corners=0.05, whole_pixels=False)
    c.steps = 3_500
    c.decay_steps = (2_800,)
    c.learning_rates.update(offset_4x=3e-4, offset_2x=3e-4, offset_1x=3e-4)
    return c
