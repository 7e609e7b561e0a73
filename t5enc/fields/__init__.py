"""Fields of the dataclasses that hold options: their types, their flat names, and words that stand for values."""
