"""The Ray that a run works on: its nodes, what an actor gets of them, nodes that come, and nodes that leave."""
