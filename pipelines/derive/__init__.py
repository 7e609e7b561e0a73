"""Outputs made of other outputs, without computing a number: put together, or a part of one."""
