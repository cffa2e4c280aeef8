"""What only the Redis store promises: a real server that is killed, cut off and put back."""
