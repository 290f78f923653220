"""What an experiment is; other rooms import its names from here."""

from purejax_po.experiment.config.algorithms import (
    ALGORITHMS,
    A2CConfig,
    AlgorithmConfig,
    GRPOConfig,
    NPGConfig,
    PPOConfig,
    REINFORCEConfig,
    TRPOConfig,
)
from purejax_po.experiment.config.experiment import ENV_PARAMS, MAX_SEEDS, ExperimentConfig
from purejax_po.experiment.config.lookup import algorithm_config
from purejax_po.experiment.config.networks import NetworkConfig
from purejax_po.experiment.config.presets import PRESETS, TASK_PRESETS, Preset

__all__ = [
    "ALGORITHMS",
    "ENV_PARAMS",
    "MAX_SEEDS",
    "PRESETS",
    "TASK_PRESETS",
    "A2CConfig",
    "AlgorithmConfig",
    "ExperimentConfig",
    "GRPOConfig",
    "NPGConfig",
    "NetworkConfig",
    "PPOConfig",
    "Preset",
    "REINFORCEConfig",
    "TRPOConfig",
    "algorithm_config",
]
