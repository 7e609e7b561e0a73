"""RemoteT5EncoderModel: a text encoder that a diffusers pipeline takes for its own, and whose weights are elsewhere.

B batch, S sequence, M model dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from serve_app.client import Client
from t5enc.errors import InputError, PrecisionError
from t5enc.model.precision import resolve_dtype


class RemoteT5EncoderModel(nn.Module):
    """Stands in for transformers' T5EncoderModel; encodes with a server's `POST /encode`.

    Without a mask every token is encoded, pads too, as the pipelines want that give none. With one, pads are not sent
    and their embeddings are zeros: for pipelines that mask or drop them downstream (Wan, PixArt), not for Chroma,
    whose transformer reads the embedding of the first pad.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        config: PretrainedConfig | None = None,
        **options: Any,
    ) -> None:
        """Results are given in `dtype` on `device`. The server is asked for a dtype or config that is not given.

        Options are those of `serve_app.client.options.ClientOptions`.
        """
        super().__init__()
        self.client = Client(url, key, **options)
        info = self.client.info() if dtype is None or config is None else {}
        self.config = config or make_config(info)
        dtype = resolve_dtype(dtype or info.get("model_dtype"), torch.device(device))
        # Moves and casts as a module's weights would, and so tells where and in what dtype results are wanted.
        self.register_buffer("_like", torch.empty(0, dtype=dtype, device=device), persistent=False)
        self._like: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states that are returned; `to` changes it."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where hidden states are returned; `to` changes it, and the weights stay where they are."""
        return self._like.device

    def extra_repr(self) -> str:
        """The server's address, for whoever prints a pipeline."""
        return f"url={self.client.options.url!r}, dtype={self.dtype}"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor]:
        """Last hidden states (B, S, M) of token ids (B, S) under a mask (B, S) of ones and zeros.

        Raises InputError for what a server cannot be asked: embeddings, attention weights, other layers' states.
        """
        if input_ids is None or inputs_embeds is not None:
            raise InputError("RemoteT5EncoderModel: expected input_ids and no inputs_embeds")
        if output_attentions or output_hidden_states:
            raise InputError("RemoteT5EncoderModel: gives last_hidden_state, neither attentions nor hidden_states")
        hidden = self._encode(input_ids.cpu(), find_tokens(input_ids, attention_mask))
        return BaseModelOutput(last_hidden_state=hidden) if return_dict is not False else (hidden,)

    def _encode(self, ids: Tensor, kept: Tensor) -> Tensor:
        rows = [row[mask].tolist() for row, mask in zip(ids, kept, strict=True)]
        sent = [place for place, row in enumerate(rows) if row]
        if not sent:
            raise InputError("attention_mask: expected at least one token in the batch, got none")
        try:
            embeddings = self.client.encode_tokens([rows[place] for place in sent])
        except PrecisionError as error:
            raise PrecisionError({sent[place]: reason for place, reason in error.failed.items()}) from None
        hidden = embeddings.values.new_zeros(*ids.shape, embeddings.dim)
        hidden[kept] = embeddings.values
        return hidden.to(self.device, self.dtype)


def make_config(info: Mapping[str, Any]) -> PretrainedConfig:
    """As much of a config as a server tells: the model's name and its width."""
    dim = info.get("model_dim")
    return PretrainedConfig(name_or_path=info.get("model_id", ""), d_model=dim, hidden_size=dim)


def find_tokens(input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """(B, S) bool, on the CPU: the tokens that the mask keeps, or all of them.

    InputError for a mask of another kind, or with gaps: T5 counts positions between tokens, and they would change.
    """
    if input_ids.dim() != 2:
        raise InputError(f"input_ids: expected (batch, sequence), got {tuple(input_ids.shape)}")
    if mask is None:
        return torch.ones(input_ids.shape, dtype=torch.bool)
    if mask.shape != input_ids.shape or not ((mask == 0) | (mask == 1)).all():
        expected = f"ones and zeros of shape {tuple(input_ids.shape)}"
        raise InputError(f"attention_mask: expected {expected}, got {mask.dtype} of shape {tuple(mask.shape)}")
    kept = mask.bool().cpu()
    starts = kept.int().diff(dim=1, prepend=kept.new_zeros(len(kept), 1).int()) == 1
    if (starts.sum(1) > 1).any():
        row = int((starts.sum(1) > 1).nonzero()[0])
        raise InputError(f"attention_mask[{row}]: expected pads before or after the tokens, got some between them")
    return kept
