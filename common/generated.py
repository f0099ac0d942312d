"""Folders of generated pictures: painted once, complete or not there, never in the place of somebody's own files."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.cli import InputError


def write_once(folder: Path, recipe: dict, paint: Callable[[Path], None]) -> Path:
    """`folder` with what paint(draft) puts into an empty folder, and the recipe as generated.json.

    A folder that was painted from the same recipe is left as it is; one that was painted from another is replaced. It
    is renamed into place once complete, so nobody ever sees a part of it, and of two processes at once the first to
    finish wins. Raises InputError if it cannot be written or holds something that was not generated.
    """
    if _recipe(folder) == recipe:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        old = draft.with_name(f"{draft.name}.old")
        try:
            draft.chmod(0o755)  # mkdtemp's folders are their owner's alone
            paint(draft)
            (draft / "generated.json").write_text(json.dumps(recipe))
            if _recipe(folder) not in (None, recipe):
                with contextlib.suppress(FileNotFoundError):  # another process has moved it already
                    os.replace(folder, old)
            try:
                os.replace(draft, folder)
            except OSError:  # another process was faster
                if _recipe(folder) != recipe:
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; generated pictures need a folder that can be written") from None
    return folder


def _recipe(folder: Path) -> dict | None:
    """What a folder was generated from, None if there is no such folder."""
    try:
        return json.loads((folder / "generated.json").read_text())
    except (OSError, json.JSONDecodeError):
        if folder.exists():
            raise InputError(
                f"{folder}: exists and holds no generated pictures; move it away, or give real data with --data"
            ) from None
        return None
