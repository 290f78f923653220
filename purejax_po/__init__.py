"""Policy optimisation in pure JAX: training is one pure function, vmapped over seeds."""

from purejax_po import (
    advantages,
    curvature,
    distributions,
    environments,
    metrics,
    minibatch,
    networks,
    rollout,
    surrogates,
)
from purejax_po.algorithms.npg import NPGHyperparams, npg
from purejax_po.algorithms.ppo import PPOHyperparams, ppo
from purejax_po.algorithms.trpo import TRPOHyperparams, trpo
from purejax_po.environments import make as make_env
from purejax_po.environments.wrappers import reset_from, shape_reward
from purejax_po.evaluation import Evaluation, evaluate
from purejax_po.experiment.config import (
    ExperimentConfig,
    NetworkConfig,
    NPGConfig,
    PPOConfig,
    TRPOConfig,
)
from purejax_po.experiment.plots import plot, plot_diagnostics
from purejax_po.experiment.policies import evaluate_run, load_policy, render
from purejax_po.experiment.results import load as load_results
from purejax_po.experiment.results import summarize
from purejax_po.experiment.runner import Interrupted, Saving, resume, run
from purejax_po.networks import linear_critic, mlp_actor_critic, softmax_linear_policy
from purejax_po.pretraining import Clone, behaviour_clone, warm_start
from purejax_po.training import Result, TrainState, make_train, make_trainer, seed_keys
from purejax_po.types import Algorithm, Critic, Policy, Rollout, Trainer, Transition

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "Clone",
    "Critic",
    "Evaluation",
    "ExperimentConfig",
    "Interrupted",
    "NPGConfig",
    "NPGHyperparams",
    "NetworkConfig",
    "PPOConfig",
    "PPOHyperparams",
    "Policy",
    "Result",
    "Rollout",
    "Saving",
    "TRPOConfig",
    "TRPOHyperparams",
    "TrainState",
    "Trainer",
    "Transition",
    "advantages",
    "behaviour_clone",
    "curvature",
    "distributions",
    "environments",
    "evaluate",
    "evaluate_run",
    "linear_critic",
    "load_policy",
    "load_results",
    "make_env",
    "make_train",
    "make_trainer",
    "metrics",
    "minibatch",
    "mlp_actor_critic",
    "networks",
    "npg",
    "plot",
    "plot_diagnostics",
    "ppo",
    "render",
    "reset_from",
    "resume",
    "rollout",
    "run",
    "seed_keys",
    "shape_reward",
    "softmax_linear_policy",
    "summarize",
    "surrogates",
    "trpo",
    "warm_start",
]
