"""What a report says besides its numbers, and how it looks."""

EXPLANATION = """The final return is the mean over the episodes that end in the last tenth of
training, per seed; seeds that diverged or ended no episode there are left out. IQM: interquartile
mean over seeds. CI: 95 % bootstrap interval over seeds, never over episodes (Agarwal et al. 2021).
Steps/s counts run time alone; seconds count compilation too."""
EVALUATION = """Evaluation: the mean return of the policy at the end of training over episodes of
its own, which all seeds and algorithms have in common."""
RANKED = """Ranked by the evaluation: the final returns of pictures and of the statistics below are
those of the final evaluation."""
BEST = """Best: the highest IQM among the points at which no seed diverged. It was chosen by this
number, which flatters it; train again with other seeds to report it."""

CAPTIONS = {
    "learning_curves.png": "Learning curves: IQM over seeds, 95 % bands.",
    "final_returns.png": "Final return: IQM, 95 % interval, and every seed as a dot.",
    "performance_profile.png": "Performance profiles: the fraction of runs above τ.",
    "probability_of_improvement.png": "Probability of improvement, with 95 % intervals.",
    "diagnostics.png": "Diagnostics: IQM and middle half of the seeds.",
    "aggregates.png": "Aggregates over environments; the smallest return found is 0, "
    "the largest 1.",
}
OF_A_SWEEP = {
    "sweep.png": "Final return over the swept values: IQM over seeds.",
    "sensitivity.png": "The same as lines, with 95 % intervals.",
    "learning_curve.png": "Learning curve of the best point.",
    "diagnostics.png": "Diagnostics of the best point.",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid #ddd; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
.wide { overflow-x: auto } figure { margin: 2rem 0 } img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .9rem } pre { overflow-x: auto; font-size: .8rem;
  background: #f6f6f6; padding: .7rem }
"""
