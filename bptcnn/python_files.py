"""Python files of the user's, which define a data set or a network: run as `python FILE` would run them."""

import runpy
import sys
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.untrusted import printable


def defined_in(path: Path, name: str, *arguments: object) -> object:
    """Run a file and return what it calls `name`; a function is called with the arguments, and its value returned.

    The file may import what lies beside it. Such modules are pickled with what is made of them, because nodes have
    nothing of that folder. Raises UserError, one line, for whatever the file raises; None where it has no such name.
    """
    folder = str(path.resolve().parent)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        found = runpy.run_path(str(path)).get(name)
        return found(*arguments) if callable(found) else found
    except UserError as error:
        raise UserError(f"{printable(str(path))}: {error}") from None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{printable(str(path))} failed: {type(error).__name__}: {reason}") from None
    finally:
        sys.path.remove(folder)
        _pickle_by_value(set(sys.modules) - before, Path(folder))


def _pickle_by_value(names: set[str], folder: Path) -> None:
    for name in names:
        module = sys.modules[name]
        source = getattr(module, "__file__", None)
        if source is not None and folder in Path(source).resolve().parents:
            import cloudpickle  # of no use to most files

            cloudpickle.register_pickle_by_value(module)
