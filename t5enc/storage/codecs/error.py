"""What storing costs: how far tokens are from themselves once they have been stored and read.

T tokens, M model dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from t5enc.storage.codecs.table import from_bytes, to_bytes, working_dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def measure_errors(tokens: Tensor, storage: str) -> NDArray[np.float64]:
    """(T, M) as the model gave them -> (T,): the length of what storing changes of a token, over that of the token.

    Rounding to the codec's working dtype counts, too. A token of zeros that stay zeros is off by 0.
    """
    import torch

    exact = tokens.double()
    stored = from_bytes(to_bytes(tokens.to(working_dtype(storage)), storage), storage, tokens.shape[1])
    tiny = torch.finfo(torch.float64).tiny
    errors: NDArray[np.float64] = ((stored.double() - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=tiny)).numpy()
    return errors
