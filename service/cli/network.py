"""Scores of a user's own network, in this process: no server, no study."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from predictors.proxies.measure import measure
from predictors.proxies.proxy import Undefined
from search_spaces.networks.memory import ran_out
from service.cli.common import CommandError
from service.core.scoring import AGGREGATES
from service.evaluation.memory import Memory

Arrays = Mapping[str, NDArray[Any]]

TARGET, INPUTS, WEIGHTS, PROXIES = "FILE.py:FUNCTION", "--inputs", "--weights", "--proxies"


def score_network(
    target: str, inputs: Path, weights: Path | None, proxies: Sequence[str], batch: int | None, seed: int
) -> dict[str, float | dict[str, str]]:
    """Proxy → score, or ``{"undefined": reason}``.

    ``batch`` splits the images into minibatches, the last one of what is left; proxies that need one take the first.
    Whatever is wrong is a usage error that names the argument. What the user's code prints goes to standard error.
    """
    pooled = [name for name in proxies if name in AGGREGATES]
    if pooled:
        columns = ", ".join(AGGREGATES[pooled[0]].columns)
        raise _bad(PROXIES, f"{pooled[0]} ranks architectures among each other: one network has only {columns}")
    x, y = _inputs(inputs)
    given = None if weights is None else _arrays(weights, WEIGHTS)
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(target)
        if given is not None:
            _load(network, given)
        size = len(x) if batch is None else batch
        batches = list(zip(torch.split(x, size), torch.split(y, size), strict=True))
        _check_labels(network, x, y)
        found = _measured(network, batches, proxies, seed)
    return {
        name: {"undefined": value.reason} if isinstance(value, Undefined) else value for name, value in found.items()
    }


def _measured(
    network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], proxies: Sequence[str], seed: int
) -> dict[str, float | Undefined]:
    memory = Memory("cpu", lambda note: typer.echo(note, err=True))

    def once(at_once: int) -> dict[str, float | Undefined]:
        return measure(network, batches, proxies, np.random.default_rng(seed), at_once=at_once)

    try:
        return memory.halving("scoring", len(batches[0][0]), once)
    except Exception as error:
        raise _failed(error, "the network, while it was scored,") from error


# ---------------------------------------------------------------------- the network


def _network(target: str) -> nn.Module:
    file, _, name = target.rpartition(":")
    if not file or not name.isidentifier():
        raise _bad(TARGET, f"must name a file and a function in it, as in net.py:build; is {target!r}")
    path = Path(file)
    if not path.is_file():
        raise _bad(TARGET, f"there is no file {file}")
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        there = [each for each, value in vars(module).items() if inspect.isfunction(value) and each[0] != "_"]
        raise _bad(TARGET, f"{file} has no function {name!r}; it has {', '.join(there) or 'none'}")
    try:
        network = function()
    except (Exception, SystemExit) as error:
        raise _bad(TARGET, f"{name}() raised {_said(error)}") from error
    if not isinstance(network, nn.Module):
        raise _bad(TARGET, f"{name}() must return a torch.nn.Module, returned {type(network).__name__}")
    return network


def _imported(path: Path) -> ModuleType:
    # Modules beside it are found, as when Python runs the file.
    sys.path.insert(0, str(path.resolve().parent))
    # Under a name of its own: a file called json.py must not take the place of the module.
    spec = importlib.util.spec_from_file_location("__frontier_network__", path)
    if spec is None or spec.loader is None:
        raise _bad(TARGET, f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _bad(TARGET, f"{path} cannot be imported: {_said(error)}") from error
    return module


def _load(network: nn.Module, given: Arrays) -> None:
    """Puts arrays into the parameters and buffers of the same names: all parameters, and the buffers that are given."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    tensors = {**parameters, **dict(network.named_buffers(remove_duplicate=False))}
    unexpected = [name for name in given if name not in tensors]
    # One name will do for a parameter that has several.
    there = {id(parameters[name]) for name in given if name in parameters}
    missing = [name for name, each in network.named_parameters() if id(each) not in there]
    shapes = [
        f"{name} is {given[name].shape}, must be {tuple(tensors[name].shape)}"
        for name in given
        if name in tensors and given[name].shape != tuple(tensors[name].shape)
    ]
    kinds = [
        f"{name} is {given[name].dtype}, must be {str(tensors[name].dtype).removeprefix('torch.')}"
        for name in given
        if name in tensors and not np.can_cast(given[name].dtype, _numpy_kind(tensors[name]), "same_kind")
    ]
    wrong = [f"{what}: {_few(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
    wrong += [
        f"{what}: {_few(lines, '; ')}" for what, lines in (("wrong shape", shapes), ("wrong type", kinds)) if lines
    ]
    if wrong:
        raise _bad(WEIGHTS, "do not fit the network: " + "; ".join(wrong))
    with torch.no_grad():
        for name, value in given.items():
            tensors[name].copy_(torch.from_numpy(np.array(value)))


def _numpy_kind(tensor: Tensor) -> type[np.generic]:
    if tensor.is_complex():
        return np.complex128
    if tensor.is_floating_point():
        return np.float32
    return np.bool_ if tensor.dtype == torch.bool else np.int64


# ---------------------------------------------------------------------- its inputs


def _inputs(path: Path) -> tuple[Tensor, Tensor]:
    arrays = _arrays(path, INPUTS)
    for name in ("x", "y"):
        if name not in arrays:
            raise _bad(INPUTS, f"{path} holds no array {name!r}; it holds {_few(list(arrays)) or 'none'}")
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind != "f":
        raise _bad(INPUTS, f"x must be floating point, is {x.dtype}: scale it as for training")
    if x.ndim < 2 or not x.size:
        raise _bad(INPUTS, f"x must be (n, ...) with n of at least 1, is {x.shape}")
    if y.dtype.kind not in "iu":
        raise _bad(INPUTS, f"y must be integers, is {y.dtype}")
    if y.shape != x.shape[:1]:
        raise _bad(INPUTS, f"y must be ({len(x)},), one label for each of x, is {y.shape}")
    if int(y.min()) < 0:
        raise _bad(INPUTS, f"y must be class indices from 0 on, has {int(y.min())}")
    if not np.isfinite(x).all():
        raise _bad(INPUTS, "x has NaN or infinity")
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.int64))


def _arrays(path: Path, option: str) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise _bad(option, f"there is no file {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array: save it with numpy.savez")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # of zipfile, zlib, numpy's reader of headers: each has its own
        raise _bad(option, f"{path} is no NPZ file of arrays: {_said(error)}") from error


def _check_labels(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """Labels must be among the outputs. A network that does not run on the inputs says so here."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            outputs = network.eval()(x[:2])
    except Exception as error:
        raise _failed(error, f"the network's forward pass on {tuple(x[:2].shape)} of x") from error
    finally:
        for module, training in modes:
            module.training = training
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and int(y.max()) >= outputs.shape[1]:
        raise _bad(INPUTS, f"y has class {int(y.max())}, the network has {outputs.shape[1]} outputs")


# ---------------------------------------------------------------------- words


def _bad(argument: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=argument)


def _failed(error: Exception, what: str) -> Exception:
    if ran_out(error):
        return CommandError(f"out of memory: give fewer images, or fewer at a time with --batch ({_said(error)})")
    return _bad(TARGET, f"{what} raised {_said(error)}")


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:1000]


def _few(names: Sequence[str], between: str = ", ", most: int = 12) -> str:
    more = f"{between}and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more
