"""Many callers before one model: a queue by tokens, and a cache of prompts."""
