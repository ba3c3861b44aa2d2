"""The whole control loop on a virtual clock, over in-memory ports that inject faults from a seed."""
