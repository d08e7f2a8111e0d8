"""Published figures."""

from rrsr_jax.data import datasets
from rrsr_jax.evaluation import published


def test_published_figures_are_of_benchmarks_and_in_range():
    assert set(published.TEST_SETS) <= set(datasets.BUILDERS)
    figures = [f for methods in published.TEST_SETS.values() for f in methods.values()] + list(
        published.CONFIGS.values()
    )
    assert all(20 < psnr < 32 and 0.6 < ssim < 0.95 for psnr, ssim in figures)


def test_table_1_has_each_method_on_each_set():
    assert all(len(figures) == len(published.TABLE1_SETS) for figures in published.TABLE1.values())
    assert set(published.METHODS.values()) == set(published.TABLE1)
    assert published.of_config("edsr", "manga109") == (28.93, 0.891)
    assert published.of_config("edsr", "embedded") == published.of_config("edsr") == (25.93, 0.777)
    assert published.of_config("c2_pfa", "sun80") is None
    for name, methods in published.TEST_SETS.items():
        index = published.TABLE1_SETS.index(name)
        assert all(published.TABLE1[m][index] == f for m, f in methods.items() if m in published.TABLE1)
        assert {"RRSR-rec", "RRSR (GAN)", "best known"} <= set(methods)


def test_reciprocal_training_and_rrsr_are_best_among_rows_of_one_model():
    """What the paper claims; a mistyped digit breaks it."""
    rows = published.CONFIGS
    for name in ("c2", "masa", "ttsr", "c2_pfa_ras"):
        assert rows[name] < rows[f"{name}_rtrr"]
    assert rows["c2"] < rows["c2_pfa"] < rows["c2_pfa_ras"] < rows["c2_pfa_ras_rtrr"]
    assert max(rows.values()) == published.TEST_SETS["cufed5"]["RRSR-rec"]
