"""RCAN, without reference: EDSR's config with another model.

    python -m rrsr_jax.main --config=configs/rcan.py --workdir=runs/rcan

Published result: CUFED5 26.06 dB / 0.769. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import edsr


def get_config() -> ConfigDict:
    c = edsr.get_config()
    c.model = ConfigDict(dict(name="rcan", features=64, groups=10, blocks=20, reduction=16))
    return c
