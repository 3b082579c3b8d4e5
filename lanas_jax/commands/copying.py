"""``lanas copy``: copies a folder to a bucket, or back."""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from lanas_jax.commands.base import REFUSALS, RefusedError, parsed, reason_of
from lanas_jax.storage.copies import copy_folder, place_of


def copy(arguments: Sequence[str]) -> int:
    """Copies a folder to a bucket, or back."""

    def parse(
        source: Annotated[str, tyro.conf.arg(metavar="FROM", help="folder of a run, a training or exported weights")],
        target: Annotated[str, tyro.conf.arg(metavar="TO", help="new folder, or an earlier copy in a bucket")],
        /,
    ) -> Any:
        """Copy the folder of a run, a supernet, another training or exported weights to a bucket, or back.

        All other commands work with local folders. FROM and TO are local folders or places such as gs://BUCKET/RUN
        (package gcsfs) and s3://BUCKET/RUN (package s3fs). A run may be copied while it is being written; the copy can
        be resumed. A second copy writes only what has changed.
        """
        return source, target

    source, target = parsed(parse, "copy", arguments)
    try:
        copied = copy_folder(place_of(source), place_of(target))
    except REFUSALS:
        raise
    except PermissionError as error:
        raise RefusedError(f"cannot copy {source} to {target}: {reason_of(error)}") from error
    except Exception as error:  # each remote file system has errors of its own
        raise RefusedError(f"cannot copy {source} to {target}: {error or type(error).__name__}") from error
    print(f"{copied} files copied to {target}")
    return 0
