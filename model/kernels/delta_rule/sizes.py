"""What the kernels of a GDN layer are made for. Pure."""

CHUNK = 64
KEY_DIMS = (*range(32, 129, 16), 256)
VALUE_DIMS = range(16, 257, 16)
CONV_WIDTH = 4
