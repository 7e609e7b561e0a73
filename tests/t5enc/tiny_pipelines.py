"""Pipelines of diffusers with every component tiny and random, around a text encoder that is given.

Flux and Wan are whole, and make pictures and videos. The others are what stands around their text encoders: enough
for `encode_prompt`, which is where pipelines differ in how they call one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Tokenizer

PROMPTS = ["A red fox.", "Two grey herons stand in a shallow river at dawn, and a boat passes."]
TOKENS = 48  # what prompts are padded to: more than either has


def make_flux(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads unmasked; the T5 encoder is the second, beside CLIP."""
    torch.manual_seed(0)
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_make_image_vae(),
        text_encoder=CLIPTextModel(_clip_config()).eval(),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
    )


def make_wan(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads masked, and their embeddings replaced by zeros; the encoder is a UMT5."""
    torch.manual_seed(0)
    return diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=diffusers.AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=64,
            freq_dim=256,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ).eval(),
    )


def make_stable_diffusion_3(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads unmasked; the T5 encoder is the third, after two CLIPs."""
    torch.manual_seed(0)
    return diffusers.StableDiffusion3Pipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=CLIPTextModelWithProjection(_clip_config()).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()).eval(),
        tokenizer_2=tokenizer,
        text_encoder_3=encoder,
        tokenizer_3=tokenizer,
    )


def make_pixart(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads masked, and passed on with their mask."""
    return diffusers.PixArtSigmaPipeline(**_alone(encoder, tokenizer))


def make_ltx(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads unmasked, and passed on with a mask."""
    return diffusers.LTXPipeline(**_alone(encoder, tokenizer))


def make_cogvideox(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads unmasked, and passed on as they are."""
    return diffusers.CogVideoXPipeline(**_alone(encoder, tokenizer))


def make_chroma(encoder: nn.Module, tokenizer: Any) -> Any:
    """Pads masked, though the transformer reads the first of them."""
    return diffusers.ChromaPipeline(**_alone(encoder, tokenizer))


class Kind(NamedTuple):
    """A pipeline: how to make it, where its encoder of T5's family stands, and which built-in one it takes."""

    make: Callable[[nn.Module, Any], Any]
    place: str = "text_encoder"
    model: str = "tiny"


KINDS = {
    "flux": Kind(make_flux, "text_encoder_2"),
    "wan": Kind(make_wan, model="tiny-umt5"),
    "stable_diffusion_3": Kind(make_stable_diffusion_3, "text_encoder_3"),
    "pixart": Kind(make_pixart),
    "ltx": Kind(make_ltx),
    "cogvideox": Kind(make_cogvideox),
    "chroma": Kind(make_chroma),
}


def load_tokenizer(folder: Path) -> Any:
    """The built-in tokenizer; CLIP's texts end at 77 tokens."""
    return T5Tokenizer.from_pretrained(folder, model_max_length=77)


@torch.no_grad()
def encode_prompts(pipeline: Any) -> list[Tensor]:
    """Every tensor that the pipeline makes of PROMPTS: embeddings, and masks where it makes them."""
    others = {"prompt_2": None, "prompt_3": None} if "StableDiffusion3" in type(pipeline).__name__ else {}
    found = pipeline.encode_prompt(prompt=PROMPTS, max_sequence_length=TOKENS, **others)
    return [part for part in found if part is not None]


def generate(pipeline: Any) -> Tensor:
    """A picture, or the frames of a video, of the first prompt: from noise that is always the same."""
    pipeline.set_progress_bar_config(disable=True)
    sizes = {"height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": TOKENS, "output_type": "pt"}
    if isinstance(pipeline, diffusers.WanPipeline):
        sizes["num_frames"] = 5
    made = pipeline(PROMPTS[0], generator=torch.Generator().manual_seed(0), return_dict=False, **sizes)
    return torch.as_tensor(made[0])


def _alone(encoder: nn.Module, tokenizer: Any) -> dict[str, Any]:
    return {"text_encoder": encoder, "tokenizer": tokenizer, "transformer": None, "vae": None, "scheduler": None}


def _make_image_vae() -> nn.Module:
    vae = diffusers.AutoencoderKL(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    return vae.eval()


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
