"""The names by which other people's code and files reach this project: none of them moves without a word."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import pytest

LIBRARY = """
AutoT5EncoderModel EmbeddingDataset EmbeddingLoader EmbeddingSampler Embeddings EncoderActor EncoderOptions
MT5EncoderModel T5EncoderModel TextEncoder UMT5EncoderModel iter_embeddings load_embeddings open_pooler
"""
DROP_INS = "AutoT5EncoderModel MT5EncoderModel T5EncoderModel UMT5EncoderModel"
STORAGE = """
METADATA_KEY PREFIX SCHEMA STORAGE_DTYPES CaptionKeys build_table check_storage_dtype column_format from_bytes
read_column to_bytes token_bytes working_dtype
"""
PATHS = {
    "t5enc": LIBRARY,
    "t5enc.hf": DROP_INS,
    "t5enc.storage": STORAGE,
    "t5enc.recipes": "RECIPES Recipe find_recipe",
    "t5enc.errors": "ConfigError InputError OutputError OverloadedError PrecisionError ServiceError T5encError",
    "pipelines": "EncodeJob EncodeReport encode_parquet",
    "serve_app.client": "AsyncClient Client",
    "serve_app.remote": "RemoteT5EncoderModel",
}
COMMANDS = {"library", "conversion", "pipelines", "serve"}


def read(path: str) -> Any:
    """What `module:name` is."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", [f"{module}:{name}" for module, names in PATHS.items() for name in names.split()])
def test_a_public_name_is_where_it_was(path: str) -> None:
    assert read(path) is not None


@pytest.mark.parametrize(("module", "names"), [("t5enc", LIBRARY), ("pipelines", PATHS["pipelines"])])
def test_what_a_package_says_of_itself_is_what_is_promised(module: str, names: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(names.split())


def test_the_application_that_serve_files_name_takes_their_arguments() -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    assert callable(read("serve_app.app:build"))


def test_the_console_script_and_its_commands_are_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="t5enc")
    assert script.value == "t5enc.cli:main"
    assert callable(script.load())
    found = {point.name: point for point in entry_points(group="t5enc.commands")}
    assert set(found) >= COMMANDS
    assert all(callable(point.load()) for point in found.values())
