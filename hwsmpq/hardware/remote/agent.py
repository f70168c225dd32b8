"""What a device is sent: a line that starts everything, and the archive of the modules that run there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

HELLO = b"\x1ehwsmpq-device\x1e"
START = r"""
import os, sys
def refuse(why, fix):
    os.write(1, b"{hello}" + (why + "\x1e" + fix).encode() + b"\x1e")
    os._exit(3)
if sys.version_info < (3, 8):
    refuse("its Python is " + sys.version.split()[0], "name a Python 3.8 or newer in the command")
try:
    import numpy
except Exception as error:
    refuse("numpy cannot be imported there (%s)" % error, "install numpy for " + sys.executable)
try:
    import shutil, struct, tempfile
    root = tempfile.mkdtemp(prefix="hwsmpq-")
except Exception as error:
    refuse("it has no place for files (%s)" % error, "free space there, or set TMPDIR")
try:
    os.write(1, b"{hello}\x1e\x1e")
    left, parts = struct.unpack(">Q", os.read(0, 8))[0], []
    while left:
        part = os.read(0, min(left, 65536))
        if not part:
            os._exit(4)
        parts.append(part)
        left -= len(part)
    archive = os.path.join(root, "hwsmpq.zip")
    with open(archive, "wb") as stream:
        stream.write(b"".join(parts))
    for name in [name for name in sys.modules if name.split(".")[0] == "hwsmpq"]:
        del sys.modules[name]
    sys.path.insert(0, archive)
    from hwsmpq.device.serve import main
    main(0, 1, root)
finally:
    shutil.rmtree(root, ignore_errors=True)
    os._exit(1)
"""


def first_line() -> bytes:
    """What an interactive Python there is told."""
    text = START.replace("{hello}", HELLO.decode().replace("\x1e", r"\x1e"))
    return f"exec({text!r})\n".encode()


def agent() -> bytes:
    """The archive that a device gets: what may run there, below an empty package."""
    root = Path(__file__).parents[2]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("hwsmpq/__init__.py", "")
        for path in (root / "errors.py", *sorted((root / "device").rglob("*.py"))):
            files.write(path, path.relative_to(root.parent))
    return archive.getvalue()
