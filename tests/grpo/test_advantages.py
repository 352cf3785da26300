from math import isnan

import pytest

from runner.grpo.advantages import advantages, std, weighted_rewards


def test_a_group_is_centered_and_divided_by_its_own_spread() -> None:
    #                       std of (1, 0, 0, 1) with n − 1 is 0.57735
    assert advantages([1, 0, 0, 1], 4, "group") == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875], abs=1e-6)


def test_equal_rewards_give_no_signal() -> None:
    assert advantages([0.3, 0.3, 0.3, 0.3], 4, "group") == [0.0, 0.0, 0.0, 0.0]


def test_a_completion_without_a_reward_leaves_its_group() -> None:
    with_none = advantages([1, 0, None, 0], 4, "group")
    assert with_none[2] == 0.0
    assert [with_none[0], with_none[1], with_none[3]] == pytest.approx(advantages([1, 0, 0], 3, "group"))


def test_a_single_reward_in_a_group_gives_no_signal() -> None:
    assert advantages([1, None, None, None], 4, "group") == [0.0, 0.0, 0.0, 0.0]


def test_none_only_centers() -> None:
    assert advantages([1, 0, 0, 1], 4, "none") == [0.5, -0.5, -0.5, 0.5]


def test_batch_divides_every_group_by_the_spread_of_the_whole_batch() -> None:
    #                               std of (1, 0, 3, 0) is 1.41421
    assert advantages([1, 0, 3, 0], 2, "batch") == pytest.approx([0.353528, -0.353528, 1.060585, -1.060585], abs=1e-6)


def test_a_none_beside_a_value_adds_nothing_to_the_sum() -> None:
    assert weighted_rewards([[1.0, None], [0.5, 2.0], [None, None]], [0.2, 1.0]) == [0.2, 2.1, None]


def test_the_spread_of_fewer_than_two_values_is_not_a_number() -> None:
    assert isnan(std([1.0, None]))
