"""What is served: models, recipes, and how much of the machine they may take."""
