"""What commands have in common that train on several hosts: how their processes meet, and how they end."""

import dataclasses
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import tyro

from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import Hosts, Preemption
from lanas_jax.runtime.interruption import SIGNALS, heard
from lanas_jax.trainer import loop

Found = TypeVar("Found")
HELP = """\
On several hosts, start the same command on each, with --hosts.automatic on TPU pods and under Slurm or Open MPI, else
with --hosts.coordinator HOST:PORT --hosts.count N --hosts.index I; all of them have to see the folder."""
STATUS = re.compile("[A-Z_]+: ")  # begins what JAX's runtime says


def join(command: str, arguments: Sequence[str]) -> None:
    """Meets the other processes, if the arguments name any, before anything is loaded that might make an array.

    Raises:
      DistributedError: they do not come.
    """
    if {"-h", "--help"} & {*arguments}:
        return
    fields = [("hosts", Hosts, dataclasses.field(default_factory=Hosts))]
    both: Any = dataclasses.make_dataclass("Settings", fields)
    parsed, _ = tyro.cli(both, prog=f"lanas {command}", args=list(arguments), return_unknown_args=True)
    distributed.join(parsed.hosts)


def carried_out(
    command: str, again: str, note: Callable[[str], None], run: Callable[[Preemption], Found]
) -> Found | int:
    """What a training came to, or the exit code where it did not come to its end, which is said then.

    Args:
      command: the name of the one that trains.
      again: the command that goes on from the last checkpoint.
      note: prints a line; called from another thread.
      run: trains, as long as it is not told to stop.
    """

    def stopped(why: str, exit_code: int) -> int:
        print(f"{why}. To continue from the last checkpoint: {again}", file=sys.stderr)
        return exit_code

    # Of several processes, JAX hears SIGTERM and tells it to all of them.
    signals = (signal.SIGINT,) if jax.process_count() > 1 else SIGNALS
    with heard(note, signals, noted=(signal.SIGTERM,)) as interruption:
        try:
            return run(Preemption(lambda: interruption.signal == signal.SIGTERM))
        except loop.PreemptedError as error:
            return stopped(str(error), 128 + signal.SIGTERM)
        except KeyboardInterrupt:
            exit_code = stopped("stopped", interruption.exit_code)
            distributed.abandon(exit_code)
            return exit_code
        except loop.NotFiniteError as error:
            print(f"lanas {command}: {error}. A lower learning rate may help, in another folder", file=sys.stderr)
        except loop.DamagedError as error:
            print(f"lanas {command}: {error}", file=sys.stderr)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if jax.process_count() == 1 or not _of_runtime(error):
                raise
            reason = str(error).splitlines()[0]
            stopped(f"lanas {command}: a process of this training is lost ({reason})", 1)
            distributed.abandon(1)
    return 1


def _of_runtime(error: Exception) -> bool:
    """Whether it comes from JAX's runtime, which raises ValueError, too, where a call is carried out at once."""
    return isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)) is not None
