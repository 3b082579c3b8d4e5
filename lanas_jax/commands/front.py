"""``lanas front``: lists the front of a run, the trials that no other beats in every objective."""

from collections.abc import Sequence
from typing import Any

from lanas_jax.commands.base import Folder, RefusedError, parsed
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder


def front(arguments: Sequence[str]) -> int:
    """Lists the front of a run."""

    def parse(run: Folder, /) -> Any:
        """List the trials of a run that no other beats in every objective, the knee marked.

        lanas train RUN --pick knee, --pick "trial 17" or --pick "multiply_adds<=3e8" trains one of them.
        """
        return run

    here = run_folder.open_run(parsed(parse, "front", arguments))
    if not here.objectives:
        raise RefusedError(f"{here.directory} has one objective, so its front is its best trial: see lanas trials")
    from lanas_jax.commands import summary
    from lanas_jax.study import objectives

    with TrialStore.open(here.trials, read_only=True) as store:
        trials = store.trials()
    members = objectives.front(trials, here.objectives)
    done = sum(trial.value is not None for trial in trials)
    console = terminal()
    console.print(f"objectives: {', '.join(here.objectives)}. {len(members)} of {done} trials are on the front")
    if members:
        print_table(console, summary.front_table(members, objectives.knee(members, here.objectives)))
    return 0
