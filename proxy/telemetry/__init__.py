"""What people see: metrics and log lines. They hear of everything as events and facts; nothing in
the flow counts or logs by itself.
"""
