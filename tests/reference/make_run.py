"""Make the run of version 0.1 that tests read: its directory without pictures, and what it does.

    PYTHONPATH=CHECKOUT python tests/reference/make_run.py tests/reference/run_0_1

The one in this folder was made at commit 7cb7458. The actions that it prints stand in the test.
"""

import sys
from pathlib import Path

import numpy as np

import purejax_po as po


def main():
    out = Path(sys.argv[1])
    algorithm = po.PPOConfig(
        num_envs=2,
        num_steps=16,
        num_epochs=1,
        num_minibatches=2,
        network=po.NetworkConfig(hidden=(8,)),
    )
    config = po.ExperimentConfig(
        algorithm=algorithm, env="PointRobot-misc", num_seeds=2, total_steps=320, num_windows=10
    )
    po.run(config, out, progress=False)
    for picture in out.glob("*.png"):
        picture.unlink()
    obs = np.linspace(-1, 1, 6).astype(np.float32)
    print(np.asarray(po.load_policy(out, seed=1)(obs)).tolist())


if __name__ == "__main__":
    main()
