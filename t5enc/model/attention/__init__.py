"""Who attends to whom, T5's position bias, and the paths that compute attention: Flex, SDPA and plain products.

There is no 1/sqrt(head dim) in them: T5 is trained with that factor inside its weights (Raffel et al. 2020), unless
the config says otherwise.
"""
