"""Published figures."""

from rrsr_jax.data import datasets
from rrsr_jax.evaluation import published


def test_published_figures_are_of_benchmarks_and_in_range():
    assert set(published.TEST_SETS) <= set(datasets.BUILDERS)
    figures = [f for methods in published.TEST_SETS.values() for f in methods.values()] + list(
        published.CONFIGS.values()
    )
    assert all(22 < psnr < 32 and 0.6 < ssim < 0.95 for psnr, ssim in figures)


def test_reciprocal_training_and_rrsr_are_best_among_rows_of_one_model():
    """What the paper claims; a mistyped digit breaks it."""
    rows = published.CONFIGS
    for name in ("c2", "masa", "ttsr", "c2_pfa_ras"):
        assert rows[name] < rows[f"{name}_rtrr"]
    assert rows["c2"] < rows["c2_pfa"] < rows["c2_pfa_ras"] < rows["c2_pfa_ras_rtrr"]
    assert max(rows.values()) == published.TEST_SETS["cufed5"]["RRSR-rec"]
