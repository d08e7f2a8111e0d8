"""The weights `photo`: super-resolution of photographs with whatever reference people have, in small enough for a CPU.

    python -m rrsr_jax.data.prepare --dataset=photos --source=DIR --tile=320
    python -m rrsr_jax.main --config=configs/photo.py:teacher --workdir=runs/photo/teacher
    python -m rrsr_jax.main --config=configs/photo.py:student --workdir=runs/photo/student --config.init_from=runs/photo/teacher
    python -m rrsr_jax.main --config=configs/photo.py:rec --workdir=runs/photo/rec --config.init_from=runs/photo/student
    python -m rrsr_jax.main --config=configs/photo.py:last --workdir=runs/photo/last --config.init_from=runs/photo/rec

| row | what it learns |
|---|---|
| teacher | to match views as photographs taken by hand have them: turned, scaled, in another light |
| student | the same for the upsampled input, clean or degraded |
| rec | to super-resolve with another view, an unrelated photograph, or nothing |
| last | the same with wilder views and degradation, while the rates fall to zero |

Published result: none.
"""

from ml_collections import ConfigDict

from configs import demo, matcher


def _teacher() -> ConfigDict:
    c = matcher.get_config("teacher")
    c.model.channels = (32, 64, 64)
    c.data.update(name="photos", patch=128, pairs="view", threads=1, prefetch=4)
    c.data.view.update(shift=0.15, corners=0.08, rotation=20.0, zoom=(0.6, 1.6))
    c.data.light.update(exposure=0.7, white_balance=0.2, contrast=0.2)
    c.data.reference_degradation.update(share=0.3, blur=1.0, noise=4.0, jpeg=60)
    c.batch_size = 4
    c.steps = 500
    c.loss.update(
        triplet=0.0, info_nce=1.0
    )  # the hardest negative of such views is too hard: the triplet loss collapses
    c.learning_rates.default = 3e-4
    c.schedule = "cosine"
    c.decay_steps = (c.steps,)
    c.log_every = 50
    c.checkpoint_every = 250
    c.image_every = 1_000_000
    c.eval.update(sets="photos/bsd100", patch=160, limit=20)
    return c


def _student() -> ConfigDict:
    c = _teacher()
    c.stage = "student"
    c.data.degradation.update(share=0.3, blur=1.5, noise=6.0, jpeg=50)
    c.steps = 2_000
    c.decay_steps = (c.steps,)
    return c


def _rec() -> ConfigDict:
    c = demo.get_config()
    c.model.update(
        context_blocks=8,
        blocks=(8, 2, 1),
        correspondence_channels=(32, 64, 64),
        match_subpixel=True,
        pre_offsets="smooth",
    )
    c.data.update(name="photos", patch=80, warp_range=(3.0, 12.0), threads=1)
    c.data.view.update(shift=0.15, corners=0.08, whole_pixels=False, rotation=15.0, zoom=(0.7, 1.4))
    c.data.reference_shares.update(unrelated=0.15, none=0.1)
    c.data.light.update(exposure=0.4, white_balance=0.2, contrast=0.15)
    c.data.degradation.update(share=0.3, blur=1.5, noise=6.0, jpeg=50)
    c.data.reference_degradation.update(share=0.3, blur=1.0, noise=4.0, jpeg=60)
    c.steps = 20_000
    c.loss.rtrr = 0.0  # the second pass doubles the time of a step
    c.learning_rates.update(offset_4x=3e-4, offset_2x=3e-4, offset_1x=3e-4)
    c.decay_steps = ()
    c.log_every = 50
    c.checkpoint_every = 250
    c.image_every = 1_000_000
    c.eval.update(sets="cufed5,wr_sr,photos/bsd100,photos/set5", published_padding=False, sheets=0)
    return c


def _last() -> ConfigDict:
    c = _rec()
    c.data.view.update(rotation=20.0, zoom=(0.6, 1.6))
    c.data.degradation.share = 0.5
    c.steps = 6_000
    c.schedule = "cosine"
    c.decay_steps = (c.steps,)
    c.ema_decay = 0.999
    return c


ROWS = {"teacher": _teacher, "student": _student, "rec": _rec, "last": _last}


def get_config(row: str) -> ConfigDict:
    return ROWS[row]()
