"""What happens by itself: the janitor tidies by time, the reconciler asks the gateways."""
