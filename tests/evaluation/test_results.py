"""What an evaluation writes."""

import json

from rrsr_jax.evaluation import results as results_of_runs


def test_results_of_several_evaluations_stand_together(tmp_path):
    path, run = tmp_path / "results.json", {"step": 3, "parameters": 7, "model": {"blocks": (1, 2)}}
    results_of_runs.write(path, run, {"a": {"images": 1}})
    results_of_runs.write(path, run, {"b": {"images": 2}})
    model = {"blocks": [1, 2]}
    both = {"step": 3, "parameters": 7, "model": model, "sets": {"a": {"images": 1}, "b": {"images": 2}}}
    assert json.loads(path.read_text()) == both
    for change in ({"parameters": 8}, {"model": {"blocks": [1, 2], "dtype": "bfloat16"}}):
        run |= change
        results_of_runs.write(path, run, {"b": {"images": 3}})
        expected = {name: run[name] for name in ("step", "parameters")}
        assert json.loads(path.read_text()) == expected | {
            "model": change.get("model", model),
            "sets": {"b": {"images": 3}},
        }
