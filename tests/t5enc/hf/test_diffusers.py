"""The drop-ins inside diffusers' pipelines: the numbers of transformers' encoders, saved, reloaded and offloaded."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from t5enc import hf
from t5enc.checkpoint.builtin import write_builtin
from tests.t5enc.reference import ROUNDING, distance

diffusers = pytest.importorskip("diffusers", reason="needs diffusers (pip install t5enc[diffusers])")
accelerate = pytest.importorskip("accelerate", reason="needs accelerate (pip install t5enc[diffusers])")

from tests.t5enc.tiny_pipelines import KINDS, encode_prompts, generate, load_tokenizer  # noqa: E402

MakePipeline = Callable[..., Any]

WHOLE = ("flux", "wan")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]

# Loads pipelines in a fresh process and keeps what they make of prompts; each argument is a folder.
RELOAD = """
import sys
from pathlib import Path

import diffusers
import torch

from tests.t5enc.tiny_pipelines import KINDS, encode_prompts

for folder in map(Path, sys.argv[1:]):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    print(type(getattr(pipeline, KINDS[folder.name].place)).__module__)
    torch.save(encode_prompts(pipeline), folder / "encoded.pt")
print("t5enc" in sys.modules)
"""


@pytest.fixture(autouse=True)
def quiet_diffusers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may make diffusers warn: about a component's type, or anything else."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.get_records("call") if record.name.startswith("diffusers")]
    assert said == []


@pytest.fixture(scope="session")
def make_pipeline(tmp_path_factory: pytest.TempPathFactory) -> MakePipeline:
    """`make_pipeline(kind, library, **options)`: a pipeline around hf's or transformers' encoder, weights the same."""
    folders = {model: tmp_path_factory.mktemp(model) for model in sorted({kind.model for kind in KINDS.values()})}
    for model, folder in folders.items():
        write_builtin(model, folder)

    def make(name: str, library: Any = hf, **options: Any) -> Any:
        kind = KINDS[name]
        model_class = library.UMT5EncoderModel if kind.model == "tiny-umt5" else library.T5EncoderModel
        encoder = model_class.from_pretrained(folders[kind.model], **options)
        return kind.make(encoder, load_tokenizer(folders[kind.model]))

    return make


def encoder_of(pipeline: Any, kind: str) -> Any:
    """The pipeline's encoder of T5's family."""
    return getattr(pipeline, KINDS[kind].place)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Masks and position ids equal; numbers as near as sums in another order are."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one.float() - other.float()).norm() <= ROUNDING * other.float().norm()


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_encode_as_with_transformers(make_pipeline: MakePipeline, kind: str) -> None:
    pipeline = make_pipeline(kind)

    assert_same(encode_prompts(pipeline), encode_prompts(make_pipeline(kind, transformers)))


@pytest.mark.parametrize("kind", WHOLE)
def test_pictures_and_videos_are_those_of_transformers(make_pipeline: MakePipeline, kind: str) -> None:
    expected = generate(make_pipeline(kind, transformers))

    assert_same([generate(make_pipeline(kind))], [expected])


@pytest.mark.parametrize("kind", WHOLE)
def test_pictures_depend_on_the_encoder(make_pipeline: MakePipeline, kind: str) -> None:
    pipeline = make_pipeline(kind)
    expected = generate(pipeline)
    nn.init.normal_(encoder_of(pipeline, kind).encoder.final_layer_norm.weight)

    assert distance([generate(pipeline)], [expected]) > 10 * ROUNDING


@pytest.mark.parametrize("pads", ["zero", "skip"])
def test_wan_which_clears_pads_needs_none_computed(make_pipeline: MakePipeline, pads: str) -> None:
    expected = encode_prompts(make_pipeline("wan"))

    assert_same(encode_prompts(make_pipeline("wan", pad_outputs=pads)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["pixart", "stable_diffusion_3"])
def test_pipelines_move_to_a_dtype(make_pipeline: MakePipeline, kind: str, dtype: torch.dtype) -> None:
    pipeline, theirs = make_pipeline(kind), make_pipeline(kind, transformers)
    expected = encode_prompts(theirs)[:1]
    pipeline.to(dtype)
    theirs.to(dtype)
    found = encode_prompts(pipeline)[:1]

    assert encoder_of(pipeline, kind).dtype == found[0].dtype == dtype
    assert distance(found, expected) < distance(encode_prompts(theirs)[:1], expected)
    assert encoder_of(pipeline.to(torch.float32), kind).dtype == torch.float32


@pytest.mark.long
@pytest.mark.parametrize("to_theirs", [False, True], ids=["import t5enc.hf", "to_transformers"])
def test_saved_pipelines_load_in_a_fresh_process(make_pipeline: MakePipeline, tmp_path: Path, to_theirs: bool) -> None:
    pipelines = {kind: make_pipeline(kind) for kind in WHOLE}
    for kind, pipeline in pipelines.items():
        if to_theirs:
            setattr(pipeline, KINDS[kind].place, encoder_of(pipeline, kind).to_transformers())
        pipeline.save_pretrained(tmp_path / kind)

    said = reload_afresh([tmp_path / kind for kind in WHOLE], "" if to_theirs else "import t5enc.hf")

    expected = ["transformers.models.t5.modeling_t5", "transformers.models.umt5.modeling_umt5", "False"]
    assert said == (expected if to_theirs else ["t5enc.hf", "t5enc.hf", "True"])
    for kind, pipeline in pipelines.items():
        assert_same(torch.load(tmp_path / kind / "encoded.pt"), encode_prompts(pipeline))


def reload_afresh(folders: list[Path], first: str) -> list[str]:
    """Runs RELOAD after the statement `first`; the lines that it prints."""
    command = [sys.executable, "-W", "error", "-c", f"{first}\n{RELOAD}", *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Expected types" not in done.stderr
    return done.stdout.split("\n")[:-1]


def test_a_folder_saved_by_diffusers_takes_our_encoder(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    theirs = make_pipeline("flux", transformers)
    theirs.save_pretrained(tmp_path)
    ours = hf.T5EncoderModel.from_pretrained(tmp_path, subfolder="text_encoder_2")

    pipeline = diffusers.FluxPipeline.from_pretrained(tmp_path, text_encoder_2=ours)

    assert pipeline.text_encoder_2 is ours
    assert_same(encode_prompts(pipeline), encode_prompts(theirs))


def test_a_folder_saved_with_our_encoder_takes_theirs(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    ours = make_pipeline("flux")
    ours.save_pretrained(tmp_path)
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path, subfolder="text_encoder_2")

    assert_same(
        encode_prompts(diffusers.FluxPipeline.from_pretrained(tmp_path, text_encoder_2=theirs)), encode_prompts(ours)
    )


def test_a_variant_in_shards_is_saved_and_loaded(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    pipeline = make_pipeline("flux")

    pipeline.save_pretrained(tmp_path, variant="bf16", max_shard_size="100KB")

    shards = sorted(path.name for path in (tmp_path / "text_encoder_2").glob("*.safetensors"))
    assert len(shards) > 1
    assert all(name.startswith("model.bf16-") for name in shards)
    again = diffusers.FluxPipeline.from_pretrained(tmp_path, variant="bf16")
    assert isinstance(again.text_encoder_2, hf.T5EncoderModel)
    assert_same(encode_prompts(again), encode_prompts(pipeline))


def offload_models(pipeline: Any) -> None:
    """Each model as a whole."""
    pipeline.enable_model_cpu_offload(device="cpu")


def offload_sequentially(pipeline: Any) -> None:
    """What `enable_sequential_cpu_offload` does, which itself gives the CPU a number that accelerate cannot use."""
    for model in pipeline.components.values():
        if isinstance(model, nn.Module):
            accelerate.cpu_offload(model, CPU, offload_buffers=len(model._parameters) > 0)


def offload_blocks(pipeline: Any) -> None:
    """Groups of blocks."""
    pipeline.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)


def offload_leaves(pipeline: Any) -> None:
    """Every layer."""
    pipeline.enable_group_offload(onload_device=CPU, offload_type="leaf_level")


OFFLOADS: list[Callable[[Any], None]] = [offload_models, offload_sequentially, offload_blocks, offload_leaves]


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("kind", WHOLE)
def test_offloaded_pipelines_make_the_same_pictures(
    make_pipeline: MakePipeline, kind: str, offload: Callable[[Any], None]
) -> None:
    pipeline = make_pipeline(kind)
    expected = [generate(pipeline), *encode_prompts(pipeline)]

    offload(pipeline)

    assert_same([generate(pipeline), *encode_prompts(pipeline)], expected)


def test_pipelines_load_onto_a_device(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    pipeline = make_pipeline("flux")
    pipeline.save_pretrained(tmp_path)

    again = diffusers.FluxPipeline.from_pretrained(tmp_path, device_map="cpu")

    assert isinstance(again.text_encoder_2, hf.T5EncoderModel)
    assert_same(encode_prompts(again), encode_prompts(pipeline))
