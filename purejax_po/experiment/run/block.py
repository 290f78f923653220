"""The unit of work: a block of lanes, trained to its end by one worker.

It may run anywhere and any number of times: it goes on from the newest state that its folder holds,
and leaves its result there. What it tells meanwhile is for those who watch.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.evaluating import Evaluator, better, evaluate, truly_diverged_at
from purejax_po.experiment.run.observers import Record, Window, ended, unstack
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.program import Lanes, Program
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import Store, Stored
from purejax_po.metrics import Log
from purejax_po.types import Device, EnvParams, Hyperparams, JSONObject, Params, PyTree, Trainer
from purejax_po.update import TrainState


class Work(NamedTuple):
    """What a worker needs to run any block of a run."""

    plan: Plan
    trainer: Trainer
    program: Program
    evaluator: Evaluator | None
    store: Store
    checkpoint_every: float
    """Minutes."""
    begun: float
    """When the run began (seconds since the epoch), without the pauses."""


class Finished(NamedTuple):
    """What is left of a block, leaves `[num_real, ...]`."""

    log: Log
    """`[num_real, windows]`."""
    diverged_at: np.ndarray
    params: Params
    """What the final policy acts with (`TrainState.acting_params`)."""
    state: TrainState | tuple[()]
    """The last TrainState, `[K, ...]`, if the plan keeps states."""
    evaluation: np.ndarray | None
    """Mean returns `[num_real, evaluations]`; None without evaluation."""
    best: Params | None
    """As `params`, of the policy with the highest evaluation, if they are to be kept."""


class Receipt(NamedTuple):
    """A worker has put a block down."""

    block: int
    is_finished: bool
    """Else what is done of it is saved."""


Tell = Callable[[Window | str], None]
"""Takes windows, and what a user should know and that a block does not fail of."""


def run_block(
    work: Work,
    block: int,
    device: Device | None,
    tell: Tell,
    is_asked_to_stop: Callable[[], bool],
) -> Receipt:
    """Train a block from its newest state to its end, or until it is asked to stop.

    Args:
        work: the run.
        block: its number.
        device: to run on; one that the program was compiled for.
        tell: called after every window.
        is_asked_to_stop: asked after every window; the state is saved then.
    """
    plan, num_real = work.plan, work.plan.num_real(block)
    lanes = plan.lanes(block, work.trainer)
    begin, problems = work.store.newest(block)
    for problem in problems:
        tell(problem)
    state, logs, returns, best = _begin(work, lanes, begin, num_real)
    hyperparams, state, env_params = place(lanes, state, device)
    saved_at = time.monotonic()
    for index in range(len(logs), len(plan.lengths)):
        over = ended(plan.config.stop_when_solved, returns)
        if over is not None and over.all():
            log = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), work.program.log_shapes)
        else:
            length = plan.lengths[index]
            window = work.program.window[device]
            state, log = run_window(window, hyperparams, state, env_params, length, device)
        logs.append(jax.tree.map(lambda x: x[:num_real], log))
        evaluation = None
        if work.evaluator is not None and index in plan.evaluated:
            program = work.evaluator.evaluate[device]
            state, found = evaluate(program, device, env_params, state, returns, plan)
            if plan.config.keep_best:
                best = better(best, state.acting_params, found, returns)
            returns.append(found)
            evaluation = found[:num_real]
        over = None if over is None else over[:num_real]
        tell(Window(block, index, logs[-1], evaluation, over))
        if index + 1 == len(plan.lengths):
            break
        stops = is_asked_to_stop()
        if stops or time.monotonic() - saved_at >= 60 * work.checkpoint_every:
            unfinished = {"state": state, "best": best, "log": stack(logs)}
            unfinished["evaluation"] = _joined(returns, num_real)  # what is None has no leaf
            work.store.save(block, len(logs), checkpoint.flatten(unfinished), _meta(work))
            saved_at = time.monotonic()
        if stops:
            return Receipt(block, is_finished=False)
    fetched = jax.device_get((state.diverged_at, state.acting_params, best))
    diverged_at, params, best = jax.tree.map(lambda x: x[:num_real], fetched)
    evaluation = _joined(returns, num_real)
    if evaluation is not None:
        diverged_at = truly_diverged_at(plan, evaluation, diverged_at)
    kept = state if plan.keeps_states else ()
    finished = Finished(stack(logs), diverged_at, params, kept, evaluation, best)
    work.store.finish(block, len(logs), checkpoint.flatten(finished), _meta(work))
    return Receipt(block, is_finished=True)


def new_state(program: Program, lanes: Lanes) -> TrainState:
    """Initialise lanes, on the device that the program does so on."""
    return program.init(*jax.device_put(tuple(lanes), program.workers[0]))


def place(
    lanes: Lanes, state: TrainState, device: Device | None
) -> tuple[Hyperparams, TrainState, EnvParams]:
    """Put what a window takes on a device: hyperparameters, state, environment parameters."""
    return jax.device_put((lanes.hyperparams, state, lanes.env_params), device)


def run_window(
    window: Callable[..., tuple[TrainState, Log]],
    hyperparams: Hyperparams,
    state: TrainState,
    env_params: EnvParams,
    length: int,
    device: Device | None,
) -> tuple[TrainState, Log]:
    """Run one window to its end; returns the state on the device, and the log, leaves `[K]`."""
    steps = jax.device_put(np.int32(length), device)
    state, log = window(hyperparams, state, env_params, steps)
    return state, jax.device_get(log)


def _begin(
    work: Work, lanes: Lanes, begin: Stored | None, num_real: int
) -> tuple[TrainState, list[Log], list[np.ndarray], Params | None]:
    """What a block begins with: the state, windows' logs, evaluations `[K]`, the best so far."""
    program = work.program
    if begin is None:
        return new_state(program, lanes), [], [], None
    log = _stacked(program.log_shapes, num_real, begin.num_windows)
    template = {"state": program.state_shapes, "log": log}
    if number := work.plan.num_evaluations(begin.num_windows):
        dtype = np.dtype(jnp.result_type(float))
        template["evaluation"] = jax.ShapeDtypeStruct((num_real, number), dtype)
        if work.plan.config.keep_best:
            template["best"] = program.state_shapes.acting_params
    restored = unflatten(template, begin)
    evaluations = np.asarray(restored.get("evaluation", np.zeros((num_real, 0))))
    filled = evaluations[np.minimum(np.arange(program.lanes_per_worker), num_real - 1)]
    return restored["state"], unstack(restored["log"]), list(filled.T), restored.get("best")


