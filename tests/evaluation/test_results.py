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
    assert results_of_runs.asides(path) == []
    for change in ({"parameters": 8}, {"model": {"blocks": [1, 2], "dtype": "bfloat16"}}):
        run |= change
        results_of_runs.write(path, run, {"b": {"images": 3}})
        expected = {name: run[name] for name in ("step", "parameters")}
        assert json.loads(path.read_text()) == expected | {
            "model": change.get("model", model),
            "sets": {"b": {"images": 3}},
        }


def test_files_of_results_are_moved_aside(tmp_path, capsys):
    path = tmp_path / "routing.csv"
    for content in ("a\n", b"a\n", "b\n", "c\n"):
        results_of_runs.write_file(path, content)
    assert [other.read_text() for other in [path, *results_of_runs.asides(path)]] == ["c\n", "a\n", "b\n"]
    assert capsys.readouterr().err.count(f"note: {path} has other results") == 2


def set_result(images, *references):
    return {"images": images, "references": {name: {"psnr_y": 25.0} for name in references}, "failed": {}}


def test_results_are_added_to_or_moved_aside(tmp_path, capsys):
    path, run = tmp_path / "results.json", {"step": 3}

    def write(identity, **sets):
        results_of_runs.write(path, identity, sets)
        return [json.loads(other.read_text()) for other in (path, *results_of_runs.asides(path))]

    write(run, a=set_result(5, "bicubic"), b=set_result(7, "bicubic"))
    whole, *aside = write(run, a=set_result(5, "bicubic", "stack"))
    assert not aside, "more of the same loses nothing"
    assert whole["sets"] == {"a": set_result(5, "bicubic", "stack"), "b": set_result(7, "bicubic")}
    assert write(run, a=set_result(5, "bicubic"))[1:] == [whole]
    assert f"note: {path} has other results; they are kept as {tmp_path}/results.1.json" in capsys.readouterr().err
    narrow, _, _ = write(run, a=set_result(2, "bicubic"))
    assert narrow["sets"] == {"a": set_result(2, "bicubic"), "b": set_result(7, "bicubic")}
    (later, *aside) = write({"step": 4}, a=set_result(5, "bicubic"))
    assert (later["sets"], len(aside), aside[-1]) == ({"a": set_result(5, "bicubic")}, 3, narrow)
    path.write_text("[1]")
    results_of_runs.write(path, run, {})
    assert results_of_runs.asides(path)[-1].read_text() == "[1]"
