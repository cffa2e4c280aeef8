"""What is known about each gateway, as data: one YAML file each. `README.md` says
how to add one.
"""
