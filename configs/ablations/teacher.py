"""Table 2 in miniature, the correspondence net's teacher. Published result: none.

    python -m rrsr_jax.data.prepare --dataset=photos --source=DIR
    python -m rrsr_jax.experiments.table --configs='configs/ablations/*.py' --workdir=runs/ablations

trains the correspondence net first, then every model that uses it, on a folder of photographs.
"""

from ml_collections import ConfigDict

from configs.chain import teacher


def get_config() -> ConfigDict:
    c = teacher.get_config()
    c.data.name = "photos"
    c.steps = 1_500
    c.decay_steps = (1_200,)
    return c
