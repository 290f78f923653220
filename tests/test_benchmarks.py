"""The pure parts of the benchmarks: figures, tables, operations counted by hand and by XLA."""

import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import purejax_po as po

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Scripts import each other as neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
        for name in (
            "adapters",
            "adapters_cells",
            "beside_brax",
            "gpu_hlo",
            "gpu_program",
            "gpu_targets",
            "kernels",
            "limit",
            "masks",
            "measure",
            "networks_alone",
            "peers",
            "timed",
            "widths",
        ):
            sys.modules.pop(name, None)


def test_a_figure_is_the_median_with_the_extremes():
    from measure import Figure

    assert Figure.of([3.0, 1.0, 2000.0]) == (3.0, 1.0, 2000.0)
    assert Figure.of([3.0, 1.0, 2000.0]).show() == "3 (1 … 2,000)"


def test_rounds_are_interleaved():
    from measure import interleave

    calls = []
    found = interleave({x: lambda x=x: calls.append(x) or len(calls) for x in "ab"}, rounds=3)
    assert calls == list("ababab")
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_ratio_of_medians_lies_between_those_of_the_rounds():
    from measure import ratios

    assert ratios([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 3.0)
    assert ratios([1.0, 10.0], [1.0, 1.0]) == (5.5, 1.0, 10.0)


def test_crossover_is_the_smallest_width_near_the_best():
    from measure import crossover

    assert crossover({1: 50.0, 2: 96.0, 4: 100.0, 8: 90.0}) == 2
    assert crossover({1: 50.0, 2: 96.0, 4: 100.0, 8: 90.0}, worth=0.0) == 4
    assert crossover({8: 7.0}) == 8


def test_iqm_agrees_with_the_package():
    from measure import iqm

    for values in ([3.0], [1.0, 2.0], [5.0, 1.0, 9.0, 2.0, 100.0, -7.0, 3.0, 3.0, 4.0]):
        assert iqm(values) == pytest.approx(float(po.statistics.iqm(jnp.array(values))))


def test_a_table_is_markdown():
    from measure import table

    assert table([{"a": "1", "b": "2"}]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_figures_are_written_with_the_machine(tmp_path, monkeypatch, capsys):
    import measure

    monkeypatch.setattr(measure, "OUT", tmp_path / "out")
    measure.write("name", {"figure": 1.5}, "text")
    found = json.loads((tmp_path / "out" / "name.json").read_text())
    assert found["figure"] == 1.5
    assert found["machine"]["versions"]["jax"] == jax.__version__
    assert (tmp_path / "out" / "name.md").read_text() == capsys.readouterr().out == "text\n"


def test_xla_counts_the_products_and_activations_of_a_forward_pass_as_by_hand():
    from limit import ACTIONS, BATCH, HIDDEN, INPUTS, compiled_work

    weights = [jnp.ones(s) for s in ((INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, ACTIONS))]

    def forward(weights, x):
        for w in weights[:-1]:
            x = jnp.tanh(x @ w)
        return x @ weights[-1]

    work = compiled_work(forward, weights, jnp.ones((BATCH, INPUTS)))
    by_hand = 2.0 * BATCH * sum(w.size for w in weights)
    assert by_hand <= work.flops < 1.02 * by_hand
    assert work.transcendentals == BATCH * 2 * HIDDEN


def test_work_by_hand_grows_with_what_the_algorithm_does():
    from limit import by_hand

    one, two, five = (by_hand(po.PPOConfig(num_epochs=n)) for n in (1, 2, 5))
    assert five.flops - two.flops == pytest.approx(3 * (two.flops - one.flops))
    assert five.transcendentals > one.transcendentals
    short, long = (by_hand(po.TRPOConfig(cg_iterations=n)) for n in (1, 15))
    assert long.transcendentals == short.transcendentals  # a linearised product has no tanh
    assert long.flops > short.flops


def test_the_second_bound_is_below_the_first():
    from limit import Rates, Work, bounds

    found = bounds(Work(100.0, 10.0), Rates(1000.0, 2000.0, 100.0))
    assert found == {"matmul": pytest.approx(10.0), "elementwise": pytest.approx(5.0)}


def test_peers_get_our_settings_as_json():
    from peers import PAIRS, QUICK_STEPS, SCRIPTS, STEPS, settings

    for pair in PAIRS:
        assert (SCRIPTS / pair.peer.script).exists()
        assert (SCRIPTS / f"{pair.peer.environment}.txt").exists()
        ours = json.loads(json.dumps(settings(pair.algorithm)))
        per_update = ours["num_envs"] * ours["num_steps"]
        assert STEPS % per_update == QUICK_STEPS % per_update == 0
        assert ours["hyperparams"].get("learning_rate_decay", 0.0) == 0.0


HLO = """HloModule m

%f (p: f32[8,64], i: s32[]) -> f32[1,64] {
  %p = f32[8,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %d = f32[1,64]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,64}
}

%g (p: f32[4,64], q: f32[64,8]) -> f32[4,8] {
  %a = f32[4,64]{1,0} parameter(0)
  %b = f32[64,8]{1,0} parameter(1)
  ROOT %c = f32[4,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (f32[8,64], s32[])) -> (f32[8,64], s32[]) {
  %t = (f32[8,64]{1,0}, s32[]) parameter(0)
  %x = f32[8,64]{1,0} get-tuple-element(%t), index=0
  %n = s32[] get-tuple-element(%t), index=1
  %row = f32[1,64]{1,0} fusion(%x, %n), kind=kLoop, calls=%f
  ROOT %r = (f32[8,64]{1,0}, s32[]) tuple(%x, %n)
}

%cond (s: (f32[8,64], s32[])) -> pred[] {
  %s = (f32[8,64]{1,0}, s32[]) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (u: (f32[8,64], s32[]), v: f32[4,64], w: f32[64,8]) -> f32[4,8] {
  %u = (f32[8,64]{1,0}, s32[]) parameter(0)
  %v = f32[4,64]{1,0} parameter(1)
  %w = f32[64,8]{1,0} parameter(2)
  %loop = (f32[8,64]{1,0}, s32[]) while(%u), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %y = f32[4,8]{1,0} fusion(%v, %w), kind=kCustom, calls=%g
}
"""  # noqa: E501


def test_kernels_of_a_gpu_move_what_they_need():
    from gpu_hlo import Kernel, kernels

    row = Kernel("row", "/loop", 7, bytes=4 * (64 + 1 + 64), flops=0.0)  # not all of the array
    size, flops = 4 * (4 * 64 + 64 * 8 + 4 * 8), 2.0 * 4 * 64 * 8
    product = Kernel("y", "/", 1, size, flops, "narrow products")
    assert list(kernels(HLO)) == [row, product]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernels", "count", "size", "started"),
    [("xla", 2177, 55.63e9, 0), ("pallas", 1632, 17.67e9, 18)],
)
def test_ppos_program_for_an_h200_is_what_it_was(kernels, count, size, started):
    pytest.importorskip("jax_plugins.xla_cuda13", reason="the extra gpu-program")
    code = (
        "import json, sys; sys.path.insert(0, 'benchmarks'); import gpu_program, gpu_targets;"
        "card = gpu_targets.CARDS['h200'];"
        "made = gpu_program.compile_window("
        f"'ppo', 'CartPole-v1', 2048, card, {{}}, kernels='{kernels}');"
        "whole = gpu_program.loops(made.hlo, card, 1.5e-6)[-1];"
        "print(json.dumps([whole, gpu_program.graph_launches(made.hlo, made.thunks)]))"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, graphs = json.loads(done.stdout.splitlines()[-1])
    assert whole["kernels"] == pytest.approx(count, rel=0.05)
    assert whole["bytes"] == pytest.approx(size, rel=0.05)
    assert graphs == {"window": 1, "update": started}


def test_graphs_within_a_loop_of_the_host_are_started_in_each_turn():
    from gpu_program import graph_launches

    alone = "000: kCommandBuffer [source]\n    001: kWhile [sink]\n      body:\n"
    each = (
        "000: kCommandBuffer [source]\n001: kWhile [sink]\n  body:\n    000: kCommandBuffer [s]\n"
    )
    assert graph_launches(HLO, alone) == {"window": 1, "update": 0}
    assert graph_launches(HLO, each) == {"window": 1, "update": 7}


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="other compilers name products otherwise"
)
def test_kernels_are_told_apart_and_their_operations_counted():
    from kernels import kernels

    def layer(x, w, b):
        return jnp.tanh(x @ w + b)

    shapes = [jax.ShapeDtypeStruct((2, *s), jnp.float32) for s in ((128, 64), (64, 64), (64,))]
    found = kernels(jax.jit(jax.vmap(layer)).lower(*shapes).compile().as_text()).values()
    assert {x.flops for x in found if x.kind == "wide products"} == {2.0 * 2 * 128 * 64 * 64}
    assert any(x.kind == "tanh" for x in found)


def test_networks_alone_make_every_step_of_adam_that_training_makes():
    from networks_alone import NetworksAlone

    config = po.PPOConfig(num_envs=2, num_steps=8, num_epochs=2, num_minibatches=2)
    alone = NetworksAlone(config, num_seeds=3, updates=5)
    alone.windows = 2
    assert alone.run() > 0.0
    lanes_done = 0
    for params, moments in alone.states:
        (count,) = (x for x in jax.tree.leaves(moments) if jnp.issubdtype(x.dtype, jnp.integer))
        assert (count == 2 * 5 * 2 * 2).all()  # windows, updates, epochs, minibatches
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))
        lanes_done += len(count)
    assert lanes_done >= 3


