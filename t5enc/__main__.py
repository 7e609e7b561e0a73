"""`python -m t5enc`: the console script without its script."""

from t5enc.cli import main

main()
