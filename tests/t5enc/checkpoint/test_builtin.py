"""Built-in models: the same bits everywhere, and checkpoints like any other once they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from t5enc.checkpoint.assets.train_tokenizer import VOCAB_SIZE
from t5enc.checkpoint.builtin import ASSETS, MODELS, is_builtin, open_builtin, sample_captions, write_builtin
from t5enc.checkpoint.opening import open_checkpoint
from t5enc.errors import ConfigError
from t5enc.text.tokenizer import load_tokenizer


def load_with_transformers(name: str, folder: Path) -> Any:
    import transformers

    write_builtin(name, folder)
    class_name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_what_is_written(name: str, tmp_path: Path) -> None:
    model = load_with_transformers(name, tmp_path)
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in open_builtin(name).tensors.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_written_model_opens_as_the_same_model(name: str, tmp_path: Path) -> None:
    write_builtin(name, tmp_path)
    written, made = open_checkpoint(tmp_path), open_builtin(name)
    assert written.config == made.config
    assert set(written.tensors) == set(made.tensors)
    assert written.tokenizer_source == tmp_path


@pytest.mark.parametrize("name", ["tiny", "tiny-umt5"])
def test_activations_neither_vanish_nor_grow(name: str, tmp_path: Path) -> None:
    model = load_with_transformers(name, tmp_path)
    ids = load_tokenizer(open_builtin(name).tokenizer_source, max_length=64).encode(sample_captions()[250:251]).ids[0]
    with torch.no_grad():
        states = model(input_ids=torch.from_numpy(ids).long()[None], output_hidden_states=True).hidden_states
    spread = [float(state.std()) for state in states]
    assert all(0.5 < value < 4 for value in spread)
    assert spread[-2] > 1.2 * spread[0], "the layers add nothing"


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_drawn_alike_every_time(name: str) -> None:
    first, second = open_builtin(name), open_builtin(f"builtin:{name}")
    assert all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)
    assert first.name == second.name == f"builtin:{name}"
    assert first.fingerprint() == second.fingerprint()


def test_the_models_never_change() -> None:
    fingerprints = {name: open_builtin(name).fingerprint()[:16] for name in MODELS}
    assert fingerprints == {
        "tiny": "22d8c0d7554c0593",
        "tiny-umt5": "cd02383103160793",
        "tiny-mt5": "8bc773515b895300",
        "tiny-byt5": "553dd80c6e7d520a",
    }


def test_norm_scales_and_biases_are_not_trivial() -> None:
    tensors = open_builtin("tiny-umt5").tensors
    norms = [tensor for name, tensor in tensors.items() if name.endswith("norm.weight")]
    biases = [tensor for name, tensor in tensors.items() if "relative_attention_bias" in name]
    assert len(norms) == 9
    assert all(0.01 < float(norm.std()) < 0.3 and bool((norm > 0).all()) for norm in norms)
    assert len(biases) == 4
    assert all(float(bias.std()) > 0.5 for bias in biases)


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="builtin:huge: expected one of builtin:tiny, builtin:tiny-umt5"):
        open_builtin("builtin:huge")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("builtin:tiny", True),
        ("builtin:huge", True),
        ("tiny", False),
        ("google/t5-v1_1-xxl", False),
        (Path("a"), False),
    ],
)
def test_builtin_names_have_a_prefix(name: str | Path, expected: bool) -> None:
    assert is_builtin(name) is expected


def test_builtin_models_say_that_they_are_not_trained() -> None:
    import t5enc.checkpoint.builtin

    assert "NOT trained" in str(t5enc.checkpoint.builtin.__doc__)
    assert open_builtin("tiny").provenance["trained"] == "no"


def test_sample_captions_are_many_and_varied() -> None:
    captions = sample_captions()
    lengths = sorted(len(caption) for caption in captions)
    assert len(captions) >= 300
    assert len(set(captions)) == len(captions)
    assert lengths[0] < 5
    assert lengths[-1] > 300
    assert sum(not caption.isascii() for caption in captions) > 50


def test_the_shipped_tokenizer_has_the_ids_of_t5() -> None:
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor(model_file=str(ASSETS / "tiny.model"))
    assert processor.vocab_size() == VOCAB_SIZE == open_builtin("tiny").config.vocab_size
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id()) == (0, 1, 2, -1)


def test_every_id_of_the_captions_has_an_embedding() -> None:
    for name in MODELS:
        checkpoint = open_builtin(name)
        ids = load_tokenizer(checkpoint.tokenizer_source, max_length=4096).encode(sample_captions()).ids
        assert max(int(text.max()) for text in ids) < checkpoint.config.vocab_size


def test_the_name_of_earlier_releases_still_leads_to_it():
    from t5enc.builtin import write_builtin as by_its_old_name

    assert by_its_old_name is write_builtin
