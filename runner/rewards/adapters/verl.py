# pyright: basic
"""Calls reward functions as verl does: `compute_score(data_source, solution_str, ground_truth, extra_info)`.

The columns are verl's: `data_source`, `reward_model: {ground_truth: …}` (or `ground_truth` by itself) and `extra_info`.
"""


def adapted(function):
    """The function as a reward of one completion."""

    def reward(prompt, completion, example):
        return function(
            data_source=example.get("data_source"),
            solution_str=completion,
            ground_truth=_ground_truth(example),
            extra_info=example.get("extra_info"),
        )

    return reward


def _ground_truth(example):
    if "ground_truth" in example:
        return example["ground_truth"]
    model = example.get("reward_model")
    if isinstance(model, dict) and "ground_truth" in model:
        return model["ground_truth"]
    raise KeyError("the dataset has neither a column `ground_truth` nor `reward_model` with a `ground_truth` in it")
