"""Loads the function that `--handler` names: of a module or of a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from node.cli.client_session import CommandFailure, Exit
from p2p.ground.own_file import check_own

FORM: Final = "MODULE:FUNCTION or FILE.py:FUNCTION, such as jobs:execute"
OWN_PACKAGES: Final = (
    "config",
    "exchange",
    "node",
    "p2p",
)  # names that a user's module may have too


def load_handler(text: str) -> Any:
    """Return the function that MODULE:FUNCTION or FILE.py:FUNCTION names. The module is looked for in
    the current directory first; one that is named like a package of this program is found there too.

    Raises:
        CommandFailure: it cannot be used, with exit code 2.
    """
    module_name, colon, path = text.rpartition(":")
    if not colon or not module_name or not path:
        raise _wrong(text, f"it is written {FORM}")
    for package in OWN_PACKAGES:  # before the user's directory is searched, for parts loaded later
        importlib.import_module(package)
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    file = _file(module_name, here)
    for each in _sources(module_name, here) if file is None else [file]:
        _check(text, each)
    try:
        found: Any = _load_file(file) if file is not None else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (
            error.name == module_name or module_name.startswith(f"{error.name}.")
        ):
            raise _wrong(
                text, f"module {error.name!r} is neither in {here} nor installed"
            ) from None
        raise _wrong(text, f"importing {module_name} failed: {_told(error)}") from error
    except FileNotFoundError as error:
        if file is None or error.filename != str(file):
            raise _wrong(text, f"importing {module_name} failed: {_told(error)}") from error
        raise _wrong(text, f"there is no file {file}") from None
    except Exception as error:
        raise _wrong(text, f"importing {module_name} failed: {_told(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            names = [
                n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))
            ]
            has = f"; it has {', '.join(sorted(names)[:10])}" if names else ""
            raise _wrong(text, f"{module_name} has no {name!r}{has}")
        found = getattr(found, name)
    if not callable(found):
        raise _wrong(text, f"{path} of {module_name} is a {type(found).__name__}, no function")
    return found


def _file(module_name: str, here: Path) -> Path | None:
    """Return the file to load, None for an import by name."""
    if module_name.endswith(".py"):
        return here / Path(module_name).expanduser()
    first, *rest = module_name.split(".")
    if first not in OWN_PACKAGES:
        return None
    base = here.joinpath(first, *rest)
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file() and not file.is_relative_to(Path(__file__).parents[2]):
            return file
    return None


def _sources(module_name: str, here: Path) -> list[Path]:
    """Return the files of the current directory that an import by name would run."""
    parts = module_name.split(".")
    bases = [here.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    files = [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py")]
    return [file for file in files if file.is_file()]


def _check(text: str, file: Path) -> None:
    with suppress(FileNotFoundError):
        try:
            check_own(file, file.stat())
        except PermissionError as error:
            raise _wrong(text, f"{file}: {error.strerror}") from None


def _load_file(file: Path) -> Any:
    """Import a file under a name that no other module has, with its directory on the path."""
    directory = str(file.parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = f"exchange_node_handler_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _told(error: BaseException) -> str:
    """The error with the place in the user's file that it comes from."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<") and name != __file__ and "importlib" not in name:
            place = f" ({name}:{trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
        return f"SyntaxError: {error.msg}{place}"
    return f"{type(error).__name__}: {error}{place}"


def _wrong(text: str, why: str) -> CommandFailure:
    return CommandFailure(f"cannot use the handler {text!r}: {why}", Exit.USAGE)
