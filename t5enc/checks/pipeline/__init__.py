"""How near a recipe is to the pipeline it is of."""
