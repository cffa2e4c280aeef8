"""What only the Redis store promises, against a real server that is killed, cut off and put back."""
