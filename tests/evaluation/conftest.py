"""Prepared test sets."""

import pytest

from rrsr_jax.data import prepare
from tests.helpers import grey, noise, write


@pytest.fixture
def groups(tmp_path):
    """CUFED5's layout: three groups, the k-th reference of group g of grey 40 g + 5 k; odd sizes."""
    images = {f"{g:03}_{k}.png": grey(40 * g + 5 * k, 40 + k, 36 - k) for g in range(3) for k in range(1, 6)}
    images |= {f"{g:03}_0.png": noise(41 + g, 50, g) for g in range(3)}
    prepare.prepare("cufed5", str(write(tmp_path / "in", images)), str(tmp_path / "data"), count=3)
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path):
    """Five photographs, each of another size."""
    sizes = [(48, 60), (60, 48), (55, 57), (96, 99), (50, 50)]
    source = write(tmp_path / "in", {f"{i}.png": noise(*size, i) for i, size in enumerate(sizes)})
    prepare.prepare("photos", str(source), str(tmp_path / "data"))
    return tmp_path / "data"
