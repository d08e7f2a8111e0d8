"""The results of a list of runs: as numbers, and as a Markdown table beside the paper's figures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rrsr_jax.evaluation import correspondence, published
from rrsr_jax.experiments import runs
from rrsr_jax.experiments.runs import Run

# The metrics of `evaluate`, and how many digits of them are shown.
DIGITS = {"psnr_y": 2, "ssim_y": 4, "gmsd_y": 4}
# What is matched, in a correspondence net's results.
MATCHED = ("hr_hr", "lr_hr")


def collect(planned: Sequence[Run]) -> dict[str, Any]:
    """By config its file, the published figures, and for every finished seed steps, minutes of training and results by set."""
    collected: dict[str, Any] = {}
    for run in planned:
        entry = {"config": run.file, "published": published.CONFIGS.get(run.name), "seeds": {}}
        entry = collected.setdefault(run.name, entry)
        if results := runs.finished_results(run):
            entry["seeds"][run.config.seed] = {"minutes": _training_minutes(run), **results}
    return collected


def _training_minutes(run: Run) -> float | None:
    """All steps at the mean time of one; None if no record has it."""
    seconds = runs.seconds_per_step(run)
    return None if seconds is None else round(run.config.steps * seconds / 60, 2)


def markdown(collected: Mapping[str, Any]) -> str:
    """A table per test set, from what `collect` returns: means over seeds with standard deviations, for each config with the
    first way to choose a reference.
    """
    entries = collected.values()
    sets = dict.fromkeys(name for entry in entries for seed in entry["seeds"].values() for name in seed["sets"])
    return "\n\n".join(_set_table(name, collected) for name in sets)


def _set_table(name: str, collected: Mapping[str, Any]) -> str:
    rows = {
        config: [seed for seed in entry["seeds"].values() if name in seed["sets"]]
        for config, entry in collected.items()
    }
    found = [seeds[0] for seeds in rows.values() if seeds]
    matching = next((seed for seed in found if _is_matching(seed, name)), None)
    upscaling = next((seed for seed in found if not _is_matching(seed, name)), None)
    notes, titles = [name], ["config", "reference", "border", "seeds", "steps", "minutes"]
    if matching:
        notes.append(
            "share of matches within one cell of the truth: sharp with sharp (HR-HR), upsampled with sharp (LR-HR)"
        )
        titles += ["HR-HR", "LR-HR"]
    if upscaling:
        notes.append("PSNR, SSIM and GMSD (lower is better) on Y; the paper's figures are of CUFED5")
        titles += ["PSNR", "SSIM", "GMSD", "paper: PSNR", "SSIM"]
    lines = []
    if matching:
        for network in ("random", "untrained"):
            share = _shares([matching["sets"][name]["references"]], (f"{network}_lr_hr",))
            lines.append([f"{network} correspondence net", "", "", "", "", "", "", *share])
    if upscaling:
        result = upscaling["sets"][name]
        scores = [""] * len(MATCHED if matching else ()) + _scores([result["references"]["bicubic"]])
        lines.append(["bicubic", "", result["border"], "", "", "", *scores])
    for config, seeds in rows.items():
        lines.append([config, *_cells(name, seeds, bool(matching), collected[config]["published"])])
    full = [_row(*(line + [""] * len(titles))[: len(titles)]) for line in lines]
    return "\n".join(["; ".join(notes), "", _row(*titles), "|---" * len(titles) + "|", *full])


def _cells(
    name: str, seeds: Sequence[Mapping[str, Any]], matched: bool, published: Sequence[float] | None
) -> list[Any]:
    """The cells after a config's name, of the finished seeds; `matched` if the table has columns of matches."""
    paper = (f"{published[0]:.2f}", f"{published[1]:.3f}") if published else ("", "")
    if not seeds:
        return ["", "", 0, "", "", *[""] * (len(MATCHED) if matched else 0), *[""] * len(DIGITS), *paper]
    results = [seed["sets"][name] for seed in seeds]
    by_reference = [result["references"] for result in results]
    if _is_matching(seeds[0], name):
        return ["", "", *_effort(seeds), *_shares(by_reference, MATCHED)]
    reference = next((reference for reference in by_reference[0] if reference != "bicubic"), "bicubic")
    scores = [""] * (len(MATCHED) if matched else 0) + _scores([values[reference] for values in by_reference])
    if reference == "bicubic":
        return ["", results[0]["border"], "", "", "", *scores, *paper]
    return [reference.replace("_", " "), results[0]["border"], *_effort(seeds), *scores, *paper]


def _effort(seeds: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Number of seeds, steps, mean minutes."""
    minutes = [seed["minutes"] for seed in seeds if seed["minutes"] is not None]
    return [len(seeds), seeds[0]["step"], f"{statistics.mean(minutes):.1f}" if minutes else ""]


def _is_matching(seed: Mapping[str, Any], name: str) -> bool:
    return MATCHED[0] in seed["sets"][name]["references"]


def _shares(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Mean and deviation over seeds of the shares of right matches, in percent."""
    return [_mean([100 * result[name][correspondence.METRIC] for result in results], 1) + " %" for name in names]


def _scores(seeds: Sequence[Mapping[str, float]]) -> list[str]:
    """Mean and deviation over seeds of each metric; empty where a seed does not have it."""
    return [
        _mean([scores[metric] for scores in seeds], digits) if all(metric in scores for scores in seeds) else ""
        for metric, digits in DIGITS.items()
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
