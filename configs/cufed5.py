"""RRSR-rec, the paper's main run: CUFED, 160 x 160, 255,000 steps.

    python -m rrsr_jax.data.prepare --dataset=cufed --source=CUFED
    python -m rrsr_jax.data.prepare --dataset=cufed5 --source=CUFED5
    python -m rrsr_jax.main --config=configs/cufed5.py --workdir=runs/cufed5 \\
        --config.weights.vgg=vgg19.pth --config.init_from=runs/matcher_student

A correspondence net from elsewhere comes by `--config.weights.correspondence=FILE` instead of `init_from`.
Published result: CUFED5 28.83 dB / 0.856. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.stage = "rec"  # or teacher, student, gan
    c.model = ConfigDict(
        dict(
            name="rrsr",
            features=64,
            context_blocks=16,
            alignments=(1, 3, 3),
            blocks=(16, 5, 5),
            experts=16,
            gate=True,
            groups=8,
            vgg_channels=(64, 128, 256),
            correspondence_channels=(64, 128, 256),
            match_tile=2**22,
            match_dtype="float32",  # of the products of the patch search; or bfloat16
            match_coarse=0,  # 4, say: approximate coarse-to-fine search
            match_subpixel=False,  # refine matches between pixels; not in the paper
            pre_offsets="patches",  # or smooth, not in the paper: for references that are scaled or rotated
            deform_conv="",  # xla or triton; empty: triton on a CUDA GPU, else xla
            dtype="float32",  # of the computation; or bfloat16, with float32 parameters
            remat="none",  # or blocks, fas: trade time for memory
        )
    )
    # Files of pretrained parameters, by module; where empty, the module starts untrained.
    c.weights = ConfigDict(dict(vgg="", correspondence="", rrsr=""))
    # Multiplies the random initial kernels of the trained part, N(0, 0.02); a narrow network needs more to pass a signal on.
    c.init_gain = 1.0
    # Workdir of a run to start from: a student's for its correspondence net, of rec or gan for everything.
    c.init_from = ""

    c.data = ConfigDict(
        dict(
            name="cufed",  # a prepared dataset, or embedded
            dir="data",  # of the prepared datasets
            patch=160,
            warp=True,
            warp_range=(5.0, 20.0),
            # Pairs made of photographs, see images.view_pair.
            view=dict(shift=0.25, corners=0.05, whole_pixels=False, rotation=0.0, zoom=(1.0, 1.0)),
            pairs="warp",  # what the correspondence net learns from; or view
            # Augmentation for photographs in the wild, see data/augment.py; all of it is off here.
            reference_shares=dict(
                unrelated=0.0, none=0.0
            ),  # samples with another photograph's reference, and with their own lr
            light=dict(exposure=0.0, white_balance=0.0, contrast=0.0),  # of references
            degradation=dict(share=0.0, blur=0.0, noise=0.0, jpeg=100),  # of low-resolution inputs
            reference_degradation=dict(share=0.0, blur=0.0, noise=0.0, jpeg=100),
            skip_damaged=False,
            threads=16,
            prefetch=16,
            workers=0,
        )
    )
    c.batch_size = 9  # of all devices together
    c.accumulate = 1  # equal pieces in which a device takes its images, to save memory; the result is the same
    c.steps = 255_000

    # Eq. 6; a weight of 0 leaves the term out. The release has 0.6 for rtrr.
    c.loss = ConfigDict(dict(rec=1.0, rtrr=0.4))
    c.pixel_loss = "l1"  # of the term rec; or mse, charbonnier, blurred_l1
    c.adam_betas = (0.9, 0.999)
    c.weight_decay = 0.0  # times the parameters, added to the gradient
    # By module, everything else under `default`; 0 freezes a module.
    c.learning_rates = ConfigDict(
        dict(default=1e-4, offset_4x=1e-4, offset_2x=1e-5, offset_1x=1e-6, vgg=0.0, correspondence=0.0)
    )
    # Or cosine: down to 0 at the one step of decay_steps; cosine_restarts: down to decay_factor at each of them.
    c.schedule = "steps"
    c.decay_steps = (72_545, 211_040)
    c.decay_factor = 0.1
    c.ema_decay = 0.0  # 0 switches the moving average off

    c.log_every = 100
    c.profile_steps = 0  # traced for a profile viewer, in WORKDIR/profile
    c.image_every = 5_000
    c.checkpoint_every = 1_000
    c.keep_checkpoints = 3
    c.eval = ConfigDict(
        dict(
            sets="cufed5",  # prepared datasets, or embedded; separated by commas; may be empty
            dir="data",
            references="",  # how to choose the reference, separated by commas; each set's own rules if empty
            every=0,  # steps; 0: only in the end
            published_padding=True,  # of benchmarks; False groups them by size, like all other sets
            border=4,
            niqe=False,  # measured as well
            lpips="",  # files or folders of weights, by which they are measured as well
            dists="",
            limit=0,  # only so many images of each set; 0: all
            shown=12,  # images on the page
            sheets=0,  # images drawn as one picture each
            crops=16,  # of the embedded photographs, and
            patch=160,  # their size
        )
    )
    return c
