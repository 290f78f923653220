"""What a traced function reads of its arguments, by its own dependencies."""

from collections.abc import Callable

import jax
from jax._src.interpreters import partial_eval

from purejax_po.types import EnvParams, Hyperparams, PyTree, Trainer


def read(function: Callable[..., PyTree], *args: PyTree) -> list[str]:
    """Return the paths of the leaves that an output of a function depends on.

    Args:
        function: pure; it is traced, not run.
        args: pytrees of arrays or of shapes.

    Returns:
        Paths such as `[1].gravity`: of the second argument the field `gravity`.
    """
    closed = jax.make_jaxpr(function)(*args)
    jaxpr = closed.jaxpr
    _, is_read = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(args)]
    return [path for path, used in zip(paths, is_read, strict=True) if used]


def fields_read(trainer: Trainer) -> tuple[set[str], set[str]]:
    """Return the hyperparameters and the environment's parameters that training reads."""

    def train(hyperparams: Hyperparams, env_params: EnvParams) -> PyTree:
        state = trainer.init(jax.random.key(0), hyperparams, env_params, 1)
        return trainer.step(hyperparams, state, env_params)

    args = trainer.algorithm.hyperparams, trainer.env_params
    abstract = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, args))
    found: tuple[set[str], set[str]] = set(), set()
    for path in read(train, *abstract):
        index, _, name = path.partition("]")
        found[int(index[1:])].add(name.lstrip(".").partition(".")[0].partition("[")[0])
    return found