@pytest.mark.parametrize(
    "words", [["--algorithm", "nonsense"], ["--rounds", "0"], ["--minutes", "nan"]]
)
def test_options_that_cannot_be_are_refused_before_anything_runs(monkeypatch, capsys, words):
    from measure import arguments

    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    with pytest.raises(SystemExit) as stop:
        arguments("A script.", algorithm="ppo", rounds=3, width=0, minutes=5.0)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_command_line_names_a_part_of_the_grid_of_lanes(capsys):
    from widths import Row, chosen

    def parse(**options):
        everything = {"algorithms": "ppo,trpo", "envs": "CartPole-v1,Pendulum-v1", "quick": False}
        return Namespace(**{**everything, "widths": "8,2048,4096", **options})

    assert chosen(parse()) == [
        Row("ppo", "CartPole-v1", (8, 4096)),
        Row("trpo", "CartPole-v1", (8, 4096)),
        Row("ppo", "Pendulum-v1", (8, 4096)),
        Row("ppo", "CartPole-v1", (2048,)),
        Row("trpo", "Pendulum-v1", (8, 4096)),
        Row("trpo", "CartPole-v1", (2048,)),
        Row("ppo", "Pendulum-v1", (2048,)),
        Row("trpo", "Pendulum-v1", (2048,)),
    ]
    for wrong, said in (
        ({"widths": "8,9"}, "--widths: '9' is none of 1, 2, 4, "),
        ({"envs": "Cartpole"}, "--envs: 'Cartpole' is none of CartPole-v1, "),
        ({"algorithms": "ppo,"}, "--algorithms: '' is none of ppo, "),
        ({"widths": "2048", "quick": True}, "--quick has none of these"),
    ):
        with pytest.raises(SystemExit) as stop:
            chosen(parse(**wrong))
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_a_width_that_does_not_fit_the_memory_or_takes_too_long_is_listed(monkeypatch):
    import widths

    row = widths.Row("a2c", "CartPole-v1", (1,))
    compiled = widths.compile_row(row)
    monkeypatch.setattr(widths, "compile_row", lambda _: dict(compiled))
    cells, skipped = widths.time_row(row, math.inf, longest=20.0, rate=1.0)
    steps = compiled[1].steps
    assert not cells
    assert skipped == [f"a2c on CartPole-v1, 1 lanes: one update would take {steps} s"]
    monkeypatch.setattr(widths.memory, "available", lambda device: 0.0)
    found = widths.Findings({}, {}, [])
    widths.measure_row(row, found, math.inf, 20.0, num_seeds=64)
    assert found.cells == {}
    assert "- a2c on CartPole-v1, 1 lanes: needs " in widths.in_words(found, 64)


