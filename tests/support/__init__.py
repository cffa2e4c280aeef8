"""What tests are made of: a lab for the flow, raw sockets, running Holdfasts."""
