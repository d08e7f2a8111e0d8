"""What a list of runs gave: as numbers, and as a Markdown table beside the paper's figures."""

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


def summary(planned: Sequence[Run]) -> dict[str, Any]:
    """Per config its file, the published figures, and of every finished seed steps, minutes of training and results by set."""
    table = {}
    for run in planned:
        row = table.setdefault(
            run.name, {"config": run.path, "published": published.CONFIGS.get(run.name), "seeds": {}}
        )
        if found := runs.results(run):
            row["seeds"][run.config.seed] = {"minutes": _training_minutes(run), **found}
    return table


def _training_minutes(run: Run) -> float | None:
    """Of all steps at the mean speed since the run last went on; None if no record tells one."""
    speeds = [record["images_per_second"] for record in runs.records(run) if record["images_per_second"]]
    return round(run.config.steps * run.config.batch_size / speeds[-1] / 60, 2) if speeds else None


def markdown(table: Mapping[str, Any]) -> str:
    """A table per test set: means over seeds with standard deviations; each config with its first way to choose a reference."""
    sets = dict.fromkeys(name for row in table.values() for seed in row["seeds"].values() for name in seed["sets"])
    return "\n\n".join(_set_table(name, table) for name in sets)


def _set_table(name: str, table: Mapping[str, Any]) -> str:
    rows = {config: [seed for seed in row["seeds"].values() if name in seed["sets"]] for config, row in table.items()}
    found = [seeds[0] for seeds in rows.values() if seeds]
    matching = next((seed for seed in found if _is_matching(seed, name)), None)
    upscaling = next((seed for seed in found if not _is_matching(seed, name)), None)
    notes, titles = [name], ["config", "reference", "border", "seeds", "steps", "minutes"]
    if matching:
        notes.append("matches within one cell of the truth, of sharp images and of an upsampled with a sharp one")
        titles += ["HR-HR", "LR-HR"]
    if upscaling:
        notes.append("PSNR, SSIM and GMSD (the lower the better) on Y; the paper's figures are those of CUFED5")
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
        lines.append([config, *_cells(name, seeds, bool(matching), table[config]["published"])])
    full = [_row(*(line + [""] * len(titles))[: len(titles)]) for line in lines]
    return "\n".join(["; ".join(notes), "", _row(*titles), "|---" * len(titles) + "|", *full])


def _cells(name: str, seeds: Sequence[Mapping[str, Any]], matched: bool, published) -> list[Any]:
    """What stands behind a config's name, of the seeds that are finished."""
    published = (f"{published[0]:.2f}", f"{published[1]:.3f}") if published else ("", "")
    if not seeds:
        return ["", "", 0, "", "", *[""] * (len(MATCHED) if matched else 0), *[""] * len(DIGITS), *published]
    results = [seed["sets"][name] for seed in seeds]
    columns = [result["references"] for result in results]
    if _is_matching(seeds[0], name):
        return ["", "", *_effort(seeds), *_shares(columns, MATCHED)]
    column = next((column for column in columns[0] if column != "bicubic"), "bicubic")
    scores = [""] * (len(MATCHED) if matched else 0) + _scores([c[column] for c in columns])
    if column == "bicubic":
        return ["", results[0]["border"], "", "", "", *scores, *published]
    return [column.replace("_", " "), results[0]["border"], *_effort(seeds), *scores, *published]


def _effort(seeds: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Number of seeds, steps, minutes."""
    minutes = [seed["minutes"] for seed in seeds if seed["minutes"] is not None]
    return [len(seeds), seeds[0]["step"], f"{statistics.mean(minutes):.1f}" if minutes else ""]


def _is_matching(seed: Mapping[str, Any], name: str) -> bool:
    return MATCHED[0] in seed["sets"][name]["references"]


def _shares(columns: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Mean and deviation of the shares of right matches, in percent."""
    return [_mean([100 * c[name][correspondence.METRIC] for c in columns], 1) + " %" for name in names]


def _scores(columns: Sequence[Mapping[str, float]]) -> list[str]:
    """Mean and deviation of each metric that all of them have: older results are without GMSD."""
    return [_mean([c[k] for c in columns], n) if all(k in c for c in columns) else "" for k, n in DIGITS.items()]


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