def _joined(returns: list[np.ndarray], num_real: int) -> np.ndarray | None:
    """Evaluations `[K]` as `[num_real, evaluations]`; None if there are none."""
    return np.ascontiguousarray(np.stack(returns, axis=1)[:num_real]) if returns else None


def _meta(work: Work) -> JSONObject:
    """What checkpoints say besides: how long the run has taken, and by what it was written."""
    versions = results.versions()
    return {
        "run_seconds": time.time() - work.begun,
        "versions": versions,
        "plan": work.plan.to_dict(versions),
    }


def stack(logs: list[Log]) -> Log:
    """Join logs of successive windows: leaves `[lanes]` become `[lanes, windows]`."""
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *logs)


def _stacked(log: Log, num_real: int, num_windows: int) -> Log:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_real, num_windows), x.dtype), log)


def read_record(shapes: Log, num_real: int, stored: Stored) -> Record:
    """What a block that is under way or finished has told."""
    evaluation = stored.arrays.get("['evaluation']", stored.arrays.get(".evaluation"))
    name = "['log']" if any(k.startswith("['log']") for k in stored.arrays) else ".log"
    arrays = {k[len(name) :]: x for k, x in stored.arrays.items() if k.startswith(name)}
    template = _stacked(shapes, num_real, stored.num_windows)
    return Record(unflatten(template, stored._replace(arrays=arrays)), evaluation)


def unflatten(template: PyTree, stored: Stored) -> PyTree:
    """As `arrays.unflatten`; the message says which version wrote what does not fit."""
    try:
        return checkpoint.unflatten(template, stored.arrays)
    except CheckpointError as error:
        written = stored.meta.get("versions", {}).get("purejax-po", "another version")
        raise CheckpointError(
            f"a checkpoint does not fit this version of the package: {error} "
            f"(written by purejax-po {written})"
        ) from None
