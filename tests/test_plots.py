"""Pictures: what they draw, on Axes with units, in colours and lines that can be told apart."""

import colorsys

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from synthetic import make_run

import purejax_po as po
from purejax_po.experiment.plots import curves as plots
from purejax_po.experiment.results import join as runs
from purejax_po.experiment.results import statistics

ALGORITHMS = ("reinforce", "a2c", "npg", "trpo", "ppo")


@pytest.fixture(autouse=True)
def no_windows():
    mpl.use("agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(scope="module")
def joined():
    """Five algorithms on two environments; one seed of a2c on Acrobot-v1 diverged."""
    return runs.join(
        {
            (name, env): make_run(
                name,
                env,
                updates=10 + i,
                best=400.0 + 20 * i,
                diverged=[3] if (name, env) == ("a2c", "Acrobot-v1") else (),
            )
            for i, name in enumerate(ALGORITHMS)
            for env in ("CartPole-v1", "Acrobot-v1")
        }
    )


@pytest.fixture(scope="module")
def swept():
    """A sweep in which seed s returns 100·s at the first values, and 10 less at each next one."""
    final = 100.0 * np.arange(4) - 10 * np.arange(6).reshape(3, 2, 1)
    return xr.Dataset(
        {"final_return": (("learning_rate", "clip_eps", "seed"), final)},
        coords={"learning_rate": [1e-4, 1e-3, 1e-2], "clip_eps": [0.1, 0.2], "seed": range(4)},
        attrs={"algorithm": "ppo", "env": "CartPole-v1"},
    )


def assert_complete(ax):
    """Labels on both axes, and no text over another one once the picture is laid out."""
    assert ax.get_xlabel() or ax.figure.get_supxlabel()
    figure = ax.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [ax.title, ax.xaxis.label, ax.yaxis.label]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [
            tick.label1
            for tick in axis.get_major_ticks()
            if low <= tick.get_loc() <= high and tick.label1.get_visible()
        ]
    if (legend := ax.get_legend()) is not None:
        texts += [*legend.get_texts(), legend.get_title()]
    inside = figure.bbox
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    visible = [box for box in boxes if box.overlaps(inside)]
    for i, box in enumerate(visible):
        for other in visible[:i]:
            assert not box.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9))


def test_learning_curves_of_several_algorithms(joined):
    ax = po.plot(joined.sel(env="CartPole-v1"))
    assert [line.get_label() for line in ax.lines] == list(ALGORITHMS)
    run = runs.split(joined)["ppo", "CartPole-v1"]
    np.testing.assert_array_equal(ax.lines[4].get_xdata(), run["step"])
    np.testing.assert_allclose(ax.lines[4].get_ydata(), statistics.iqm(run["episode_return"]))
    assert ax.get_xlabel() == "environment steps per seed"
    assert ax.get_ylabel() == "episode return (sum of rewards)"
    assert_complete(ax)
    with pytest.raises(ValueError, match=r"must hold one environment, got .*dataset\.sel\(env"):
        po.plot(joined)


def test_learning_curves_of_several_environments(joined):
    axes = po.plot_curves(joined)
    assert [ax.get_title() for ax in axes] == ["CartPole-v1, 8 seeds", "Acrobot-v1, 8 seeds"]
    for ax in axes:
        assert_complete(ax)
    assert len(po.plot_curves(joined.sel(env="Acrobot-v1"))) == 1


def test_an_algorithm_looks_alike_where_others_are_missing(joined):
    parts = runs.split(joined)
    few = runs.join(
        {
            ("trpo", "CartPole-v1"): parts["trpo", "CartPole-v1"],
            ("ppo", "Acrobot-v1"): parts["ppo", "Acrobot-v1"],
            ("trpo", "Acrobot-v1"): parts["trpo", "Acrobot-v1"],
        }
    )
    left, right = po.plot_curves(few)
    looks = [{line.get_label(): line.get_color() for line in ax.lines} for ax in (left, right)]
    assert set(looks[0]) == {"trpo"}
    assert looks[0]["trpo"] == looks[1]["trpo"] != looks[1]["ppo"]
    (legend,) = left.figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"trpo", "ppo"}


def test_diagnostics_of_seeds_that_have_ended():
    run = make_run()
    values = run["kl"].values.copy()
    values[:7, 12:] = np.nan
    run["kl"] = run["kl"].dims, values
    ax = po.plot_diagnostics(run)[0]
    drawn = ax.lines[0].get_ydata()
    np.testing.assert_allclose(drawn[:12], statistics.iqm(values[:, :12]))
    np.testing.assert_allclose(drawn[12:], values[7, 12:])
    values[7, 12:] = np.nan
    run["kl"] = run["kl"].dims, values
    assert len(po.plot_diagnostics(run)[0].lines[0].get_ydata()) == 12


def test_diagnostics(joined):
    axes = po.plot_diagnostics(runs.split(joined)["ppo", "Acrobot-v1"])
    assert [ax.get_title() for ax in axes] == ["KL (nats)", "entropy (nats)"]
    for ax in axes:
        assert_complete(ax)


