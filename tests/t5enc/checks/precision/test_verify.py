"""`t5enc verify`: true models pass, damaged ones do not, and what cannot be measured is refused by name."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t5enc.checkpoint.builtin import sample_captions, write_builtin
from t5enc.checks.precision.differences import LEVELS
from t5enc.checks.precision.verify import Report, Result, verify
from t5enc.errors import ConfigError, PrecisionError
from t5enc.hf.stack import FusedStack
from t5enc.options import EncoderOptions
from t5enc.text.tokenizer import load_tokenizer
from tests.families import make_checkpoint
from tests.t5enc.checks.precision.command import FEW, invoke

TEXTS = sample_captions()[::8]


def make_model(folder: Path, family: str, *, seed: int = 0, **fields: Any) -> Any:
    """A random checkpoint with weights that bfloat16 holds, and the built-in tokenizer beside it."""
    write_builtin("builtin:tiny", folder)
    model = make_checkpoint(family, folder, seed=seed, vocab_size=1000, **fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(folder)
    return model


def measure(folder: Path, texts: list[str], *, device: str = "cpu", **settings: Any) -> Report:
    return verify(EncoderOptions(model=str(folder), device=device), texts, **settings)


def pick(report: Report, name: str, dtype: str) -> Result:
    return next(result for result in report.results if (result.name, result.dtype) == (name, dtype))


def damage(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], None]) -> None:
    """Let our encoders return states that were changed in place."""
    forward = FusedStack.forward

    def changed(self: FusedStack, *arguments: Any, **options: Any) -> Any:
        output = forward(self, *arguments, **options)
        output.last_hidden_state = output.last_hidden_state.clone()
        change(output.last_hidden_state)
        return output

    monkeypatch.setattr(FusedStack, "forward", changed)


@pytest.mark.parametrize(
    ("family", "seed"),
    [
        ("umt5", 1),
        pytest.param("t5_v1_1", 0, marks=pytest.mark.long),
        pytest.param("t5_v1_0", 2, marks=pytest.mark.long),
    ],
)
def test_ours_is_nearer_than_transformers_in_every_quantile(tmp_path: Path, family: str, seed: int) -> None:
    make_model(tmp_path, family, seed=seed, num_layers=8)
    report = measure(tmp_path, TEXTS)
    assert report.failures == ()
    assert report.skipped == {}
    assert pick(report, "t5enc", "float32").relative_l2 < 2e-6
    for dtype in ("bfloat16", "float16"):
        theirs = pick(report, "transformers", dtype)
        ours = pick(report, "t5enc", dtype)
        assert theirs.pads is not None
        assert ours.pads is not None
        for name in ("t5enc", "t5enc, norms fused"):
            mine = pick(report, name, dtype).real.quantiles
            assert all(near < far for near, far in zip(mine, theirs.real.quantiles, strict=True))
        # A row's pads are nearly one value many times, so the two last quantiles hang on a row or two.
        assert all(near < far for near, far in zip(ours.pads.quantiles[:5], theirs.pads.quantiles[:5], strict=True))
        assert ours.relative_l2 < theirs.relative_l2


def test_the_figures_are_those_of_a_plain_comparison(tmp_path: Path) -> None:
    model = make_model(tmp_path, "t5_v1_1")
    report = measure(tmp_path, FEW, dtypes=["bf16"])
    assert {result.dtype for result in report.results} == {"bfloat16"}
    ids = [torch.from_numpy(text).long() for text in load_tokenizer(tmp_path, max_length=512).encode(FEW).ids]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in ids], batch_first=True)
    with torch.no_grad():
        expected = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        found = model.bfloat16()(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
    difference = (found - expected).abs()
    result = pick(report, "transformers", "bfloat16")
    for group, values in ((result.real, difference[mask.bool()]), (result.pads, difference[~mask.bool()])):
        assert group is not None
        assert group.is_exact
        assert group.elements == values.numel()
        assert group.largest == pytest.approx(float(values.max()), rel=1e-5)
        assert group.quantiles == pytest.approx(torch.quantile(values, torch.tensor(LEVELS)).tolist(), rel=1e-3)
    assert result.relative_l2 == pytest.approx(float(difference.norm() / expected.norm()), rel=1e-4)
    errors = (difference.norm(dim=-1) / expected.norm(dim=-1)).masked_fill(mask == 0, 0.0)
    assert (result.worst.text, result.worst.position) == divmod(int(errors.argmax()), errors.shape[1])
    assert result.worst.error == pytest.approx(float(errors.max()), rel=1e-4)
    assert (report.texts, report.tokens, report.pads) == (3, int(mask.sum()), int((mask == 0).sum()))


def test_float16_of_transformers_keeps_its_float32_layers(tmp_path: Path) -> None:
    """As it loads itself; a model cast to float16 afterwards overflows here."""
    model = make_model(tmp_path, "t5_v1_1")
    with torch.no_grad():
        model.encoder.block[1].layer[1].DenseReluDense.wo.weight.mul_(2.0**15)
    model.save_pretrained(tmp_path)
    report = measure(tmp_path, FEW, dtypes=["float16"])
    assert [result.non_finite for result in report.results] == [0, 0, 0]


def test_a_text_at_a_time_has_no_pads(tmp_path: Path) -> None:
    make_model(tmp_path, "t5_v1_1")
    report = measure(tmp_path, FEW, dtypes=["float32"], batch_size=1)
    assert report.pads == 0
    assert [result.pads for result in report.results] == [None, None]
    assert report.failures == ()


def test_a_damaged_model_ends_with_1_and_names_the_worst_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path, "t5_v1_1")
    (tmp_path / "texts.txt").write_text("\n".join(FEW))
    damage(monkeypatch, lambda states: states[1, 2].add_(1.0))
    arguments = ("verify", str(tmp_path), "--texts", str(tmp_path / "texts.txt"), "--device", "cpu")
    done = invoke(*arguments)
    assert done.exit_code == 1
    shown = " ".join(done.stdout.split())
    for dtype in ("float32", "bfloat16", "float16"):
        for name in ("t5enc", "t5enc, norms fused"):
            assert f"FAILED {name} {dtype}: " in shown
    assert "relative L2 distance: expected at most 2e-05, got" in shown
    assert "of real tokens: expected at most transformers'" in shown
    assert "worst in texts[1] ('a red bird on a long branch in the rain'), token 2 (" in shown
    assert invoke(*arguments, "--tolerance", "1.0", "--dtype", "float32").exit_code == 0


def test_the_tolerance_replaces_the_comparison_in_every_dtype(tmp_path: Path) -> None:
    make_model(tmp_path, "t5_v1_1")
    assert measure(tmp_path, FEW, tolerance=0.5).failures == ()
    failures = measure(tmp_path, FEW, tolerance=1e-9).failures
    assert len(failures) == 6
    assert all("expected at most 1e-09" in failure for failure in failures)


def test_one_value_that_is_not_finite_is_a_failure_whatever_the_tolerance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, "t5_v1_1")
    damage(monkeypatch, lambda states: states[0, 0, :1].fill_(math.nan))
    report = measure(tmp_path, FEW, dtypes=["float32"], tolerance=1e9)
    result = pick(report, "t5enc", "float32")
    assert (result.non_finite, result.worst.text, result.worst.position) == (1, 0, 0)
    assert result.real.largest == math.inf
    assert report.failures[0].startswith("t5enc float32: 1 values are not finite")


def test_norms_that_cannot_be_fused_are_reported_and_are_no_failure(tmp_path: Path) -> None:
    model = make_model(tmp_path, "t5_v1_1")
    with torch.no_grad():
        model.encoder.block[0].layer[0].layer_norm.weight[3] = 0.0
    model.save_pretrained(tmp_path)
    report = measure(tmp_path, FEW, dtypes=["float32"])
    assert [result.name for result in report.results] == ["t5enc"]
    assert "norm fusion: expected scales other than zero" in report.skipped["t5enc, norms fused float32"]
    assert report.failures == ()


def test_a_reference_that_is_not_finite_is_an_error_that_names_the_texts(tmp_path: Path) -> None:
    model = make_model(tmp_path, "t5_v1_1")
    with torch.no_grad():
        model.encoder.final_layer_norm.weight[0] = math.inf
    model.save_pretrained(tmp_path)
    with pytest.raises(PrecisionError, match="transformers' states in float32 are not finite") as raised:
        measure(tmp_path, FEW)
    assert sorted(raised.value.failed) == [0, 1, 2]


def test_a_diffusers_repository_is_read_where_the_encoder_lies(tmp_path: Path) -> None:
    make_model(tmp_path / "text_encoder", "t5_v1_1")
    (tmp_path / "tokenizer").mkdir()
    for file in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "text_encoder" / file).rename(tmp_path / "tokenizer" / file)
    index = {"_class_name": "Pipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert measure(tmp_path, FEW, dtypes=["float32"]).failures == ()


@pytest.mark.long
@pytest.mark.usefixtures("compiler")
def test_flex_attention_is_measured_on_request(tmp_path: Path) -> None:
    make_model(tmp_path, "t5_v1_1")
    options = EncoderOptions(model=str(tmp_path), device="cpu", attention="flex")
    report = verify(options, FEW, dtypes=["float32"])
    assert report.attention == "flex"
    assert report.failures == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_verdict(tmp_path: Path) -> None:
    make_model(tmp_path, "t5_v1_1", num_layers=8)
    report = measure(tmp_path, TEXTS, device="cuda", tolerance=0.1)
    assert report.failures == ()
    assert report.device.startswith("cuda")


def test_the_peer_is_measured_on_request(tmp_path: Path) -> None:
    """Where its distances fit, which are always 128."""
    pytest.importorskip("nai_t5_wrapper", reason="needs nai-t5-wrapper")
    make_model(tmp_path, "t5_v1_1", relative_attention_max_distance=128)
    report = measure(tmp_path, FEW, dtypes=["float32"], peers=True)
    assert pick(report, "nai-t5-wrapper", "float32").relative_l2 < 2e-5


def test_a_peer_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"peers: expected nai-t5-wrapper .*t5enc\[bench\]"):
        verify(EncoderOptions(model="builtin:tiny", device="cpu"), FEW, peers=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_size": 0}, "batch_size: expected at least 1"), ({"dtypes": ["int8"]}, "dtype: expected auto or one of")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verify(EncoderOptions(model="builtin:tiny", device="cpu"), FEW, **settings)


def test_a_converted_folder_is_refused_and_so_is_no_text(tmp_path: Path) -> None:
    from t5enc.checkpoint.convert import convert

    convert("builtin:tiny", tmp_path)
    with pytest.raises(ConfigError, match="expected transformers' layout, got that of `t5enc convert`"):
        verify(EncoderOptions(model=str(tmp_path)), ["a bird"], dtypes=["float32"])
    with pytest.raises(ConfigError, match=r"^texts: expected at least one, got none"):
        verify(EncoderOptions(model="builtin:tiny"), [], dtypes=["float32"])


def test_a_single_file_is_refused_since_transformers_reads_none(tmp_path: Path) -> None:
    (tmp_path / "t5.safetensors").touch()
    with pytest.raises(ConfigError, match="expected a folder or a hub id"):
        measure(tmp_path / "t5.safetensors", FEW)
