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
from purejax_po.algorithms.a2c import A2CHyperparams, a2c
from purejax_po.algorithms.npg import NPGHyperparams, npg
from purejax_po.algorithms.ppo import PPOHyperparams, ppo
from purejax_po.algorithms.reinforce import REINFORCEHyperparams, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, trpo
from purejax_po.environments import make as make_env
from purejax_po.evaluation import Evaluation, evaluate
from purejax_po.experiment.config import (
    A2CConfig,
    ExperimentConfig,
    NetworkConfig,
    NPGConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
)
from purejax_po.experiment.plots import plot, plot_diagnostics
from purejax_po.experiment.policies import evaluate_run, load_policy, render
from purejax_po.experiment.results import load as load_results
from purejax_po.experiment.results import summarize
from purejax_po.experiment.runner import Interrupted, Saving, resume, run
from purejax_po.networks import (
    gru_actor_critic,
    linear_critic,
    mlp_actor_critic,
    softmax_linear_policy,
)
from purejax_po.training import Result, TrainState, make_train, make_trainer, seed_keys
from purejax_po.types import Algorithm, Critic, Policy, Rollout, Trainer, Transition

__version__ = "0.1.0"

__all__ = [
    "A2CConfig",
    "A2CHyperparams",
    "Algorithm",
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
    "REINFORCEConfig",
    "REINFORCEHyperparams",
    "Result",
    "Rollout",
    "Saving",
    "TRPOConfig",
    "TRPOHyperparams",
    "TrainState",
    "Trainer",
    "Transition",
    "a2c",
    "advantages",
    "curvature",
    "distributions",
    "environments",
    "evaluate",
    "evaluate_run",
    "gru_actor_critic",
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
    "reinforce",
    "render",
    "resume",
    "rollout",
    "run",
    "seed_keys",
    "softmax_linear_policy",
    "summarize",
    "surrogates",
    "trpo",
]
