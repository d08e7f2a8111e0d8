"""The table of what the models cost."""

import pytest

from configs import edsr
from rrsr_jax import models
from rrsr_jax.experiments import costs as summary
from tests.training.test_configs import shrunk


def test_operations_of_convolutions_are_counted():
    config = edsr.get_config()
    config.model.update(features=8, blocks=1)
    cost = summary.cost(config, size=6, repeats=1)
    at_1x = 9 * (3 * 8 + 3 * 8 * 8 + 8 * 32)  # multiplications in a pixel: head, block, body, first upsampling
    total = 2 * 36 * (at_1x + 4 * 9 * 8 * 32 + 16 * 9 * 8 * 3)
    # Less what falls on the zeros around the image.
    assert 0.8 * total < cost.operations < 1.05 * total
    assert cost.trained == 9 * (3 * 8 + 3 * 8 * 8 + 2 * 8 * 32 + 8 * 3) + 4 * 8 + 2 * 32 + 3
    assert (cost.frozen, cost.pretrained) == (0, ())
    assert cost.seconds > 0


def test_frozen_and_pretrained_parts():
    cost = summary.cost(shrunk("configs.c2_matching"), size=6, repeats=1)
    assert cost.frozen > 0
    assert set(cost.pretrained) == {"vgg", "correspondence"}
    assert summary.row("x", cost._replace(trained=1234, frozen=10, operations=2.5e9, seconds=0.123, pretrained=())) == (
        "| x | 1,234 + 10 frozen | 2.5 | 0.12 s | nothing |"
    )


def test_every_model_has_a_row():
    assert set(models.MODELS) <= set(summary.CONFIGS)


def test_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["summary", "--models", "srcnn"])
    monkeypatch.setattr(summary, "cost", lambda config: summary.Cost(69_251, 0, 1e9, 0.5, ()))
    summary.main()
    assert capsys.readouterr().out.splitlines()[-1] == "| srcnn | 69,251 | 1.0 | 0.50 s | nothing |"
    monkeypatch.setattr("sys.argv", ["summary", "--models", "vdsr"])
    with pytest.raises(SystemExit):
        summary.main()
