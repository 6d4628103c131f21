#!/usr/bin/env python3
"""A file system that answers until the file that GATE names exists: an NFS server that goes away.

    mount.nfs SOURCE PATH [-o OPTIONS]

Stands in for mount.nfs: mounts itself on PATH and stays in the background. The directory of GATE is written into this file
by the test.
"""
import ctypes, errno, os, struct, sys, time

GATE = "@GATE@"
path = sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
if libc.mount(b"nas:/gone", path.encode(), b"fuse.nas", 0, options.encode()) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
if os.fork():
    os._exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for standard in (0, 1, 2):
    os.dup2(null, standard)


def answer(unique, body=b"", error=0):
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


while True:
    try:
        request = os.read(fd, 1 << 17)
    except OSError as gone:
        if gone.errno in (errno.EINTR, errno.ENOENT):
            continue
        break
    _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    while os.path.exists(GATE):
        time.sleep(0.05)
    try:
        if opcode == 26:  # INIT
            answer(unique, struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 12, 10, 4096, 1, 1, 0, 0) + bytes(28))
        elif opcode == 3:  # GETATTR
            attributes = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            answer(unique, struct.pack("<QII", 0, 0, 0) + attributes)
        elif opcode == 17:  # STATFS
            answer(unique, struct.pack("<QQQQQIIII", 1000, 600, 500, 100, 90, 4096, 255, 4096, 0) + bytes(24))
        elif opcode in (2, 38):  # FORGET, DESTROY
            pass
        else:
            answer(unique, error=-errno.ENOSYS)
    except OSError:
        pass
