"""Where the rows of documents go."""

from __future__ import annotations

import numpy as np

from t5enc.text.placement import PlacedDocument, group_identical
from t5enc.text.prompts import Document


def test_equal_documents_are_grouped_in_order_of_appearance() -> None:
    a, b, c = (np.array(ids, dtype=np.int32) for ids in ([1], [1, 2], [2]))
    documents = [
        Document.of(b),
        Document.of(a),
        Document(b, keys=2, kept=1),
        Document(b, keys=1, kept=2),
        Document.of(c),
    ]
    placed = [PlacedDocument(document, text, 0) for text, document in enumerate(documents)]
    assert [[one.text for one in group] for group in group_identical(placed)] == [[0, 2], [1], [3], [4]]
