"""The table of what the models cost."""

import pytest

from rrsr_jax.experiments import costs
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.edsr import EDSR
from rrsr_jax.models.srgan import SRResNet
from tests.helpers import tiny_rrsr


def test_operations_of_convolutions_are_counted():
    cost = costs.cost(EDSR(features=8, blocks=1), size=6, repeats=1)
    at_1x = 9 * (3 * 8 + 3 * 8 * 8 + 8 * 32)  # multiplications in a pixel: head, block, body, first upsampling
    total = 2 * 36 * (at_1x + 4 * 9 * 8 * 32 + 16 * 9 * 8 * 3)
    # Less what falls on the zeros around the image.
    assert cost.operations is not None
    assert 0.8 * total < cost.operations < 1.05 * total
    assert cost.trained == 9 * (3 * 8 + 3 * 8 * 8 + 2 * 8 * 32 + 8 * 3) + 4 * 8 + 2 * 32 + 3
    assert (cost.frozen, cost.pretrained) == (0, ())
    assert cost.seconds > 0
    assert cost.memory is None or cost.memory >= 4 * 24**2 * 8  # the features at 4x


def test_running_statistics_are_no_parameters():
    model = SRResNet(features=3, blocks=0)
    expected = 2 * 81 * 9 + 3 + 3 + 9 * 9 + 2 * 3 + 2 * (9 * 3 * 12 + 12) + 3  # kernels, biases, scales; slopes
    assert costs.cost(model, size=6, repeats=1).trained == expected


def test_frozen_and_pretrained_parts():
    tiny = {
        name: getattr(tiny_rrsr(), name) for name in ("features", "groups", "vgg_channels", "correspondence_channels")
    }
    cost = costs.cost(C2Matching(context_blocks=1, blocks=(1, 1, 1), **tiny), size=6, repeats=1)
    encoder = 9 * (3 * 4 + 4 * 4 + 4 * 6 + 6 * 6 + 6 * 8) + 4 + 4 + 6 + 6 + 8  # VGG to relu3_1; three of them
    assert cost.frozen == 3 * encoder
    assert set(cost.pretrained) == {"vgg", "correspondence"}
    assert costs.row(
        "x", cost._replace(trained=1234, frozen=10, operations=2.5e9, seconds=0.123, memory=3 * 2**20, pretrained=())
    ) == ("| x | 1,234 + 10 frozen | 2.5 | 0.12 s | 3 MiB | nothing |")


def test_command(monkeypatch, capsys):
    monkeypatch.setattr(costs, "cost", lambda model: costs.Cost(69_251, 0, 1e9, 0.5, None, ()))
    costs.main(["--models", "srcnn"])
    assert capsys.readouterr().out.splitlines()[-1] == "| srcnn | 69,251 | 1.0 | 0.50 s |  | nothing |"
    with pytest.raises(SystemExit):
        costs.main(["--models", "vdsr"])
