"""Published figures, for comparison: PSNR in dB and SSIM, x4, on Y."""

Figures = tuple[float, float]  # PSNR in dB, SSIM

# By test set and method: RRSR's Table 1 and its supplement. `best known` is of 2026. A method's name says which border is left
# out if it is not the protocol's.
TEST_SETS: dict[str, dict[str, Figures]] = {
    "cufed5": {
        "bicubic (border 0)": (24.22, 0.6843),
        "TTSR-rec": (27.09, 0.804),
        "MASA-rec": (27.54, 0.814),
        "C2-Matching-rec": (28.24, 0.841),
        "DATSR-rec": (28.72, 0.856),
        "RRSR-rec": (28.83, 0.856),
        "RRSR (GAN)": (28.09, 0.835),
        "best known": (29.40, 0.869),
    },
    "sun80": {
        "bicubic (border 0)": (28.65, 0.7666),
        "TTSR-rec": (30.02, 0.814),
        "MASA-rec": (30.15, 0.815),
        "C2-Matching-rec": (30.18, 0.817),
        "DATSR-rec": (30.20, 0.818),
        "RRSR-rec": (30.13, 0.816),
        "RRSR (GAN)": (29.57, 0.793),
        "best known": (30.40, 0.821),
    },
    "urban100": {
        "bicubic (border 0)": (23.13, 0.6592),
        "TTSR-rec": (25.87, 0.784),
        "MASA-rec": (26.09, 0.786),
        "C2-Matching-rec": (26.03, 0.785),
        "DATSR-rec": (26.52, 0.798),
        "RRSR-rec": (26.21, 0.790),
        "RRSR (GAN)": (25.68, 0.767),
        "best known": (27.01, 0.813),
    },
    "manga109": {
        "bicubic (border 0)": (24.95, 0.7892),
        "TTSR-rec": (30.09, 0.907),
        "MASA-rec": (30.28, 0.909),
        "C2-Matching-rec": (30.47, 0.911),
        "DATSR-rec": (30.49, 0.912),
        "RRSR-rec": (30.91, 0.913),
        "RRSR (GAN)": (29.82, 0.893),
        "best known": (31.55, 0.918),
    },
    "wr_sr": {
        "TTSR-rec": (27.97, 0.792),
        "MASA-rec": (28.19, 0.796),
        "C2-Matching-rec": (28.32, 0.801),
        "DATSR-rec": (28.34, 0.805),
        "RRSR-rec": (28.41, 0.804),
        "RRSR (GAN)": (27.89, 0.784),
        "best known": (28.67, 0.810),
    },
}

_RRSR = TEST_SETS["cufed5"]["RRSR-rec"]
_C2, _C2_RTRR = (28.40, 0.846), (28.64, 0.853)  # trained by RRSR's authors, as are MASA and TTSR below
_PFA_RAS = (28.70, 0.853)

# On CUFED5, by the name of a config or of a config's row: RRSR's Tables 1 and 2, and its Fig. 5(b).
CONFIGS: dict[str, Figures] = {
    "cufed5": _RRSR,
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
    "srcnn": (25.33, 0.745),
    "edsr": (25.93, 0.777),
    "rcan": (26.06, 0.769),
    "nlsn": (26.53, 0.784),
    "crossnet": (25.48, 0.764),
    "srntt_rec": (26.24, 0.784),
    "ssen_rec": (26.78, 0.791),
    "dcsr_rec": (27.30, 0.807),
}
