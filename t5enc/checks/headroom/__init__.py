"""How much room a 16-bit dtype leaves a model's activations."""
