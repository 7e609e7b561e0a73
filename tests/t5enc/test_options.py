"""Options: what is left open is chosen and said, what cannot be honoured is refused by name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t5enc.checkpoint.builtin import open_builtin
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import EncoderOptions, ModelSource, resolve_device
from t5enc.recipes.recipe import Recipe

CONFIG = open_builtin("tiny").config


def pretend_cuda(
    monkeypatch: pytest.MonkeyPatch, *, is_there: bool, has_triton: bool = True, capability: tuple[int, int] = (9, 0)
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79 << 30, 80 << 30))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has_triton else None)


def test_on_a_cpu_all_is_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, is_there=False)
    options = EncoderOptions(model="m").resolve(CONFIG)
    assert (options.device, options.dtype, options.attention, options.token_budget) == ("cpu", "float32", "sdpa", 2048)


def test_on_cuda_all_is_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, is_there=True)
    options = EncoderOptions(model="m").resolve(CONFIG)
    assert (options.device, options.dtype, options.attention) == ("cuda", "bfloat16", "flex")
    assert options.token_budget == 16384


def test_cards_that_only_emulate_bfloat16_get_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, is_there=True, capability=(7, 5))
    assert EncoderOptions(model="m").resolve(CONFIG).dtype == "float16"
    assert EncoderOptions(model="m", dtype="bfloat16").resolve(CONFIG).dtype == "bfloat16"


def test_flex_is_not_chosen_where_it_would_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, is_there=True)
    assert EncoderOptions(model="m").resolve(replace(CONFIG, head_dim=8)).attention == "sdpa"
    assert EncoderOptions(model="m", deterministic=True).resolve(CONFIG).attention == "sdpa"
    with pytest.raises(ConfigError, match=r"^attention: flex on cuda needs heads of at least 16, .* d_kv 8$"):
        EncoderOptions(model="m", attention="flex").resolve(replace(CONFIG, head_dim=8))
    pretend_cuda(monkeypatch, is_there=True, has_triton=False)
    assert EncoderOptions(model="m").resolve(CONFIG).attention == "sdpa"


def test_flex_on_a_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, compiler: None) -> None:
    from torch._inductor import cpp_builder, exc

    def find_none() -> str:
        raise exc.InvalidCxxCompiler

    options = EncoderOptions(model="m", attention="flex", device="cpu")
    assert options.resolve(CONFIG).attention == "flex"
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", find_none)
    with pytest.raises(ConfigError, match=r"^attention: flex needs a C\+\+ compiler"):
        options.resolve(CONFIG)


def test_what_is_given_stays() -> None:
    given = EncoderOptions(
        model="m", device="cpu", dtype="bfloat16", attention="sdpa", token_budget=99, max_length=64, num_threads=3
    )
    assert given.resolve(CONFIG) == given


def test_resolving_twice_changes_nothing() -> None:
    once = EncoderOptions(model="m", device="cpu", dtype="fp16").resolve(CONFIG)
    assert once.dtype == "float16"
    assert once.resolve(CONFIG) == once


def test_the_budget_holds_the_longest_text() -> None:
    assert EncoderOptions(model="m", device="cpu", max_length=5000).resolve(CONFIG).token_budget == 5000


def test_options_travel_to_other_processes() -> None:
    options = EncoderOptions.from_mapping({"model": "m", "max_length": 7})
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "max_length: expected at least 1, got 0"),
        ({"attention": "flash"}, "attention: expected one of auto, flex, sdpa, got 'flash'"),
        ({"recipe": "fluks"}, "recipe: expected one of wan, "),
        ({"token_budget": 100}, r"token_budget: expected at least 16 and max_length \(512\), got 100"),
        ({"token_budget": 15, "max_length": 4}, "token_budget: expected at least 16 and"),
        ({"num_threads": 0}, "num_threads: expected at least 1, got 0"),
        ({1: 4}, "1: no such option; expected one of model, subfolder, "),
        ({"batch_size": 4}, "batch_size: no such option; expected one of model, subfolder, "),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(fields: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        EncoderOptions.from_mapping({"model": "m", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "int8"}, "dtype: expected auto or one of float32, bfloat16, float16, got 'int8'"),
        ({"device": "gpu"}, r"device: expected auto, cpu or cuda\[:N\], got 'gpu'"),
        ({"device": "meta"}, r"device: expected auto, cpu or cuda\[:N\], got 'meta'"),
        ({"device": "cuda"}, "device: expected a CUDA device that PyTorch can use, got 'cuda' and none is there"),
        ({"deterministic": True, "attention": "flex"}, "deterministic: expected attention auto or sdpa, got flex"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_by_name(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"^{message}"):
        EncoderOptions(model="m", **fields).resolve(CONFIG)


@pytest.mark.parametrize(("is_there", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_cuda_where_there_is_one(is_there: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, is_there=is_there)
    assert resolve_device(None) == resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")


def test_where_the_model_is_stands_beside_the_other_options() -> None:
    asked: dict[str, Any] = {"model": "m", "subfolder": "s", "revision": "v1", "variant": "fp16", "token": "hf_secret"}
    options = EncoderOptions(**asked, local_files_only=True)
    assert {name: getattr(options, name) for name in asked} == asked
    assert options.local_files_only


def test_a_token_is_not_shown() -> None:
    assert "hf_secret" not in repr(EncoderOptions(model="m", token="hf_secret"))


@pytest.mark.parametrize("name", ["model", "tokenizer"])
def test_a_path_object_that_leads_to_nothing_is_never_a_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^missing/tok: expected a folder, .* or a hub id, got no such path$"):
        EncoderOptions(**{"model": "builtin:tiny", name: Path("missing/tok")})
    assert EncoderOptions(model="missing/tok", tokenizer="missing/tok").tokenizer == "missing/tok"


def test_a_path_object_is_kept_by_its_name(tmp_path: Path) -> None:
    options = EncoderOptions(model=tmp_path, tokenizer=tmp_path)
    assert (options.source.model, options.tokenizer) == (str(tmp_path), str(tmp_path))


def test_a_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    options = EncoderOptions(model="~/m", tokenizer="~/t", compile_cache="~/c")
    assert (options.tokenizer, options.compile_cache) == ("/home/me/t", "/home/me/c")
    assert ModelSource(model="~/m") == ModelSource(model="/home/me/m") == ModelSource.of("~/m") == options.source


def test_none_of_a_truth_is_its_default() -> None:
    """Callers of Hugging Face's libraries say so."""
    options = EncoderOptions(model="m", local_files_only=None, deterministic=None, token=None)
    assert options == EncoderOptions(model="m", source=ModelSource(model="n", local_files_only=None))


def test_a_tokenizer_may_be_a_sentencepiece_model_itself() -> None:
    options = EncoderOptions(model="builtin:tiny", tokenizer=b"model")
    assert options.tokenizer_source == b"model"
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(ConfigError, match=r"^tokenizer: expected a string or bytes, got 5$"):
        EncoderOptions(model="builtin:tiny", tokenizer=5)


def test_a_recipe_may_be_given_as_its_fields() -> None:
    options = EncoderOptions(model="m", recipe={"name": "mine", "max_length": 8})
    assert options.recipe == Recipe(name="mine", max_length=8)
