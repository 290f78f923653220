"""Parts of an update of Brax's own PPO (`parts.py`)."""

import threading
from queue import SimpleQueue

import brax_ppo
import jax
from brax.envs import training
from brax.training import acting
from brax.training.agents.ppo import networks, train
from parts import Part, serve_parts, stepping

COMPILE = 2
"""Parts of a training that may compile."""


def make(job):
    env, length = brax_ppo.make(job["env"])
    options = brax_ppo.options(job, length)
    num_envs, num_steps = options["num_envs"], options["unroll_length"]
    size = num_envs, num_steps, env.action_size
    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    alone = training.VmapWrapper(env)
    steps = training.EpisodeWrapper(alone, length, 1)
    wrapped = training.wrap(env, episode_length=length)
    network = options["network_factory"](env.observation_size, env.action_size)
    params = network.policy_network.init(jax.random.PRNGKey(0))
    policy = networks.make_inference_fn(network)((None, params))

    def stepped(env):
        def step(key, state, action):
            state = env.step(state, action)
            return state, (state.obs, state.reward, state.done)

        return Part(stepping(step, *size), jax.jit(env.reset)(keys))

    def unroll(key, state):
        fields = "truncation", "episode_metrics", "episode_done"
        return acting.generate_unroll(
            wrapped, state, policy, jax.random.key_data(key), num_steps, extra_fields=fields
        )

    parts = {
        "physics": stepped(alone),
        "steps": stepped(steps),
        "resets": stepped(wrapped),
        "rollout": Part(unroll, jax.jit(wrapped.reset)(keys)),
    }
    whole = Training(env, job, options)
    for _ in range(COMPILE):
        whole.seconds()
    return parts, {"whole": whole.seconds}


class Training:
    """Brax's training, which goes on for one part whenever it is asked how long one takes."""

    def __init__(self, env, job, options):
        self.asked, self.answers = SimpleQueue(), SimpleQueue()
        rounds = job["rounds"] + COMPILE
        batch = options["num_envs"] * options["unroll_length"]

        def progress(_, metrics):
            self.answers.put(batch / float(metrics["training/sps"]))
            self.asked.get()

        def work():
            self.asked.get()
            train.train(
                environment=env,
                num_timesteps=rounds * job["updates"] * batch,
                num_evals=1 + rounds,
                run_evals=False,
                progress_fn=progress,
                **options,
            )

        threading.Thread(target=work, daemon=True).start()

    def seconds(self):
        """Of an update, in the next part."""
        self.asked.put(None)
        return self.answers.get()


if __name__ == "__main__":
    serve_parts(make, "brax", "jax", "jaxlib")
