"""How near an encoder is to transformers in float32."""
