"""The results of a list of runs: as numbers, and as a Markdown table beside the paper's figures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rrsr_jax.evaluation import correspondence, published
from rrsr_jax.evaluation.metrics import ALWAYS, COLUMNS, LOWER_IS_BETTER, NIQE_NOTICE
from rrsr_jax.evaluation.published import Figures
from rrsr_jax.experiments import runs
from rrsr_jax.experiments.runs import Run

# What is matched, in a correspondence net's results.
MATCHED = ("hr_hr", "lr_hr")


def collect(planned: Sequence[Run]) -> dict[str, Any]:
    """By config its file, the published figures, and for every finished seed steps, minutes of training and results by set."""
    collected: dict[str, Any] = {}
    for run in planned:
        entry = {"config": run.file, "published": published.of_config(run.name), "seeds": {}}
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


def table1(collected: Mapping[str, Any]) -> str:
    """The paper's Table 1 as Markdown, all methods, with the results beside it, from what `collect` returns.

    Of each method the config that `published.METHODS` names; PSNR and SSIM on Y, means over seeds, with the first way to choose a
    reference. Sets that Table 1 does not have follow without figures of the paper.
    """
    configs = {published.METHODS[config]: config for config in collected if config in published.METHODS}
    seeds = {method: list(collected[config]["seeds"].values()) for method, config in configs.items()}
    sets = dict.fromkeys(name for found in seeds.values() for seed in found for name in seed["sets"])
    paper = [name for name in published.TABLE1_SETS if name in sets] or [published.TABLE1_SETS[0]]
    titles = ["method", "config"]
    for name in (*paper, *(name for name in sets if name not in paper)):
        titles += [f"{name}: paper"] * (name in paper) + [f"{name}: ours"] * (name in sets)
    lines = []
    for method, figures in published.TABLE1.items():
        line = [method, configs.get(method, "")]
        for title in titles[2:]:
            name, _, whose = title.rpartition(": ")
            if whose == "paper":
                found = figures[published.TABLE1_SETS.index(name)]
                line.append(f"{found[0]:.2f} / {found[1]:.3f}" if found else "")
            else:
                line.append(
                    _psnr_and_ssim([seed["sets"][name] for seed in seeds.get(method, ()) if name in seed["sets"]])
                )
        lines.append(_row(*line))
    what = "The paper's Table 1, and the results of this list; PSNR in dB / SSIM on Y"
    return "\n".join([what, "", _row(*titles), "|---" * len(titles) + "|", *lines])


def _psnr_and_ssim(results: Sequence[Mapping[str, Any]]) -> str:
    """Mean and deviation of both over seeds, from their results of one set; empty without results."""
    rows = [result["references"][first_reference(result)] for result in results]
    metrics = ("psnr_y", "ssim_y")
    return " / ".join(_mean([row[metric] for row in rows], COLUMNS[metric][1]) for metric in metrics) if rows else ""


def _set_table(name: str, collected: Mapping[str, Any]) -> str:
    rows = {
        config: [seed for seed in entry["seeds"].values() if name in seed["sets"]]
        for config, entry in collected.items()
    }
    found = [seeds[0] for seeds in rows.values() if seeds]
    matching = next((seed for seed in found if _is_matching(seed, name)), None)
    upscaling = next((seed for seed in found if not _is_matching(seed, name)), None)
    scored = [row for seed in found for row in seed["sets"][name]["references"].values()]
    measured = [metric for metric in COLUMNS if metric in ALWAYS or any(metric in row for row in scored)]
    notes, titles = [name], ["config", "reference", "border", "seeds", "steps", "minutes"]
    if matching:
        notes.append(
            "share of matches within one cell of the truth: sharp with sharp (HR-HR), upsampled with sharp (LR-HR)"
        )
        titles += ["HR-HR", "LR-HR"]
    if upscaling:
        paper = "the same set" if name in published.TABLE1_SETS else "CUFED5"
        names = [COLUMNS[metric][0] for metric in measured if metric in LOWER_IS_BETTER]
        notes.append(
            f"PSNR, SSIM and GMSD on Y; lower {', '.join(names)} is better; the paper's figures are of {paper}"
        )
        titles += [*(COLUMNS[metric][0] for metric in measured), "paper: PSNR", "SSIM"]
        if "niqe" in measured:
            notes.append(NIQE_NOTICE)
    lines = []
    if matching:
        for network in ("random", "untrained"):
            share = _shares([matching["sets"][name]["references"]], (f"{network}_lr_hr",))
            lines.append([f"{network} correspondence net", "", "", "", "", "", "", *share])
    columns = _Columns(bool(matching), measured)
    if upscaling:
        result = upscaling["sets"][name]
        lines.append(["bicubic", "", result["border"], "", "", "", *columns.scores([result["references"]["bicubic"]])])
    for config, seeds in rows.items():
        lines.append([config, *_cells(name, seeds, columns, published.of_config(config, name))])
    full = [_row(*(line + [""] * len(titles))[: len(titles)]) for line in lines]
    return "\n".join(["; ".join(notes), "", _row(*titles), "|---" * len(titles) + "|", *full])


class _Columns(NamedTuple):
    """Which columns a table has: of matches, and of metrics."""

    matched: bool
    measured: Sequence[str]

    def scores(self, seeds: Sequence[Mapping[str, float]] = ()) -> list[str]:
        """Mean and deviation over seeds of each metric, after empty cells for matches; empty where a seed does not have it."""
        cells = [""] * len(MATCHED) if self.matched else []
        for metric in self.measured:
            complete = seeds and all(metric in scores for scores in seeds)
            cells.append(_mean([scores[metric] for scores in seeds], COLUMNS[metric][1]) if complete else "")
        return cells


def _cells(name: str, seeds: Sequence[Mapping[str, Any]], columns: _Columns, paper: Figures | None) -> list[Any]:
    """The cells after a config's name, of the finished seeds."""
    figures = (f"{paper[0]:.2f}", f"{paper[1]:.3f}") if paper else ("", "")
    if not seeds:
        return ["", "", 0, "", "", *columns.scores(), *figures]
    results = [seed["sets"][name] for seed in seeds]
    by_reference = [result["references"] for result in results]
    if _is_matching(seeds[0], name):
        return ["", "", *_effort(seeds), *_shares(by_reference, MATCHED)]
    reference = first_reference(results[0])
    scores = columns.scores([values[reference] for values in by_reference])
    if reference == "bicubic":
        return ["", results[0]["border"], "", "", "", *scores, *figures]
    return [reference.replace("_", " "), results[0]["border"], *_effort(seeds), *scores, *figures]


def first_reference(result: Mapping[str, Any]) -> str:
    """The first way to choose a reference after bicubic, in the result of a set."""
    return next((reference for reference in result["references"] if reference != "bicubic"), "bicubic")


def _effort(seeds: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Number of seeds, steps, mean minutes."""
    minutes = [seed["minutes"] for seed in seeds if seed["minutes"] is not None]
    return [len(seeds), seeds[0]["step"], f"{statistics.mean(minutes):.1f}" if minutes else ""]


def _is_matching(seed: Mapping[str, Any], name: str) -> bool:
    return MATCHED[0] in seed["sets"][name]["references"]


def _shares(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Mean and deviation over seeds of the shares of right matches, in percent."""
    return [_mean([100 * result[name][correspondence.METRIC] for result in results], 1) + " %" for name in names]


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
