"""Policy optimisation in pure JAX: training is one pure function, vmapped over seeds."""

from purejax_po import early  # noqa: F401 - before what takes seconds

# isort: split
from purejax_po import (
    advantages,
    checks,
    curvature,
    distributions,
    environments,
    metrics,
    minibatch,
    networks,
    normalization,
    rollout,
    sequence,
    surrogates,
)
from purejax_po.actor import acting
from purejax_po.algorithms.a2c import A2CHyperparams, A2COptions, a2c
from purejax_po.algorithms.group import GRPOHyperparams, GRPOOptions
from purejax_po.algorithms.grpo import grpo
from purejax_po.algorithms.npg import NPGHyperparams, NPGOptions, npg
from purejax_po.algorithms.ppo import PPOHyperparams, PPOOptions, ppo
from purejax_po.algorithms.reinforce import REINFORCEHyperparams, REINFORCEOptions, reinforce
from purejax_po.algorithms.trpo import TRPOHyperparams, TRPOOptions, trpo
from purejax_po.environments import from_legacy
from purejax_po.environments import make as make_env
from purejax_po.environments.check import check_env
from purejax_po.environments.masking import with_action_mask
from purejax_po.environments.randomized import randomized
from purejax_po.environments.registry import register as register_env
from purejax_po.environments.wrappers import judge_outcome, reset_from, shape_reward
from purejax_po.evaluation import Evaluation, evaluate
from purejax_po.experiment.compare import compare, resume_compare
from purejax_po.experiment.config import (
    A2CConfig,
    AlgorithmConfig,
    ExperimentConfig,
    GRPOConfig,
    NetworkConfig,
    NPGConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
)
from purejax_po.experiment.config.file import load_config
from purejax_po.experiment.config.zoo import zoo_config
from purejax_po.experiment.evaluate import evaluate_grid, evaluate_run
from purejax_po.experiment.export import Exported, export
from purejax_po.experiment.loaded import LoadedPolicy
from purejax_po.experiment.plots.comparison import (
    plot_aggregates,
    plot_comparison,
    plot_improvement,
    plot_profile,
)
from purejax_po.experiment.plots.curves import plot, plot_curves, plot_diagnostics
from purejax_po.experiment.plots.sweep import plot_axes, plot_sensitivity, plot_sweep
from purejax_po.experiment.policies import load_policy
from purejax_po.experiment.rendering import render
from purejax_po.experiment.report.page import report
from purejax_po.experiment.results import statistics
from purejax_po.experiment.results.dataset import load as load_results
from purejax_po.experiment.results.dataset import save_results
from purejax_po.experiment.results.evaluated import ranked_by
from purejax_po.experiment.results.join import load_runs, summarize
from purejax_po.experiment.run.compilation import compiler_options, use_compilation_cache
from purejax_po.experiment.run.host import Host
from purejax_po.experiment.run.observers import Observer, StoppedError, Window
from purejax_po.experiment.run.signals import Interrupted
from purejax_po.experiment.train import resume, run
from purejax_po.experiment.tuning import resume_tune, tune
from purejax_po.masks import masked
from purejax_po.networks import (
    gru_actor_critic,
    linear_critic,
    lstm_actor_critic,
    mlp_actor_critic,
    recurrent_actor_critic,
    softmax_linear_policy,
)
from purejax_po.own_networks import critic_of, policy_of, shared_torso
from purejax_po.pretraining import (
    Clone,
    Pairs,
    RewardModel,
    behaviour_clone,
    preference_accuracy,
    reward_model,
    warm_start,
)
from purejax_po.sequence import gru_policy, transformer_policy
from purejax_po.training import Result, make_train, make_trainer, seed_keys
from purejax_po.types import (
    Actor,
    ActorCriticParams,
    Algorithm,
    Critic,
    Distribution,
    Environment,
    Policy,
    Prompt,
    Rollout,
    Trainer,
    Transition,
)
from purejax_po.update import TrainState

__version__ = "0.1.0"

__all__ = [
    "A2CConfig",
    "A2CHyperparams",
    "A2COptions",
    "Actor",
    "ActorCriticParams",
    "Algorithm",
    "AlgorithmConfig",
    "Clone",
    "Critic",
    "Distribution",
    "Environment",
    "Evaluation",
    "ExperimentConfig",
    "Exported",
    "GRPOConfig",
    "GRPOHyperparams",
    "GRPOOptions",
    "Host",
    "Interrupted",
    "LoadedPolicy",
    "NPGConfig",
    "NPGHyperparams",
    "NPGOptions",
    "NetworkConfig",
    "Observer",
    "PPOConfig",
    "PPOHyperparams",
    "PPOOptions",
    "Pairs",
    "Policy",
    "Prompt",
    "REINFORCEConfig",
    "REINFORCEHyperparams",
    "REINFORCEOptions",
    "Result",
    "RewardModel",
    "Rollout",
    "StoppedError",
    "TRPOConfig",
    "TRPOHyperparams",
    "TRPOOptions",
    "TrainState",
    "Trainer",
    "Transition",
    "Window",
    "a2c",
    "acting",
    "advantages",
    "behaviour_clone",
    "check_env",
    "checks",
    "compare",
    "compiler_options",
    "critic_of",
    "curvature",
    "distributions",
    "environments",
    "evaluate",
    "evaluate_grid",
    "evaluate_run",
    "export",
    "from_legacy",
    "grpo",
    "gru_actor_critic",
    "gru_policy",
    "judge_outcome",
    "linear_critic",
    "load_config",
    "load_policy",
    "load_results",
    "load_runs",
    "lstm_actor_critic",
    "make_env",
    "make_train",
    "make_trainer",
    "masked",
    "metrics",
    "minibatch",
    "mlp_actor_critic",
    "networks",
    "normalization",
    "npg",
    "plot",
    "plot_aggregates",
    "plot_axes",
    "plot_comparison",
    "plot_curves",
    "plot_diagnostics",
    "plot_improvement",
    "plot_profile",
    "plot_sensitivity",
    "plot_sweep",
    "policy_of",
    "ppo",
    "preference_accuracy",
    "randomized",
    "ranked_by",
    "recurrent_actor_critic",
    "register_env",
    "reinforce",
    "render",
    "report",
    "reset_from",
    "resume",
    "resume_compare",
    "resume_tune",
    "reward_model",
    "rollout",
    "run",
    "save_results",
    "seed_keys",
    "sequence",
    "shape_reward",
    "shared_torso",
    "softmax_linear_policy",
    "statistics",
    "summarize",
    "surrogates",
    "transformer_policy",
    "trpo",
    "tune",
    "use_compilation_cache",
    "warm_start",
    "with_action_mask",
    "zoo_config",
]
