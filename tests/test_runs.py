"""Several runs as one Dataset: joined, saved, loaded, taken apart; files that are none."""

import warnings

import numpy as np
import pytest
import xarray as xr
from synthetic import make_run, save_run

import purejax_po as po
from purejax_po.experiment.report import page
from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.results import join as runs


@pytest.fixture
def four():
    """Two algorithms on two environments, of different lengths, seeds and diagnostics."""
    return {
        ("ppo", "CartPole-v1"): make_run(),
        ("ppo", "Acrobot-v1"): make_run(env="Acrobot-v1", seeds=range(2, 12), diverged=[3]),
        ("trpo", "CartPole-v1"): make_run("trpo", updates=12, every=3, steps_per_update=1024),
        ("trpo", "Acrobot-v1"): make_run("trpo", "Acrobot-v1", diagnostics=("cg_residual",)),
    }


def test_joined_runs_have_the_promised_dims(four):
    joined = runs.join(four)
    assert joined["episode_return"].dims == ("algorithm", "env", "seed", "update")
    assert joined["final_return"].dims == ("algorithm", "env", "seed")
    assert joined["env_steps_per_second"].dims == ("algorithm", "env")
    assert joined["algorithm"].values.tolist() == ["ppo", "trpo"]
    assert joined["env"].values.tolist() == ["CartPole-v1", "Acrobot-v1"]
    one = joined["episode_return"].sel(algorithm="trpo", env="CartPole-v1", seed=3, update=6)
    assert one == four["trpo", "CartPole-v1"]["episode_return"].sel(seed=3, update=6)
    assert joined["step"].sel(algorithm="trpo", env="CartPole-v1", update=6) == 6 * 1024
    assert np.isnan(joined["kl"].sel(algorithm="trpo", env="Acrobot-v1")).all()


def test_one_environment_or_algorithm_makes_no_dim(four):
    joined = runs.join({key: run for key, run in four.items() if key[1] == "CartPole-v1"})
    assert joined["episode_return"].dims == ("algorithm", "seed", "update")
    single = {("ppo", "CartPole-v1"): four["ppo", "CartPole-v1"]}
    assert runs.join(single) is single["ppo", "CartPole-v1"]


def assert_same_runs(found, expected):
    assert found.keys() == expected.keys()
    for key, run in expected.items():
        xr.testing.assert_identical(found[key], run)


def test_split_undoes_join(four):
    assert_same_runs(runs.split(runs.join(four)), four)
    del four["trpo", "Acrobot-v1"]  # a pair that is missing
    assert_same_runs(runs.split(runs.join(four)), four)
    single = {("ppo", "CartPole-v1"): four["ppo", "CartPole-v1"]}
    assert_same_runs(runs.split(runs.join(single)), single)


def test_split_of_a_part(four):
    joined = runs.join(four)
    some = {key: run for key, run in four.items() if key[1] == "Acrobot-v1"}
    assert_same_runs(runs.split(joined.sel(env="Acrobot-v1")), some)
    some = {key: run for key, run in four.items() if key[0] == "trpo"}
    assert_same_runs(runs.split(joined.sel(algorithm=["trpo"])), some)


def test_saved_and_loaded_datasets_are_equal(four, tmp_path):
    joined = runs.join(four)
    results.save(joined, tmp_path / "joined.nc")
    again = po.load_results(tmp_path / "joined.nc")
    xr.testing.assert_identical(again, joined)
    assert_same_runs(runs.split(again), four)
    frame = again.to_dataframe()
    assert list(frame.index.names) == ["algorithm", "env", "seed", "update"]
    expected = four["ppo", "CartPole-v1"]["episode_return"].sel(seed=0, update=1)
    assert frame.loc[("ppo", "CartPole-v1", 0, 1), "episode_return"] == expected


def test_a_part_in_which_there_is_no_run_gets_one_line(four):
    del four["trpo", "Acrobot-v1"]
    nothing = runs.join(four).sel(algorithm="trpo", env="Acrobot-v1")
    for function in (po.summarize, po.plot_curves, po.plot_comparison):
        with pytest.raises(ValueError, match="dataset must hold a run, got a part"):
            function(nothing)


