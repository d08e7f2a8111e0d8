"""The contract between a model and the rest: what is read of a module, and what is refused."""

import re

import flax.linen as nn
import pytest

from rrsr_jax import models
from rrsr_jax.errors import InputError
from rrsr_jax.models.contract import Contract, read_contract


def module(call, **attributes):
    """A model with this `__call__` and these attributes."""
    return type("Mine", (nn.Module,), {"__call__": call, **attributes})()


def test_a_model_that_is_only_the_call():
    assert read_contract(module(lambda self, lr, ref: lr)) == Contract(takes_valid=False, reach=None, pads_itself=False)
    assert read_contract(module(lambda self, image, reference, gain=1.0: image)) == Contract()


def test_what_the_models_say():
    contracts = {name: read_contract(model()) for name, model in models.MODELS.items()}
    assert {name for name, contract in contracts.items() if contract.pads_itself} == {
        *("masa", "ttsr", "nlsn", "crossnet", "srntt", "ssen", "dcsr"),
    }
    assert {name for name, contract in contracts.items() if contract.takes_valid} == {"rrsr", "c2_matching", "rcan"}
    assert {name for name, contract in contracts.items() if contract.reach} == {"rrsr", "c2_matching"}


@pytest.mark.parametrize(
    ("call", "attributes", "message"),
    [
        (lambda self, lr: lr, {}, "model Mine: a call (lr, ref) or (lr, ref, valid=None) expected, got (self, lr)"),
        (lambda self, lr, ref, valid: lr, {}, "missing a required argument: 'valid'"),
        (lambda self, lr, *, ref: lr, {}, "too many positional arguments"),
        (
            lambda self, lr, ref: lr,
            {"reach": 2.5},
            "reach: a number of pixels, or None for no limit, expected, got 2.5",
        ),
        (lambda self, lr, ref: lr, {"reach": -1}, "got -1"),
        (lambda self, lr, ref: lr, {"pads_itself": "yes"}, "pads_itself: True or False expected, got 'yes'"),
    ],
)
def test_a_module_that_breaks_the_contract(call, attributes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_contract(module(call, **attributes))
