"""Minimizes a function of two numbers and a category.

To run it: ``python example.py``.
"""

from pathlib import Path

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """Returns 0 at x = 1, y = 7 and shape "flat"."""
    x = trial.suggest_float("x", -5, 5)
    y = trial.suggest_int("y", 0, 20)
    shape = trial.suggest_categorical("shape", ["flat", "steep"])
    return ((x - 1) ** 2 + (y - 7) ** 2) * {"flat": 1, "steep": 4}[shape]


if __name__ == "__main__":
    registry = Path(__file__).parents[2]  # the folder `package`
    module = optunahub.load_local_module(package="samplers/lanas", registry_root=str(registry))
    study = optuna.create_study(sampler=module.LaNASSampler(seed=0))
    study.optimize(objective, n_trials=50)
    print(study.best_value, study.best_params)