@pytest.mark.parametrize("name", ["episode_return", "final_return", "step", "loss/actor"])
def test_diagnostics_do_not_replace_results(name, tmp_path):
    run = make_run(diagnostics=(name,))
    plain = make_run(diagnostics=())
    np.testing.assert_array_equal(run["final_return"], plain["final_return"])
    shown = "loss.actor" if "/" in name else f"{name}_in_use"
    assert np.isfinite(run[shown]).all()
    results.save(run, tmp_path / "results.nc")


def test_load_runs(tmp_path):
    a = save_run(tmp_path / "a", "ppo")
    b = save_run(tmp_path / "b", "trpo")
    expected = runs.join({("ppo", "CartPole-v1"): a, ("trpo", "CartPole-v1"): b})
    for paths in (
        [tmp_path / "a", tmp_path / "b"],
        tmp_path,
        [tmp_path / "a/results.nc", tmp_path / "b"],
    ):
        xr.testing.assert_identical(po.load_runs(paths), expected)
    xr.testing.assert_identical(po.load_runs(tmp_path / "a"), a)


def test_joined_files_of_other_seeds_are_saved_whole(tmp_path):
    for name, algorithm, seeds in (("a", "ppo", range(4)), ("b", "trpo", range(7))):
        save_run(tmp_path / name, algorithm, seeds=seeds)
    joined = po.load_runs(tmp_path)
    po.save_results(joined, tmp_path / "joined.nc")
    again = po.load_results(tmp_path / "joined.nc")
    xr.testing.assert_identical(again, joined)
    assert [run.sizes["seed"] for run in runs.split(again).values()] == [4, 7]


def test_labels_tell_settings_apart(tmp_path):
    save_run(tmp_path / "a", "ppo", learning_rate=1e-3)
    save_run(tmp_path / "b", "ppo", learning_rate=1e-4)
    with pytest.raises(ValueError, match="two runs of ppo on CartPole-v1 must have one config"):
        po.load_runs([tmp_path / "a", tmp_path / "b"])
    joined = po.load_runs({"fast": tmp_path / "a", "slow": [tmp_path / "b"]})
    assert joined["algorithm"].values.tolist() == ["fast", "slow"]


