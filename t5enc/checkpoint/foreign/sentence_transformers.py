"""The modules that sentence-transformers puts after an encoder, as modules.json lists them: sentence-t5, gtr-t5.

Each has a folder with its config.json, and its weights where it has some.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from t5enc.checkpoint.folders import Folder, read_json
from t5enc.checkpoint.tensor_files import LazyTensors, open_tensors
from t5enc.errors import CheckpointError
from t5enc.pooling import ACTIVATIONS, METHODS, Dense, Layer, Normalize, Pooler

MODULES = "modules.json"
# Beside modules.json: prompts; beside the encoder: the length that texts are cut to.
SETTINGS = "config_sentence_transformers.json"
ENCODER_SETTINGS = "sentence_bert_config.json"
# All of them in a folder, the modules' own folders too.
MODULE_FILES = (MODULES, SETTINGS, ENCODER_SETTINGS, "[0-9]_*")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Names from before pooling_mode, in the order in which several are put side by side.
OLD_METHODS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
VECTOR = "sentence_embedding"


@dataclass(frozen=True, slots=True)
class Module:
    """One of them: its class, and its folder."""

    kind: str
    path: str

    @property
    def label(self) -> str:
        """What an error calls it."""
        return self.path or self.kind


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """All of them, the encoder first, and the folder that they are in."""

    folder: Folder
    modules: tuple[Module, ...]

    @property
    def names(self) -> list[str]:
        """Of those after the encoder."""
        return [module.label for module in self.modules[1:]] or ["no pooling"]

    @property
    def encoder_path(self) -> str:
        """Where the encoder is, "" for the folder itself."""
        return self.modules[0].path

    def read_settings(self) -> dict[str, Any]:
        """What is said of texts before they are encoded."""
        found: dict[str, Any] = {}
        for place in (self.folder.find(SETTINGS), self.folder.within(self.encoder_path).find(ENCODER_SETTINGS)):
            found |= {} if place is None else read_json(place)
        return found

    def find_length(self) -> int | None:
        """The tokens that texts are cut to, where the model's files say so."""
        length = self.read_settings().get("max_seq_length")
        return length if isinstance(length, int) and length > 0 else None

    def copy_files(self, folder: Path) -> None:
        """Write what says how to pool into a folder whose encoder lies in the folder itself."""
        listed = json.loads(self._find(MODULES).read_bytes())
        listed[0]["path"] = ""
        (folder / MODULES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
        settings = {SETTINGS: SETTINGS, ENCODER_SETTINGS: str(PurePosixPath(self.encoder_path, ENCODER_SETTINGS))}
        modules = [f"{module.path}/{name}" for module in self.modules[1:] for name in ("config.json", *WEIGHTS)]
        for target, name in (settings | dict(zip(modules, modules, strict=True))).items():
            if (path := self.folder.find(name)) is not None:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / target)

    def _find(self, name: str) -> Path:
        path = self.folder.find(name)
        assert path is not None
        return path


def find_modules(folder: Folder) -> SentenceModules | None:
    """The modules of a folder, if it is a model of sentence-transformers."""
    path = folder.find(MODULES)
    if path is None:
        return None
    try:
        listed = json.loads(path.read_bytes())
        modules = tuple(Module(_read_kind(entry["type"]), entry["path"]) for entry in listed)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: expected a list of modules, got {type(error).__name__}: {error}") from error
    if not modules or not all(isinstance(module.path, str) for module in modules):
        raise CheckpointError(f"{path}: expected a list of modules, each with its path, got {listed!r}")
    return SentenceModules(folder, modules)


def open_modules(found: SentenceModules, model_dim: int) -> Pooler:
    """How they pool; what cannot be read or is not known is the pooler's obstacle: tokens are encoded all the same."""
    try:
        return _open_modules(found, model_dim)
    except CheckpointError as error:
        return Pooler(names=tuple(found.names), obstacle=str(error))


