"""Random damage and kills: short forms of the two scripts that are run by hand."""

import collections

import pytest

from tests.experiments.run import damage, kills


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's readers
def test_no_damage_of_a_checkpoint_changes_what_is_restored(tmp_path):
    seen = collections.Counter()
    for kind, file, *results in damage.outcomes(tmp_path, damage.save(tmp_path, 64), 200, seed=1):
        assert "unnoticed" not in results, (kind, file)
        assert all("\n" not in result for result in results)
        seen.update(result.partition(":")[0] for result in results)
    assert seen["before"] > 40  # arrays were damaged, and the run went on from step 5
    assert seen["refused"] > 40  # their averages were not given back


@pytest.mark.slow
def test_a_run_that_is_killed_ends_like_the_undisturbed_one(tmp_path):
    assert sum(count for _, count in kills.tried(2, 0, tmp_path, [kills.mixture])) == 2


@pytest.mark.long
def test_a_killed_run_of_every_paper_ends_like_the_undisturbed_one(tmp_path):
    ended = list(kills.tried(3, 0, tmp_path))
    assert sum(count for _, count in ended) == 3
    assert {name for name, _ in ended} == {module.__name__ for module in kills.EXPERIMENTS}
