"""Formats: one module a trainer. `t5enc.trainers.registry` names them."""
