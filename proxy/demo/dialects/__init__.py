"""The dialects of the simulated gateway beside Stripe's: one module per gateway, with what it does
to a repeated key. What is not known of a gateway is made up, and said so.
"""
