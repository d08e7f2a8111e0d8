"""Beside Table 2 in miniature: RRSR-rec with an untrained correspondence net. Published result: none."""

from ml_collections import ConfigDict

from configs.ablations import c2_pfa_ras_rtrr


def get_config() -> ConfigDict:
    c = c2_pfa_ras_rtrr.get_config()
    c.init_from = ""
    return c