def test_a_report_on_lanes_names_what_was_and_what_was_not_measured():
    from measure import Figure
    from widths import Cell, Findings, figures, in_words

    def cells(scale, widths):
        rates = {w: Figure(scale * w, scale * w, scale * w) for w in widths}
        return {w: Cell(2 * w, rates[w], 5.0, 2**20 * w, 2**21 * w) for w in widths}

    found = Findings(
        {("ppo", "CartPole-v1"): cells(1000.0, (1, 8, 64)), ("a2c", "CartPole-v1"): cells(2, (8,))},
        {("ppo", "CartPole-v1"): (8, Figure(9, 8, 10), Figure(0.9, 0.8, 1.0))},
        ["trpo on CartPole-v1, (1, 8) lanes: no time left"],
    )
    report = in_words(found, num_seeds=4096)
    assert "| 64 | 64.0 (64.0 … 64.0) | – |" in report
    assert "| 64 | 64.00 MiB; 0.12 GiB; 5.0 s | – |" in report
    assert "- ppo: within 5 % of the best from 64 lanes" in report
    assert "- a2c: within" not in report  # nobody knows what fewer lanes would give
    assert "at 64 the program takes 1.00 times the line" in report
    assert "4096 seeds in blocks of 8: 9 (8 … 10) env steps/s, 90% (80% … 100%)" in report
    assert "- trpo on CartPole-v1, (1, 8) lanes: no time left" in report
    assert [x["lanes_per_worker"] for x in figures(found, 4096)["cells"]] == [1, 8, 64, 8]