def test_seeds_of_one_experiment_are_joined(tmp_path):
    a = save_run(tmp_path / "a", seeds=range(4, 8))
    b = save_run(tmp_path / "b", seeds=range(3))
    joined = po.load_runs(tmp_path)
    assert joined["seed"].values.tolist() == [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(joined["kl"].sel(seed=range(3)), b["kl"])
    assert joined.attrs["run_seconds"] == 2 * a.attrs["run_seconds"]
    assert joined.attrs["env_steps_per_second"] == pytest.approx(1e5)
    assert po.summarize(joined)["num_seeds"] == 7
    save_run(tmp_path / "c", seeds=[2])
    with pytest.raises(ValueError, match=r"seeds of their own, got .* with seed 2 in both"):
        po.load_runs(tmp_path)


def test_a_time_of_zero_is_known(tmp_path):
    """A program that was compiled before takes no time to compile."""
    for name, seconds in (("a", 0.0), ("b", 0.0), ("c", 3.0)):
        save_run(tmp_path / name, seeds=[ord(name)], compile_seconds=seconds)
    one = po.load_runs(tmp_path / "a")
    assert page.table(one)[0]["seconds"] == "4.0"
    none = po.load_runs([tmp_path / "a", tmp_path / "b"])
    assert none.attrs["compile_seconds"] == 0
    assert page.table(none)[0]["seconds"] == "8.0"
    assert po.load_runs(tmp_path).attrs["compile_seconds"] == 3
    unknown = po.load_runs(tmp_path / "c")
    del unknown.attrs["compile_seconds"]
    assert page.table(unknown)[0]["seconds"] == "-"


def test_different_wrappers_on_one_environment_are_told(tmp_path):
    scaled = "reward_scale:100"
    for name, env, wrappers in (
        *(("ppo", "CartPole-v1", ""), ("a2c", "CartPole-v1", scaled)),
        *(("ppo", "Acrobot-v1", scaled), ("a2c", "Acrobot-v1", scaled)),
    ):
        save_run(tmp_path / f"{name}-{env}", name, env, wrappers=wrappers)
    words = "same for all runs on CartPole-v1, got a2c: reward_scale:100; ppo: none; "
    with pytest.warns(UserWarning, match=words) as told:
        joined = po.load_runs(tmp_path)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert told[0].filename == __file__
    assert joined["final_return"].dims == ("algorithm", "env", "seed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        po.load_runs([tmp_path / "ppo-Acrobot-v1", tmp_path / "a2c-Acrobot-v1"])


def test_final_returns_leave_diverged_seeds_out(four):
    finals = runs.final_returns(runs.join(four))
    assert list(finals) == ["CartPole-v1", "Acrobot-v1"]
    assert list(finals["Acrobot-v1"]) == ["ppo", "trpo"]
    kept = four["ppo", "Acrobot-v1"]["final_return"].drop_sel(seed=3)
    np.testing.assert_array_equal(finals["Acrobot-v1"]["ppo"], kept)


def assert_one_line(path):
    with pytest.raises(ValueError, match=r"results must be a results\.nc file, got") as error:
        po.load_results(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_truncated_file_gets_one_line(tmp_path):
    save_run(tmp_path / "run")
    whole = (tmp_path / "run" / "results.nc").read_bytes()
    broken = tmp_path / "broken.nc"
    for length in np.linspace(0, len(whole) - 1, 60).astype(int):
        broken.write_bytes(whole[:length])
        assert_one_line(broken)


def test_foreign_files_get_one_line(tmp_path):
    foreign = tmp_path / "foreign.nc"
    xr.Dataset({"temperature": ("x", [1.0])}).to_netcdf(foreign, engine="h5netcdf")
    assert_one_line(foreign)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the run is not complete; resume it"):
        po.load_results(tmp_path)


def test_paths_without_runs_get_one_line(tmp_path):
    with pytest.raises(ValueError, match="which is and holds no run"):
        po.load_runs(tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        po.load_runs([])
    with pytest.raises(ValueError, match="no such file"):
        po.load_runs(tmp_path / "nowhere")
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match=r"comparison\.json must be that of a comparison"):
        po.load_runs(tmp_path)
    save_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json must be readable"):
        po.load_runs(tmp_path / "run")


def test_runs_of_unlike_parameters_are_joined_with_a_warning(tmp_path):
    for name, gravity in (("a", 9.8), ("b", 12.0)):
        save_run(tmp_path / name, name, env_params={"gravity": gravity})
    with pytest.warns(
        UserWarning, match=r"env_params should be the same .* a: {\"gravity\": 9.8}; b"
    ):
        po.load_runs([tmp_path / "a", tmp_path / "b"])


def test_runs_of_a_directory_keep_their_labels_beside_one_that_is_given(tmp_path):
    for place, name in (("mine", "ppo"), ("both/x", "ppo"), ("both/y", "trpo")):
        save_run(tmp_path / place, name)
    paths = page.labelled([f"new={tmp_path / 'mine'}", str(tmp_path / "both")])
    assert sorted(po.load_runs(paths)["algorithm"].values) == ["new", "ppo", "trpo"]
    paths = page.labelled([f"ppo={tmp_path / 'mine'}", str(tmp_path / "both")])
    with pytest.raises(ValueError, match="each label must be given once, got ppo for "):
        po.load_runs(paths)


def test_parameters_that_are_equal_or_told_by_labels_are_joined_without_a_warning(tmp_path):
    for name, gravity in (("a", 9.8), ("b", 12.0), ("c", 12)):
        save_run(tmp_path / name, name, env_params={"gravity": gravity})
    with warnings.catch_warnings(action="error"):
        po.load_runs([tmp_path / "b", tmp_path / "c"])
        po.load_runs({"light": tmp_path / "a", "heavy": tmp_path / "b"})