def test_comparison_bars(joined):
    ax = po.plot_comparison(joined.sel(env="Acrobot-v1"))
    finals = runs.final_returns(joined)["Acrobot-v1"]
    assert len(finals["a2c"]) == 7
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, [statistics.iqm(x) for x in finals.values()])
    intervals = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    for final in finals.values():
        assert tuple(statistics.bootstrap_interval(final)) in intervals
    assert [text.get_text() for text in ax.get_yticklabels()] == list(ALGORITHMS)
    assert_complete(ax)


def test_profiles(joined):
    for part, unit in ((joined, "normalised"), (joined.sel(env="CartPole-v1"), "sum of rewards")):
        ax = po.plot_profile(part)
        assert unit in ax.get_xlabel()
        for line in ax.lines:
            assert line.get_ydata()[0] == 1
            assert line.get_ydata()[-1] == 0
            assert np.all(np.diff(line.get_ydata()) <= 0)
        assert_complete(ax)


def test_improvement(joined):
    ax = po.plot_improvement(joined)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert len(names) == 10
    assert names[0] == "reinforce > a2c"
    assert_complete(ax)
    with pytest.raises(ValueError, match="two algorithms or more"):
        po.plot_improvement(make_run())


def test_aggregates(joined):
    axes = po.plot_aggregates(joined)
    assert [ax.get_title() for ax in axes] == ["IQM", "mean", "median of means", "optimality gap"]
    for ax in axes:
        assert_complete(ax)
    reference = {"CartPole-v1": (0, 500), "Acrobot-v1": (0, 500)}
    scores = runs.normalized_scores(joined, reference)
    finals = runs.final_returns(joined)
    np.testing.assert_allclose(scores["ppo"][1], finals["Acrobot-v1"]["ppo"] / 500)
    with pytest.raises(ValueError, match="reference must be one of"):
        runs.normalized_scores(joined, {"CartPole": (0, 500)})
    with pytest.raises(ValueError, match="two different ends"):
        runs.normalized_scores(joined, {**reference, "CartPole-v1": (1, 1)})


def test_scores_are_scaled_by_what_was_found(joined):
    scores = runs.normalized_scores(joined)
    for env in range(2):
        together = np.concatenate([tasks[env] for tasks in scores.values()])
        assert (together.min(), together.max()) == (0, 1)


def test_algorithms_without_a_final_return_are_left_out():
    kinds = {"ppo": (), "npg": range(8)}
    found = runs.join({(n, "CartPole-v1"): make_run(n, diverged=d) for n, d in kinds.items()})
    assert list(runs.normalized_scores(found)) == ["ppo"]
    for draw in (po.plot, po.plot_comparison, po.plot_profile, po.plot_aggregates):
        draw(found)


def test_sweep_heat_map(swept):
    ax = po.plot_sweep(swept, "learning_rate", "clip_eps")
    np.testing.assert_allclose(ax.images[0].get_array(), 150 - 10 * np.arange(6).reshape(3, 2).T)
    assert [t.get_text() for t in ax.texts][:3] == ["150", "130", "110"]
    assert_complete(ax)
    with pytest.raises(ValueError, match="x must be one of learning_rate, clip_eps"):
        po.plot_sweep(swept, "lr", "clip_eps")
    with pytest.raises(ValueError, match="y must be one of clip_eps"):
        po.plot_sweep(swept, "learning_rate", "learning_rate")
    with pytest.raises(ValueError, match=r"first choose sel\(discount=…\)"):
        po.plot_sweep(swept.expand_dims(discount=[0.9]), "learning_rate", "clip_eps")


def test_sensitivity_lines(swept):
    ax = po.plot_sensitivity(swept, "learning_rate", "clip_eps")
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [140, 120, 100])
    assert_complete(ax)
    with pytest.raises(ValueError, match="lines must be one of clip_eps"):
        po.plot_sensitivity(swept, "learning_rate", "seed")
    with pytest.raises(ValueError, match="no further axes"):
        po.plot_sensitivity(swept, "learning_rate")


def test_a_sweep_without_a_return_is_drawn(swept):
    unknown = swept.sel(clip_eps=0.1) * np.nan
    ax = po.plot_sensitivity(unknown.assign_attrs(swept.attrs), "learning_rate")
    known = po.plot_sensitivity(swept.sel(clip_eps=0.1), "learning_rate")
    assert ax.get_xscale() == "log"
    assert ax.get_xlim() == known.get_xlim()


def test_diverged_seeds_of_a_sweep_are_left_out(swept):
    broken = swept.assign(diverged_at=swept["final_return"].copy(data=np.full((3, 2, 4), -1)))
    broken["diverged_at"][0, 0, :] = 5
    broken["diverged_at"][1, 0, 3] = 5
    ax = po.plot_sweep(broken, "learning_rate", "clip_eps")
    assert ax.texts[0].get_text() == "diverged"
    assert ax.texts[1].get_text() == "80"
    broken["final_return"][2, 0, :] = np.nan
    ax = po.plot_sweep(broken, "learning_rate", "clip_eps")
    assert ax.texts[2].get_text() == "no episode"


def test_curves_differ_in_more_than_their_colour():
    looks = [plots.style(i) for i in range(7)]
    assert len({look["color"] for look in looks}) == 7
    assert len({str(look["linestyle"]) for look in looks}) == 7
    lightness = [
        colorsys.rgb_to_hls(*(int(look["color"][i : i + 2], 16) / 255 for i in (1, 3, 5)))[1]
        for look in looks
    ]
    assert max(lightness) < 0.8  # visible on white paper