def _open_modules(found: SentenceModules, model_dim: int) -> Pooler:
    _check_texts(found)
    kinds = [module.kind for module in found.modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise CheckpointError(f"{MODULES}: expected Transformer and Pooling first, got {' and '.join(kinds[:2])}")
    methods = _read_methods(found, found.modules[1])
    layers: list[Layer] = []
    width = len(methods) * model_dim
    for module in found.modules[2:]:
        if module.kind == "Normalize":
            place = found.folder.within(module.path).find("config.json")
            _check_vector(module, {} if place is None else read_json(place))
            layers.append(Normalize())
        elif module.kind == "Dense":
            dense = _read_dense(found, module, width)
            layers.append(dense)
            width = len(dense.weight)
        elif module.kind != "Dropout":
            raise CheckpointError(f"{MODULES}: expected Dense, Normalize or Dropout, got {module.kind} ({module.path})")
    return Pooler(methods=methods, layers=tuple(layers), names=tuple(found.names))


def _read_kind(type_name: str) -> str:
    """The class of one of sentence-transformers' own modules, wherever a version has it; others by their whole name."""
    package, _, name = type_name.rpartition(".")
    return name if package.partition(".")[0] == "sentence_transformers" else type_name


def _check_texts(found: SentenceModules) -> None:
    """What is done to texts before they are encoded is not modelled."""
    settings = found.read_settings()
    if settings.get("do_lower_case"):
        raise CheckpointError(f"{ENCODER_SETTINGS}: do_lower_case: expected false, the only value modelled, got true")
    name = settings.get("default_prompt_name")
    if name is not None and (settings.get("prompts") or {}).get(name):
        raise CheckpointError(f"{SETTINGS}: default_prompt_name: expected none, the only value modelled, got {name!r}")


def _read_methods(found: SentenceModules, module: Module) -> tuple[str, ...]:
    config = _read_config(found, module)
    given = config.get("pooling_mode")
    if given is None:
        given = [method for name, method in OLD_METHODS.items() if config.get(name)] or ["mean"]
    methods = (given,) if isinstance(given, str) else tuple(given)
    for method in methods:
        if method not in METHODS:
            raise CheckpointError(f"{module.label}: pooling_mode: expected some of {', '.join(METHODS)}, got {method}")
    return methods


def _read_dense(found: SentenceModules, module: Module, width: int) -> Dense:
    config = _read_config(found, module)
    _check_vector(module, config)
    activation = _read_activation(module, config)
    tensors = _open_weights(found, module)
    names = {"linear.weight"} | ({"linear.bias"} if config.get("bias", True) else set())
    is_residual = bool(config.get("use_residual"))
    if is_residual and config.get("in_features") != config.get("out_features"):
        names.add("residual.weight")
    if set(tensors) != names:
        found_names = ", ".join(sorted(tensors))
        raise CheckpointError(f"{module.label}: expected the tensors {', '.join(sorted(names))}, got {found_names}")
    read = {name: tensors[name].float().clone() for name in names}
    _check_shapes(module, read, width)
    return Dense(
        weight=read["linear.weight"],
        bias=read.get("linear.bias"),
        activation=activation,
        is_residual=is_residual,
        residual=read.get("residual.weight"),
    )


def _check_vector(module: Module, config: Mapping[str, Any]) -> None:
    """A module that reads or writes something other than the text's vector."""
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, VECTOR):
            raise CheckpointError(f"{module.label}: {name}: expected {VECTOR}, got {config[name]!r}")


def _read_activation(module: Module, config: Mapping[str, Any]) -> str:
    """Its name, Tanh where the config has none, as sentence-transformers takes it."""
    given = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = given.rpartition(".")[2]
    if not given.startswith("torch.nn.") or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"{module.label}: activation_function: expected PyTorch's {known}, got {given}")
    return name


def _check_shapes(module: Module, tensors: Mapping[str, Tensor], width: int) -> None:
    rows = len(tensors["linear.weight"])
    for name, tensor in tensors.items():
        expected = (rows,) if name == "linear.bias" else (rows, width)
        if tuple(tensor.shape) != expected:
            raise CheckpointError(f"{module.label}: {name}: expected {expected}, got {tuple(tensor.shape)}")


def _read_config(found: SentenceModules, module: Module) -> dict[str, Any]:
    place = found.folder.within(module.path)
    path = place.find("config.json")
    if path is None:
        raise CheckpointError(f"{module.label}: no config.json in {place.label}")
    return read_json(path)


def _open_weights(found: SentenceModules, module: Module) -> LazyTensors:
    place = found.folder.within(module.path)
    for name in WEIGHTS:
        if (path := place.find(name)) is not None:
            return open_tensors([path])
    raise CheckpointError(f"{module.label}: no {' or '.join(WEIGHTS)} in {place.label}")
