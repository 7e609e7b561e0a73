"""What a command finds on the machine it is run on: its streams, its folders, and what a Ray of its own needs."""
