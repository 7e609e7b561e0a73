"""RemoteT5EncoderModel beside transformers' encoder with the same weights, alone and in diffusers' pipelines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save
from torch import Tensor

from serve_app.remote import RemoteT5EncoderModel
from t5enc.checkpoint.builtin import write_builtin
from t5enc.errors import InputError, PrecisionError
from t5enc.text_encoder import TextEncoder
from tests.serve_app.faulty_server import SAFETENSORS, Behaviour, FaultyServer, Handler, refuse, run_faulty_server
from tests.t5enc.reference import ROUNDING, distance

MODELS = ("tiny", "tiny-umt5")

Remote = Callable[..., RemoteT5EncoderModel]


def answer_with(encoder: TextEncoder) -> Behaviour:
    """A server of that encoder; one request at a time computes."""
    lock = threading.Lock()

    def answer(handler: Handler, content: dict[str, Any]) -> None:
        if handler.command == "GET":
            info = {
                "model_id": encoder.options.source.model,
                "model_dtype": "float32",
                "model_dim": encoder.config.model_dim,
            }
            return handler.reply(200, json.dumps(info).encode(), "application/json")
        with lock:
            embeddings = encoder.encode_tokens(content["ids"])
        tensors = {"values": embeddings.values, "offsets": embeddings.offsets}
        truncated = torch.zeros(len(embeddings), dtype=torch.bool)
        return handler.reply(200, save(tensors | {"truncated": truncated}, metadata={"fingerprint": "f"}), SAFETENSORS)

    return answer


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FaultyServer]]:
    with ExitStack() as stack:
        encoders = {model: TextEncoder.from_pretrained(f"builtin:{model}") for model in MODELS}
        yield {model: stack.enter_context(run_faulty_server(answer_with(encoders[model]))) for model in MODELS}


@pytest.fixture
def remote(servers: dict[str, FaultyServer]) -> Iterator[Remote]:
    """`remote(model, **options)`: an encoder that is closed when the test ends."""
    with ExitStack() as stack:

        def make(model: str = "tiny", **options: Any) -> RemoteT5EncoderModel:
            made = RemoteT5EncoderModel(servers[model].url, **options)
            stack.callback(made.client.close)
            return made.eval()

        yield make


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {model: tmp_path_factory.mktemp(model) for model in MODELS}
    for model, folder in made.items():
        write_builtin(model, folder)
    return made


def load_theirs(folder: Path, model: str = "tiny") -> Any:
    """transformers' encoder with the weights of a built-in one."""
    name = "UMT5EncoderModel" if model == "tiny-umt5" else "T5EncoderModel"
    return getattr(transformers, name).from_pretrained(folder).eval()


def make_batch() -> tuple[Tensor, Tensor]:
    """Ids (3, 9) and their mask: pads to the right, to the left, none."""
    ids = torch.randint(2, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[1, :3] = 0
    return ids * mask, mask


@torch.no_grad()
def test_without_a_mask_pads_are_tokens_like_others(remote: Remote, folders: dict[str, Path]) -> None:
    ids, _ = make_batch()
    expected = load_theirs(folders["tiny"])(ids).last_hidden_state
    found = remote()(ids)
    assert found.last_hidden_state.shape == (3, 9, 64)
    assert distance(found[0], expected) < ROUNDING


@torch.no_grad()
def test_masked_pads_are_not_sent_and_come_back_as_zeros(
    remote: Remote, folders: dict[str, Path], servers: dict[str, FaultyServer]
) -> None:
    ids, mask = make_batch()
    kept = mask.bool()
    expected = load_theirs(folders["tiny"])(ids, mask).last_hidden_state
    found = remote()(ids, attention_mask=mask).last_hidden_state
    assert distance([found[kept]], [expected[kept]]) < ROUNDING
    assert (found[~kept] == 0).all()
    assert servers["tiny"].requests[-1] == {"ids": [row[keep].tolist() for row, keep in zip(ids, kept, strict=True)]}


def test_a_row_without_tokens_is_zeros(remote: Remote) -> None:
    ids, mask = make_batch()
    mask[1] = 0
    found = remote()(ids, mask)[0]
    assert (found[1] == 0).all()
    assert (found[2] != 0).any()
    with pytest.raises(InputError, match="at least one token"):
        remote()(ids, torch.zeros_like(mask))


def test_rows_that_the_model_cannot_compute_are_named_by_their_place_in_the_batch(
    remote: Remote, servers: dict[str, FaultyServer]
) -> None:
    ids, mask = make_batch()
    mask[1] = 0
    model = remote()
    servers["tiny"].script = [refuse(424, {"error": "no", "error_type": "Backend", "failed": {"1": "too large"}})]
    with pytest.raises(PrecisionError) as error:
        model(ids, mask)
    assert error.value.failed == {2: "too large"}


def test_what_a_server_cannot_do_is_refused(remote: Remote) -> None:
    ids, mask = make_batch()
    gap = mask.clone()
    gap[2, 4] = 0
    model = remote()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"attention_mask": gap}, r"attention_mask\[2\]: expected pads before or after"),
        ({"attention_mask": mask[:, None]}, r"ones and zeros of shape \(3, 9\), got .*\(3, 1, 9\)"),
        ({"attention_mask": (1.0 - mask) * -1e9}, "ones and zeros"),
        ({"output_hidden_states": True}, "neither attentions nor hidden_states"),
        ({"output_attentions": True}, "neither attentions nor hidden_states"),
        ({"inputs_embeds": torch.zeros(3, 9, 64)}, "no inputs_embeds"),
    ]
    for arguments, reason in refused:
        with pytest.raises(InputError, match=reason):
            model(ids, **arguments)
    with pytest.raises(InputError, match=r"expected \(batch, sequence\)"):
        model(ids[0])


