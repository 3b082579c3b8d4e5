"""``lanas extract``: extracts one network from the supernet of a run."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Int
from rich.console import Console

from lanas_jax.commands import hosts
from lanas_jax.commands.base import REFUSALS, RefusedError, parsed
from lanas_jax.commands.codes import CodeError, read_code
from lanas_jax.commands.reading import READING, Reading
from lanas_jax.evaluators.base import NotPreparedError, Prepared
from lanas_jax.evaluators.faults import prepare_evaluator
from lanas_jax.export import write
from lanas_jax.export.load import MissingPackageError
from lanas_jax.export.recorded import EXTRACTED
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.files import inside_folder
from lanas_jax.runtime.joining import Hosts
from lanas_jax.storage import config_json, software
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study.objectives import winner_among
from lanas_jax.study.run_folder import Run
from lanas_jax.supernet.base import Extracting
from lanas_jax.trainer.task import Weights, costs


def extract(arguments: Sequence[str]) -> int:
    """Extracts a network from a supernet."""
    try:
        with hosts.joined("extract", arguments):
            return _extract(terminal(quiet=not distributed.is_first_process()), arguments)
    except (MissingPackageError, NotPreparedError, CodeError) as error:
        raise RefusedError(str(error)) from error


def _extract(console: Console, arguments: Sequence[str]) -> int:
    """Extracts the best network of a run, or the network of a given code.

    Raises:
      RunError, ExperimentError, ConfigError, CodeError, NotPreparedError, MissingPackageError: the extraction is not
        possible; the message says what to change.
    """

    def parse(
        run: Annotated[Path, tyro.conf.arg(metavar="RUN", help="run folder of a search that used a supernet")],
        /,
        code: Annotated[
            str | None,
            tyro.conf.arg(
                metavar="0,1,...",
                help="code, possibly above cost limits",
                help_behavior_hint="(default: the best trial's)",
            ),
        ] = None,
        out: Annotated[
            Path | None,
            tyro.conf.arg(metavar="DIR", help="new output folder", help_behavior_hint="(default: RUN/extracted)"),
        ] = None,
        format: Annotated[
            Literal["safetensors", "orbax"], tyro.conf.arg(help="file format of the weights")
        ] = "safetensors",
        reading: READING = Reading(),  # noqa: B008
        hosts: Hosts = Hosts(),  # noqa: B008
    ) -> Any:
        """Extract a network from a supernet: its weights, its architecture as JSON, and a load.py that runs it.

        Its logits are those that the search evaluated. To train further from them: lanas train RUN --weights DIR.
        """
        del hosts  # parsed before
        return run, code, out, format, reading

    directory, text, out, kind, reading = parsed(parse, "extract", arguments)
    here = dataclasses.replace(hosts.open_run(directory.absolute()), changes=reading.changes)
    hosts.check_same(None, {"settings": [text, str(out), kind]})
    target = (here.directory / "extracted" if out is None else out).absolute()
    with inside_folder(here.working_folder):
        return _extract_network(console, here, text, target, kind)


@transfers_allowed
def _extract_network(console: Console, here: Run, text: str | None, target: Path, kind: str) -> int:
    def note(line: str) -> None:
        if distributed.is_first_process():
            print(line, file=sys.stderr)

    def write_all() -> None:
        write.write_exported(target, weights, here.source, about)

    evaluator = distributed.together(here.experiment, *REFUSALS).evaluator
    if not isinstance(evaluator, Extracting):
        raise RunError(f"{here.directory} did not use a supernet, so there is nothing to extract")
    space = evaluator.supernet.space

    def code_of() -> Int[np.ndarray, " dims"]:
        return _best(here) if text is None else read_code(text, space)

    code = distributed.together(code_of, *REFUSALS, CodeError)
    distributed.by_first(lambda: write.refuse_used(target), *REFUSALS)
    if isinstance(evaluator, Prepared):
        prepare_evaluator(evaluator, here.directory, note)
    weights = Weights(*evaluator.extract(code))
    (outcome,) = evaluator.evaluate(code[None], jax.random.split(jax.random.key(0), 1))
    about = architecture(here, evaluator, code, weights) | {"validation_accuracy": outcome.value, "format": kind}
    distributed.by_first(write_all, *REFUSALS, MissingPackageError, OSError)
    console.print(f"{target}: python load.py IMAGES.npy LOGITS.npy", soft_wrap=True)
    return 0


def architecture(here: Run, evaluator: Extracting, code: Int[np.ndarray, " dims"], weights: Weights) -> dict[str, Any]:
    """Returns the contents of architecture.json for an extracted network, without its accuracy and weight format."""
    network, data = evaluator.supernet.standalone(code), evaluator.data
    return {
        "name": here.record["experiment"],
        "code": code.tolist(),
        **write.describe_network(network.space, code),
        **costs(network, code),
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.params)),
        "test_accuracy": None,
        "weights": EXTRACTED,
        "image_shape": list(data.image_shape),
        "classes": data.classes,
        "scaling": None if data.scaling is None else config_json.encode_value(data.scaling),
        "source": here.record["source"],
        "home": str(here.original.parent),
        "working_folder": here.record.get("working_folder"),
        "config": here.record["config"],
        "settings": None,
        "recipe": None,
        "software": software.versions(),
    }


def _best(here: Run) -> Int[np.ndarray, " dims"]:
    with TrialStore.open(here.trials, read_only=True) as store:
        winner = winner_among(store.trials(), here.objectives)
    if winner is None:
        raise RunError(f"no trial of {here.directory} has succeeded yet: choose a network with --code")
    return np.array(winner.code, np.int32)
