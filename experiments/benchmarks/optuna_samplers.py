"""LaNASSampler against Optuna's TPE, both inside Optuna, on the FCNet tables (`docs/optuna.md` has the results).

    pip install 'lanas-jax[optuna,hpo]'
    python -m lanas_jax.experiments.benchmarks.optuna_samplers [--out DIR] [--seeds 50] [--trials 100]

Each study has one sampler with one seed, both with their default settings. The objective is the validation loss of a
setting in the table. A setting that a sampler repeats counts as a trial again. Numbers are integers (`suggest_int` of
the position in the table); activations and the learning-rate schedule are categories.

Each finished study is appended to ``DIR/studies.jsonl`` and is not run again, so the same command continues after an
interruption. Studies with fewer trials than `trials` are run again. At the end, the command prints the mean regret (the
lowest loss so far minus the lowest of the table) with 95 % bootstrap intervals, and writes it to ``DIR/regret.md``.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.progress import track

from lanas_jax.commands import help_text
from lanas_jax.comparison.statistics import bootstrap, regret
from lanas_jax.runtime.console import terminal
from lanas_jax.spaces.choices import Choice
from lanas_jax.tables import catalogue
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.fcnet import DATASETS

AFTER = (50, 100)  # numbers of trials after which the regret is printed, besides all
SAMPLERS = {"lanas": "LaNASSampler", "tpe": "TPESampler"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      out: output folder.
      tables: short names of the FCNet tables.
      samplers: names of the samplers, lanas or tpe.
      seeds: number of studies per table and sampler.
      trials: number of trials per study.
    """

    out: Path = Path("optuna-samplers")
    tables: tuple[str, ...] = tuple(DATASETS)
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    seeds: int = 50
    trials: int = 100


def main(config: Config) -> str:
    """Runs the studies that are missing, and prints and returns the table of regrets."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config.out.mkdir(parents=True, exist_ok=True)
    console = terminal(width=118)
    benchmarks = {name: catalogue.find_benchmark(f"fcnet-{name}") for name in config.tables}
    found = _read(config)
    wanted = [
        (name, sampler, seed) for seed in range(config.seeds) for name in config.tables for sampler in config.samplers
    ]
    missing = [key for key in wanted if key not in found]
    versions = {"optuna": optuna.__version__, "jax": jax.__version__}
    with (config.out / "studies.jsonl").open("a", encoding="utf-8") as file:
        for name, sampler, seed in track(missing, "studies", console=console, disable=not console.is_terminal):
            start = time.process_time()
            losses = run_study(benchmarks[name], sampler, seed, config.trials)
            seconds = time.process_time() - start
            about = {"table": name, "sampler": sampler, "seed": seed, "seconds": seconds, "versions": versions}
            file.write(json.dumps({**about, "losses": losses}) + "\n")
            file.flush()
            found[name, sampler, seed] = losses
    optima = {name: float(-benchmark.table().best) for name, benchmark in benchmarks.items()}
    shown = "\n".join(_rows(config, found, optima))
    (config.out / "regret.md").write_text(shown + "\n", encoding="utf-8")
    console.print(shown, soft_wrap=True)
    return shown


def run_study(benchmark: Benchmark, sampler: str, seed: int, trials: int) -> list[float]:
    """Runs one study and returns the loss of each trial.

    Args:
      benchmark: table of negated losses.
      sampler: lanas or tpe.
      seed: seed of the sampler.
      trials: number of trials.
    """
    import optuna

    study = optuna.create_study(direction="minimize", sampler=_sampler(sampler, seed))
    study.optimize(objective_of(benchmark), n_trials=trials)
    return [float(trial.value) for trial in study.trials if trial.value is not None]


def objective_of(benchmark: Benchmark) -> Callable[[Any], float]:
    """Returns the objective of a study: the loss of the setting that a trial suggests."""
    values = np.asarray(benchmark.table().values)
    losses = dict(zip(map(tuple, benchmark.codes.tolist()), (-values).tolist(), strict=True))

    def suggest(trial: Any, choice: Choice) -> int:
        options = len(choice.options)
        if choice.is_scale:
            return int(trial.suggest_int(choice.name, 0, options - 1))
        return int(trial.suggest_categorical(choice.name, list(range(options))))

    def objective(trial: Any) -> float:
        return float(losses[tuple(suggest(trial, choice) for choice in benchmark.space.choices)])

    return objective


def _sampler(name: str, seed: int) -> Any:
    import optuna

    from lanas_jax.integrations.optuna import LaNASSampler

    return LaNASSampler(seed=seed) if name == "lanas" else optuna.samplers.TPESampler(seed=seed)


def _read(config: Config) -> dict[tuple[str, str, int], list[float]]:
    """Returns the losses of the studies that were run, cut to the number of trials; shorter studies are left out."""
    path = config.out / "studies.jsonl"
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:  # the last line was written partly
        path.write_bytes(whole)
    studies = [json.loads(line) for line in whole.splitlines()]
    return {
        (study["table"], study["sampler"], study["seed"]): study["losses"][: config.trials]
        for study in studies
        if len(study["losses"]) >= config.trials
    }


def _rows(config: Config, found: dict[tuple[str, str, int], list[float]], optima: dict[str, float]) -> Iterator[str]:
    after = [*(n for n in AFTER if n < config.trials), config.trials]
    regrets = " | ".join(f"mean regret after {n}" for n in after)
    yield f"| table (least loss) | sampler | {regrets} | best setting found |"
    yield f"|---|---|{'---|' * len(after)}---|"
    for name in config.tables:
        for sampler in config.samplers:
            losses: Float[np.ndarray, "seeds trials"] = np.array(
                [found[name, sampler, seed] for seed in range(config.seeds)], np.float32
            )
            shortfall = regret(-losses, -optima[name])
            cells = ["{:.3g} ({:.3g}-{:.3g})".format(*bootstrap(shortfall[:, n - 1])) for n in after]
            cells.append(f"{int((shortfall[:, -1] <= 0).sum())} of {config.seeds}")
            yield f"| {name} ({optima[name]:.3g}) | {SAMPLERS[sampler]} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
