from collections import Counter

from runner.grpo.order import batch_of, draw_seeds, indices


def test_a_pass_over_the_data_has_every_example_once() -> None:
    assert sorted(indices(0, 0, 10, 10)) == list(range(10))
    assert sorted(indices(0, 10, 10, 10)) == list(range(10))


def test_passes_differ_and_a_batch_may_straddle_two() -> None:
    assert indices(0, 0, 10, 10) != indices(0, 10, 10, 10)
    assert indices(0, 8, 4, 10) == indices(0, 0, 20, 10)[8:12]


def test_more_prompts_than_examples_repeat_them_evenly() -> None:
    assert Counter(indices(3, 0, 9, 3)) == {0: 3, 1: 3, 2: 3}


def test_steps_that_share_a_batch_have_the_same_number() -> None:
    assert [batch_of(step, 4) for step in (1, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]


def test_every_draw_has_its_own_seed_even_for_the_same_example_twice() -> None:
    seeds = [seed for group in draw_seeds(0, "train", 1, [7, 7, 8], 4) for seed in group]
    assert len(set(seeds)) == 12
    assert draw_seeds(0, "train", 1, [7], 2) == [draw_seeds(0, "train", 1, [7], 4)[0][:2]]
