"""Epochs of minibatches visit every sample once, each in an order of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejax_po as po
from purejax_po import minibatch
from purejax_po._xla import shuffle, switch

SIZE, NUM_EPOCHS, NUM_MINIBATCHES = 24, 5, 4


@pytest.fixture(scope="module")
def visited():
    """The samples that every minibatch saw, leaves `[epochs, minibatches, size, ...]`."""
    data = {"index": jnp.arange(SIZE), "row": jnp.arange(2 * SIZE).reshape(SIZE, 2)}

    def step(count, batch):
        return count + 1, (count, batch)

    count, (order, batches) = minibatch.epochs(
        jax.random.key(0),
        step,
        jnp.int32(0),
        data,
        num_epochs=NUM_EPOCHS,
        num_minibatches=NUM_MINIBATCHES,
    )
    assert count == NUM_EPOCHS * NUM_MINIBATCHES
    np.testing.assert_array_equal(order.ravel(), np.arange(NUM_EPOCHS * NUM_MINIBATCHES))
    return batches


def test_every_epoch_visits_each_sample_exactly_once(visited):
    assert visited["index"].shape == (NUM_EPOCHS, NUM_MINIBATCHES, SIZE // NUM_MINIBATCHES)
    for epoch in np.asarray(visited["index"]):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(SIZE))


def test_leaves_are_shuffled_alike(visited):
    expected = np.stack([2 * visited["index"], 2 * visited["index"] + 1], axis=-1)
    np.testing.assert_array_equal(visited["row"], expected)


def test_epochs_differ(visited):
    orders = {tuple(epoch.ravel()) for epoch in np.asarray(visited["index"])}
    assert len(orders) == NUM_EPOCHS
    # The minibatches differ as sets too, not only in their order.
    sets = {frozenset(epoch[0]) for epoch in np.asarray(visited["index"])}
    assert len(sets) > 1


@pytest.mark.parametrize("kind", ["uniform", "fast"])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1024, 3000])
def test_a_permutation_is_a_bijection(size, kind):
    keys = jax.random.split(jax.random.key(size), 50)
    orders = np.asarray(jax.vmap(lambda key: shuffle.permutation(key, size, kind))(keys))
    np.testing.assert_array_equal(np.sort(orders, axis=-1), np.tile(np.arange(size), (50, 1)))
    if size >= 7:
        assert len({tuple(order) for order in orders}) > 10


@pytest.mark.parametrize("size", [2, 63, 100, 500, 3000])
def test_fast_orders_of_other_sizes_are_those_of_version_0_1(size):
    key = jax.random.key(size)
    found = shuffle.permutation(key, size, "fast")
    np.testing.assert_array_equal(found, jax.random.permutation(key, size))


def test_where_a_sample_goes_is_uniform_enough():
    """Every sample meets every minibatch: the first one takes a quarter of the time."""
    keys = jax.random.split(jax.random.key(0), 4000)
    orders = jax.vmap(lambda key: shuffle.permutation(key, 16))(keys)
    in_first = np.asarray(jax.nn.one_hot(orders[:, :4], 16).sum(axis=(0, 1))) / 4000
    # Hoeffding's bound at a chance of 1e-6 over 16 comparisons.
    np.testing.assert_allclose(in_first, 0.25, atol=np.sqrt(np.log(2 * 16 / 1e-6) / 8000))


def test_all_orders_of_four_samples_are_equally_likely():
    number = 24_000
    keys = jax.random.split(jax.random.key(0), number)
    orders = np.asarray(jax.vmap(lambda key: shuffle.permutation(key, 4))(keys))
    counts = np.unique(orders @ [1000, 100, 10, 1], return_counts=True)[1]
    assert len(counts) == 24
    # χ² with 23 degrees of freedom exceeds 73 with a chance of 4e-7.
    assert np.sum((counts - number / 24) ** 2) / (number / 24) < 73


@pytest.mark.parametrize("kind", ["uniform", "fast"])
@pytest.mark.parametrize("size", [64, 512])
def test_samples_meet_as_often_as_under_uniform_permutations(size, kind):
    """Pairs and triples in one of four minibatches, over 40,000 permutations."""
    number, quarter = 40_000, size // 4
    keys = jax.random.split(jax.random.key(size), number)
    draw = functools.partial(shuffle.permutation, size=size, kind=kind)
    orders = jax.lax.map(draw, keys, batch_size=1000)
    group = np.argsort(np.asarray(orders), axis=-1) // quarter
    rng = np.random.default_rng(0)
    pair_chance = (quarter - 1) / (size - 1)
    triple_chance = pair_chance * (quarter - 2) / (size - 2)
    neighbours = [(0, 1, 2), (0, size // 2, size - 1), (1, 3, 5), (0, 2, 4), (0, size // 4, 1)]
    for a, b, c in [*neighbours, *(rng.choice(size, 3, replace=False) for _ in range(95))]:
        together = group[:, a] == group[:, b]
        all_three = together & (group[:, b] == group[:, c])
        # Hoeffding's bound at a chance of 1e-6 over 200 comparisons.
        bound = np.sqrt(np.log(2 * 200 / 1e-6) / (2 * number))
        assert together.mean() == pytest.approx(pair_chance, abs=bound)
        assert all_three.mean() == pytest.approx(triple_chance, abs=bound)


@pytest.mark.parametrize(("size", "num_minibatches"), [(10, 3), (10, 20), (10, 0), (10, -1)])
def test_batches_that_do_not_split_are_refused(size, num_minibatches):
    with pytest.raises(
        ValueError, match=f"num_minibatches .*{size} samples, got {num_minibatches}"
    ):
        minibatch.check_divisible(size, num_minibatches)
    with pytest.raises(ValueError, match="num_minibatches"):
        minibatch.epochs(
            jax.random.key(0),
            lambda state, batch: (state, batch),
            (),
            jnp.arange(size),
            num_epochs=1,
            num_minibatches=num_minibatches,
        )


def test_flatten_time_keeps_samples_together():
    steps, envs = 3, 4
    data = {
        "scalar": jnp.arange(steps * envs).reshape(steps, envs),
        "vector": jnp.arange(steps * envs * 2).reshape(steps, envs, 2),
        "absent": None,
    }
    flat = minibatch.flatten_time(data)
    np.testing.assert_array_equal(flat["scalar"], np.arange(12))
    np.testing.assert_array_equal(flat["vector"], np.arange(24).reshape(12, 2))
    assert flat["absent"] is None


@pytest.mark.parametrize("size", [64, 100])
def test_permutations_are_uniform_unless_the_fast_ones_are_chosen(size):
    key = jax.random.key(1)
    default, uniform, fast = (
        np.asarray(shuffle.permutation(key, size, *kind)) for kind in ((), ("uniform",), ("fast",))
    )
    np.testing.assert_array_equal(default, uniform)
    assert (fast != uniform).any()
    assert (fast == jax.random.permutation(key, size)).all() == (size != 64)


@pytest.mark.parametrize("size", [2, 100, 1024, 1025, 1 << 17])
def test_equal_random_bits_are_too_few_to_be_told(size, monkeypatch):
    """A round with b random bits below the top is 2^b packets of an inverse riffle shuffle."""
    drawn = []
    bits = jax.random.bits
    monkeypatch.setattr(jax.random, "bits", lambda *a: drawn.append(a[1]) or bits(*a))
    with switch.using(switch.CPU):
        order = shuffle.permutation(jax.random.key(0), size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size <= shuffle.LARGEST:
        (rounds, _) = drawn[0]
        packets = rounds * (32 - (size - 1).bit_length())
        assert 0.1152 * 2 ** (1.5 * np.log2(size) - packets) < 1e-3


@pytest.mark.parametrize("option", ["ppo", "ppo pallas", "trpo", "reinforce"])
def test_every_algorithm_with_minibatches_takes_the_choice(option):
    """The orders decide what is learned, and nothing else of the two choices differs."""
    name, _, kernels = option.partition(" ")
    env, env_params = po.make_env("CartPole-v1")
    networks = po.mlp_actor_critic(env, env_params, hidden=(4,))
    small = {"num_epochs": 1, "num_minibatches": 2} if name == "ppo" else {"critic_epochs": 1}
    small |= {"kernels": kernels} if kernels else {}
    small |= {} if name == "ppo" else {"critic_minibatch_size": 32}
    factory, kind = {
        "ppo": (po.ppo, po.PPOOptions),
        "trpo": (po.trpo, po.TRPOOptions),
        "reinforce": (po.reinforce, po.REINFORCEOptions),
    }[name]

    def learned(shuffle):
        algorithm = factory(*networks, kind(**small, shuffle=shuffle))
        train = po.make_train(
            po.make_trainer(env, env_params, algorithm, num_envs=2, num_steps=32), num_updates=1
        )
        result = jax.jit(train)(jax.random.key(0), algorithm.hyperparams)
        return jax.tree.leaves(result.state.algorithm.params)

    fast, uniform = map(learned, ("fast", "uniform"))
    assert not all(np.array_equal(x, y) for x, y in zip(fast, uniform, strict=True))