def test_a_row_of_adapters_has_dashes_for_cells_that_are_not_there(tmp_path):
    from adapters import path_of, row, speed_row

    name = "navix/Navix-Empty-8x8-v0"  # solved from 0.95 on
    path_of(tmp_path, name, "random").write_text(json.dumps({"returns": [0.1, 0.3]}))
    assert row(name, "ppo", tmp_path) is None
    found = {"steps": 1024, "returns": [1.0, 0.9], "steps_per_second": 5e4}
    path_of(tmp_path, name, "ppo").write_text(json.dumps(found))
    assert row(name, "ppo", tmp_path)["random actions"].startswith("0.20 (")
    path_of(tmp_path, name, "random").unlink()
    told = row(name, "ppo", tmp_path)
    assert told["seeds that solve it"] == "1 of 2 (≥ 0.95)"
    assert told["return"].startswith("0.95 (")
    assert told["return"].endswith("; 2)")
    assert told["random actions"] == "–"
    assert speed_row(name, tmp_path) is None
    stepped = {"library": 1e5, "adapter": 9e4, "ratio": 0.9}
    path_of(tmp_path, name, "speed").write_text(json.dumps(stepped))
    assert speed_row(name, tmp_path)["ratio"] == "0.90"


def test_differences_of_masks_are_paired_by_seed():
    from masks import row

    one = {what: [x + 1.0 for x in range(8)] for what in ("all episodes", "last sixth")}
    other = {what: [float(x) for x in range(8)] for what in one}
    found = {"name": "levers", "algorithm": "ppo", "steps": 1024, "masks": one, "no masks": other}
    told = row({**found, "invalid": [0, 1_000_000]})
    assert told["difference, all episodes"] == "1.00 (1.00 … 1.00)"
    assert told["last sixth, without"] == "3.50"
    assert told["invalid actions"] == "0 of 1,000,000"
    assert row(found)["invalid actions"] == "–"


def test_what_a_part_adds_is_the_difference_to_the_part_before():
    from beside_brax import ADDED, PARTS, SIDES, rows_of

    seconds = {part: [1e-3 * (i + 1) ** 2] * 3 for i, part in enumerate(PARTS)}
    rows = rows_of(dict.fromkeys(SIDES, seconds))
    assert [row["part"] for row in rows] == [*ADDED, "an update"]
    column = [row["ours, ms"].partition(" ")[0] for row in rows]
    assert column == ["1.00", "3.00", "5.00", "7.00", "9.00", "25.00"]
    assert rows[-1]["Brax's trainer, share"] == "100%"
