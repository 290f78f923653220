"""Table 1 of the PPO paper: eleven objectives on seven continuous-control tasks of Brax.

Settings that share a program are a sweep, and every sweep on every task is a run of its own, which
is resumed where it was interrupted and read where it is complete. The other algorithms go through
the same harness, a run each.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, section 6.1.
"""

from purejax_po.studies.ppo_table1.cost import Cost, plan, probed
from purejax_po.studies.ppo_table1.harness import FILES, PAGE, TABLE, check_same, execute
from purejax_po.studies.ppo_table1.protocol import Job, Settings, jobs
from purejax_po.studies.ppo_table1.table import cells

__all__ = [
    "FILES",
    "PAGE",
    "TABLE",
    "Cost",
    "Job",
    "Settings",
    "cells",
    "check_same",
    "execute",
    "jobs",
    "plan",
    "probed",
]
