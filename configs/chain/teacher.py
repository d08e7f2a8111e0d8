"""All stages in small on the embedded photographs, 1: the correspondence net's teacher. Published result: none.

    python -m rrsr_jax.experiments.table --configs='configs/chain/*.py' --workdir=runs/chain

runs the whole chain, about 20 minutes of CPU time, and prints one table.
"""

from ml_collections import ConfigDict

from configs import matcher_teacher


def get_config() -> ConfigDict:
    c = matcher_teacher.get_config()
    c.model.channels = (16, 32, 64)
    c.data.update(name="embedded", patch=96, threads=2, prefetch=4)
    c.batch_size = 4
    c.steps = 700
    c.learning_rates.default = 1e-4  # at 1e-3, without pretrained weights, all descriptors first become the same
    c.decay_steps = (560,)
    c.log_every = 10
    c.image_every = 1_000_000
    c.checkpoint_every = 100
    c.eval.update(sets="embedded")
    return c
