"""What runs where engines run: in this process, or on a device at the other end of a pipe.

These modules need Python 3.8, numpy and a runtime. Of this package they see :mod:`hwsmpq.errors` only, so that a device
needs nothing else.
"""