def test_the_server_tells_dtype_and_config_unless_they_are_given(
    remote: Remote, servers: dict[str, FaultyServer]
) -> None:
    told = remote()
    assert (told.dtype, told.device) == (torch.float32, torch.device("cpu"))
    assert (told.config.d_model, told.config.name_or_path) == (64, "builtin:tiny")
    count = len(servers["tiny"].requests)
    given = remote(dtype="bfloat16", config=transformers.T5Config(d_model=8))
    assert (given.dtype, given.config.d_model) == (torch.bfloat16, 8)
    assert len(servers["tiny"].requests) == count


def test_to_changes_what_comes_back(remote: Remote) -> None:
    ids, mask = make_batch()
    model = remote()
    single = model(ids, mask)[0]
    assert model.to(torch.float16) is model
    assert model.dtype == torch.float16
    assert torch.equal(model(ids, mask)[0], single.half())
    assert model.to("meta").device == torch.device("meta")
    assert model(ids, mask)[0].device == torch.device("meta")


def test_return_dict_false_gives_a_tuple(remote: Remote) -> None:
    ids, mask = make_batch()
    found = remote()(ids, mask, return_dict=False)
    assert isinstance(found, tuple)
    assert found[0].shape == (3, 9, 64)


def test_a_server_that_fails_in_passing_is_asked_again(remote: Remote, servers: dict[str, FaultyServer]) -> None:
    ids, mask = make_batch()
    model = remote()
    expected = model(ids, mask)[0]
    servers["tiny"].script = [refuse(503, {"error": "starting"})]
    assert torch.equal(model(ids, mask)[0], expected)


class Pipelines:
    """Pairs of pipelines around a remote encoder and transformers' own."""

    def __init__(self, remote: Remote, folders: dict[str, Path]) -> None:
        self._remote = remote
        self._folders = folders

    def make(self, kind: str) -> tuple[Any, Any]:
        from tests.t5enc.tiny_pipelines import KINDS, load_tokenizer

        found = KINDS[kind]
        folder = self._folders[found.model]
        ours = found.make(self._remote(found.model), load_tokenizer(folder))
        theirs = found.make(load_theirs(folder, found.model), load_tokenizer(folder))
        return ours, theirs


@pytest.fixture
def pipelines(remote: Remote, folders: dict[str, Path]) -> Pipelines:
    pytest.importorskip("diffusers", reason="needs diffusers (pip install t5enc[diffusers])")
    return Pipelines(remote, folders)


@pytest.mark.parametrize("kind", ["flux", "wan", "stable_diffusion_3", "ltx", "cogvideox"])
def test_prompts_encode_as_with_an_encoder_of_ones_own(pipelines: Pipelines, kind: str) -> None:
    from tests.t5enc.tiny_pipelines import encode_prompts

    ours, theirs = pipelines.make(kind)
    found, expected = encode_prompts(ours), encode_prompts(theirs)
    assert [part.shape for part in found] == [part.shape for part in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other.float()).norm() <= ROUNDING * other.float().norm()


def test_pixart_gets_the_same_embeddings_where_its_mask_keeps_them(pipelines: Pipelines) -> None:
    from tests.t5enc.tiny_pipelines import encode_prompts

    ours, theirs = pipelines.make("pixart")
    (found, mask, *_), (expected, *_) = encode_prompts(ours), encode_prompts(theirs)
    kept = mask.bool()
    assert 0 < kept.sum() < kept.numel()
    assert distance([found[kept]], [expected[kept]]) < ROUNDING


@pytest.mark.parametrize("kind", ["flux", "wan"])
def test_pictures_and_videos_are_the_same(pipelines: Pipelines, kind: str) -> None:
    from tests.t5enc.tiny_pipelines import generate

    ours, theirs = pipelines.make(kind)
    assert distance([generate(ours.to("cpu"))], [generate(theirs)]) < ROUNDING


def test_a_saved_pipeline_leaves_the_encoder_out_and_takes_it_again(pipelines: Pipelines, tmp_path: Path) -> None:
    import diffusers

    from tests.t5enc.tiny_pipelines import encode_prompts, generate

    ours, _ = pipelines.make("flux")
    ours.save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder_2").exists()
    load: Callable[..., Any] = diffusers.FluxPipeline.from_pretrained
    again = load(tmp_path, text_encoder_2=ours.text_encoder_2)
    assert torch.equal(encode_prompts(again)[0], encode_prompts(ours)[0])
    # Reloaded weights of the other components lie elsewhere in memory, and their products round otherwise.
    assert distance([generate(again)], [generate(ours)]) < ROUNDING
