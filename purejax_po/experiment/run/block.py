"""The unit of work: a block of lanes, trained to its end by one worker.

It may run anywhere and any number of times: it goes on from the newest state that its folder holds,
and leaves its result there. What it tells meanwhile is for those who watch.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from purejax_po.experiment.results import dataset as results
from purejax_po.experiment.run.observers import Window, unstack
from purejax_po.experiment.run.plan import Plan
from purejax_po.experiment.run.program import Lanes, Program
from purejax_po.experiment.store import arrays as checkpoint
from purejax_po.experiment.store.arrays import CheckpointError
from purejax_po.experiment.store.run_store import Store, Stored
from purejax_po.metrics import Log
from purejax_po.types import Trainer


class Work(NamedTuple):
    """What a worker needs to run any block of a run."""

    plan: Plan
    trainer: Trainer
    program: Program
    store: Store
    checkpoint_every: float
    """Minutes."""
    begun: float
    """When the run began (seconds since the epoch), without the pauses."""


class Finished(NamedTuple):
    """What is left of a block, leaves `[num_real, ...]`."""

    log: Log
    """`[num_real, windows]`."""
    diverged_at: Any
    params: Any
    """What the final policy acts with (`TrainState.acting_params`)."""
    state: Any = ()
    """The last TrainState, `[K, ...]`, if the plan keeps states."""


class Receipt(NamedTuple):
    """A worker has put a block down."""

    block: int
    is_finished: bool
    """Else what is done of it is saved."""


class Problem(NamedTuple):
    """Something that a user should know and that a block does not fail of."""

    block: int
    message: str


Tell = Callable[[Window | Problem], None]


def run_block(
    work: Work, block: int, device: Any, tell: Tell, is_asked_to_stop: Callable[[], bool]
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
        tell(Problem(block, problem))
    state, logs = _begin(work, lanes, begin, num_real)
    hyperparams, state, env_params = place(lanes, state, device)
    saved_at = time.monotonic()
    for index in range(len(logs), len(plan.lengths)):
        state, log = run_window(
            work.program.window[device], hyperparams, state, env_params, plan.lengths[index], device
        )
        logs.append(jax.tree.map(lambda x: x[:num_real], log))
        tell(Window(block, index, logs[-1]))
        if index + 1 == len(plan.lengths):
            break
        stops = is_asked_to_stop()
        if stops or time.monotonic() - saved_at >= 60 * work.checkpoint_every:
            unfinished = checkpoint.flatten({"state": state, "log": stack(logs)})
            work.store.save(block, len(logs), unfinished, _meta(work))
            saved_at = time.monotonic()
        if stops:
            return Receipt(block, is_finished=False)
    finished = _finish(state, logs, num_real)
    if plan.keeps_states:
        finished = finished._replace(state=state)
    work.store.finish(block, len(logs), checkpoint.flatten(finished), _meta(work))
    return Receipt(block, is_finished=True)


def new_state(program: Program, lanes: Lanes) -> Any:
    """Initialise lanes, on the device that the program does so on."""
    return program.init(*jax.device_put(tuple(lanes), program.workers[0]))


def place(lanes: Lanes, state: Any, device: Any) -> tuple[Any, Any, Any]:
    """Put what a window takes on a device: hyperparameters, state, environment parameters."""
    return jax.device_put((lanes.hyperparams, state, lanes.env_params), device)


def run_window(
    window: Any, hyperparams: Any, state: Any, env_params: Any, length: int, device: Any
) -> tuple[Any, Log]:
    """Run one window to its end; returns the state on the device, and the log, leaves `[K]`."""
    steps = jax.device_put(np.int32(length), device)
    state, log = window(hyperparams, state, env_params, steps)
    return state, jax.device_get(log)


def _begin(work: Work, lanes: Lanes, begin: Stored | None, num_real: int) -> tuple[Any, list[Log]]:
    """The state and the windows' logs that a block begins with."""
    program = work.program
    if begin is None:
        return new_state(program, lanes), []
    log = _stacked(program.log_shapes, num_real, begin.num_windows)
    template = {"state": program.state_shapes, "log": log}
    restored = unflatten(template, begin)
    return restored["state"], unstack(restored["log"])


def _finish(state: Any, logs: list[Log], num_real: int) -> Finished:
    """Fetch what a finished block leaves behind."""
    fetched = jax.device_get((state.diverged_at, state.acting_params))
    diverged_at, params = jax.tree.map(lambda x: x[:num_real], fetched)
    return Finished(stack(logs), diverged_at, params)


def _meta(work: Work) -> dict[str, Any]:
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


def read_log(shapes: Log, num_real: int, stored: Stored) -> Log:
    """The log of a block that is under way or finished, leaves `[num_real, windows]`."""
    name = "['log']" if any(k.startswith("['log']") for k in stored.arrays) else ".log"
    arrays = {k[len(name) :]: x for k, x in stored.arrays.items() if k.startswith(name)}
    template = _stacked(shapes, num_real, stored.num_windows)
    return unflatten(template, stored._replace(arrays=arrays))


def unflatten(template: Any, stored: Stored) -> Any:
    """As `arrays.unflatten`; the message says which version wrote what does not fit."""
    try:
        return checkpoint.unflatten(template, stored.arrays)
    except CheckpointError as error:
        written = stored.meta.get("versions", {}).get("purejax-po", "another version")
        raise CheckpointError(
            f"a checkpoint does not fit this version of the package: {error} "
            f"(written by purejax-po {written})"
        ) from None
