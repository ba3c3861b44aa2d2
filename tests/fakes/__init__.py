"""What surrounds the operator, in memory: clock, network, API server, nodes, ledger, gateway and agents."""
