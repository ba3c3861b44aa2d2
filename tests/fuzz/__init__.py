"""A fuzzer over what tenants write and send: `python -m tests.fuzz --inputs 1000000`.

An input may be refused; it may not end a process, raise an unexpected error, or make an HTTP answer of 500.
"""
