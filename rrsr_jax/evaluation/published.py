"""Published figures, for comparison: PSNR in dB and SSIM, x4, on Y."""

Figures = tuple[float, float]  # PSNR in dB, SSIM

TABLE1_SETS = ("cufed5", "sun80", "urban100", "manga109", "wr_sr")

# The paper's Table 1, on each of these sets; its rows without `-rec` are trained with a discriminator, from SRGAN on.
TABLE1: dict[str, tuple[Figures | None, ...]] = {
    "SRCNN": ((25.33, 0.745), (28.26, 0.781), (24.41, 0.738), (27.12, 0.850), (27.27, 0.767)),
    "EDSR": ((25.93, 0.777), (28.52, 0.792), (25.51, 0.783), (28.93, 0.891), (28.07, 0.793)),
    "RCAN": ((26.06, 0.769), (29.86, 0.810), (25.42, 0.768), (29.38, 0.895), (28.25, 0.799)),
    "NLSN": ((26.53, 0.784), (30.16, 0.816), (26.28, 0.793), (30.47, 0.911), (28.07, 0.794)),
    "SRGAN": ((24.40, 0.702), (26.76, 0.725), (24.07, 0.729), (25.12, 0.802), (26.21, 0.728)),
    "ENet": ((24.24, 0.695), (26.24, 0.702), (23.63, 0.711), (25.25, 0.802), (25.47, 0.699)),
    "ESRGAN": ((21.90, 0.633), (24.18, 0.651), (20.91, 0.620), (23.53, 0.797), (26.07, 0.726)),
    "RankSRGAN": ((22.31, 0.635), (25.60, 0.667), (21.47, 0.624), (25.04, 0.803), (26.15, 0.719)),
    "CrossNet": ((25.48, 0.764), (28.52, 0.793), (25.11, 0.764), (23.36, 0.741), None),
    "SRNTT": ((25.61, 0.764), (27.59, 0.756), (25.09, 0.774), (27.54, 0.862), (26.53, 0.745)),
    "SRNTT-rec": ((26.24, 0.784), (28.54, 0.793), (25.50, 0.783), (28.95, 0.885), (27.59, 0.780)),
    "TTSR": ((25.53, 0.765), (28.59, 0.774), (24.62, 0.747), (28.70, 0.886), (26.83, 0.762)),
    "TTSR-rec": ((27.09, 0.804), (30.02, 0.814), (25.87, 0.784), (30.09, 0.907), (27.97, 0.792)),
    "C2-Matching": ((27.16, 0.805), (29.75, 0.799), (25.52, 0.764), (29.73, 0.893), (27.80, 0.780)),
    "C2-Matching-rec": ((28.24, 0.841), (30.18, 0.817), (26.03, 0.785), (30.47, 0.911), (28.32, 0.801)),
    "MASA": ((24.92, 0.729), (27.12, 0.708), (23.78, 0.712), (27.44, 0.849), (25.76, 0.717)),
    "MASA-rec": ((27.54, 0.814), (30.15, 0.815), (26.09, 0.786), (30.28, 0.909), (28.19, 0.796)),
    "SSEN": ((25.35, 0.742), None, None, None, None),
    "SSEN-rec": ((26.78, 0.791), None, None, None, None),
    "DCSR": ((25.39, 0.733), None, None, None, None),
    "DCSR-rec": ((27.30, 0.807), None, None, None, None),
    "RRSR (GAN)": ((28.09, 0.835), (29.57, 0.793), (25.68, 0.767), (29.82, 0.893), (27.89, 0.784)),
    "RRSR-rec": ((28.83, 0.856), (30.13, 0.816), (26.21, 0.790), (30.91, 0.913), (28.41, 0.804)),
}

# By test set, what stands beside an evaluation, and what of it is no row of Table 1. `best known` is of 2026. A method's
# name says which border is left out if it is not the protocol's.
_BESIDE = (
    "bicubic (border 0)",
    "TTSR-rec",
    "MASA-rec",
    "C2-Matching-rec",
    "DATSR-rec",
    "RRSR-rec",
    "RRSR (GAN)",
    "best known",
)
_OTHERS: dict[str, dict[str, Figures]] = {
    "cufed5": {
        "bicubic (border 0)": (24.22, 0.6843),
        "DATSR-rec": (28.72, 0.856),
        "best known": (29.40, 0.869),
    },
    "sun80": {
        "bicubic (border 0)": (28.65, 0.7666),
        "DATSR-rec": (30.20, 0.818),
        "best known": (30.40, 0.821),
    },
    "urban100": {
        "bicubic (border 0)": (23.13, 0.6592),
        "DATSR-rec": (26.52, 0.798),
        "best known": (27.01, 0.813),
    },
    "manga109": {
        "bicubic (border 0)": (24.95, 0.7892),
        "DATSR-rec": (30.49, 0.912),
        "best known": (31.55, 0.918),
    },
    "wr_sr": {
        "DATSR-rec": (28.34, 0.805),
        "best known": (28.67, 0.810),
    },
}


def _beside(index: int, name: str) -> dict[str, Figures]:
    """The figures of a set in the order of `_BESIDE`, without those that are not known."""
    known = {method: figures[index] for method, figures in TABLE1.items()} | _OTHERS[name]
    return {method: figures for method in _BESIDE if (figures := known.get(method))}


TEST_SETS = {name: _beside(index, name) for index, name in enumerate(TABLE1_SETS)}

_CONFIG_OF = {
    "C2-Matching-rec": "c2_matching",
    "C2-Matching": "c2_matching_gan",
    "MASA-rec": "masa",
    "MASA": "masa_gan",
    "TTSR-rec": "ttsr",
    "TTSR": "ttsr_gan",
    "RRSR-rec": "cufed5",
    "RRSR (GAN)": "cufed5_gan",
}
# Methods of Table 1 by the name of the config, or of the config's row, that stands for them.
METHODS = {_CONFIG_OF.get(method, method.lower().replace("-", "_")): method for method in TABLE1}
METHODS |= {"masa_rec": "MASA-rec", "ttsr_rec": "TTSR-rec"}  # rows of configs/table1.py

_RRSR = TEST_SETS["cufed5"]["RRSR-rec"]
_C2, _C2_RTRR = (28.40, 0.846), (28.64, 0.853)  # trained by RRSR's authors, as are MASA and TTSR below
_PFA_RAS = (28.70, 0.853)

# On CUFED5, by the name of a config or of a config's row: RRSR's Tables 1 and 2, and its Fig. 5(b).
CONFIGS: dict[str, Figures] = {
    **{config: figures for config, method in METHODS.items() if (figures := TABLE1[method][0])},
    "0.0": _PFA_RAS,
    "0.4": _RRSR,
    "16": _RRSR,
    "c2": _C2,
    "c2_pfa": (28.63, 0.851),
    "c2_pfa_ras": _PFA_RAS,
    "c2_pfa_ras_rtrr": _RRSR,
    "c2_rtrr": _C2_RTRR,
    "c2_matching": _C2,
    "masa": (27.47, 0.815),
    "masa_rtrr": (27.58, 0.818),
    "ttsr": (27.03, 0.800),
    "ttsr_rtrr": (27.17, 0.804),
}


def of_config(config: str, test_set: str = "cufed5") -> Figures | None:
    """The paper's figures for a config, by its name: on this set of Table 1; on CUFED5 for any other set."""
    if test_set in TABLE1_SETS[1:]:
        return TABLE1[METHODS[config]][TABLE1_SETS.index(test_set)] if config in METHODS else None
    return CONFIGS.get(config)
