"""All stages in small, 3: RRSR-rec with the student's correspondence net.

Published result at full size: CUFED5 28.83 dB / 0.856.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    c = demo.get_config()
    c.init_from = "student"  # of the same list
    c.steps = 700
    c.decay_steps = (560,)
    c.eval.references = "reference"
    return c
