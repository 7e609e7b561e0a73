"""The library's subcommands of `t5enc`."""
