"""A model as it is loaded to be served: open to texts of any recipe, and compiled before the first request."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from t5enc.actor import EncoderActor
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.options import DEFAULT_LENGTH, NO_RECIPE, EncoderOptions
from t5enc.text.preparer import Preparer
from t5enc.text_encoder import TextEncoder


def open_to_all(options: EncoderOptions, preparer: Preparer) -> EncoderOptions:
    """The model without a recipe, for texts as long as its own recipe's and, where no length is given, others'."""
    if preparer.recipe is None:
        return options
    length = preparer.longest
    if options.max_length is None:
        length = max(length, min(DEFAULT_LENGTH, options.token_budget or DEFAULT_LENGTH))
    return replace(options, recipe=NO_RECIPE, recipe_options={}, max_length=length)


def load_actor(options: EncoderOptions, checkpoint: Checkpoint) -> EncoderActor:
    """The model, and every graph compiled that a stream may want: no request shall wait for a compiler."""
    actor = EncoderActor(options, _NoWork(), checkpoint)
    if actor.encoder.options.attention == "flex":
        actor.submit(TextEncoder.warm_up, all_rungs=True).result()
    return actor


class _NoWork:
    """A service calls its model through a batcher, never through the actor's own `__call__`."""

    def starting(self) -> None:
        pass

    def started(self, actor: EncoderActor) -> None:
        pass

    def failed(self, error: Exception) -> None:
        pass

    def __call__(self, actor: EncoderActor, batch: pa.Table) -> pa.Table:
        raise TypeError("a served model takes no tables: await ModelService.encode")
