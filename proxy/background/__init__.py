"""What happens by itself: the janitor tidies by time, reconciler and prober ask the gateways."""
