#!/usr/bin/python3
"""A scanner with an RTSP socket, for tests that pull its plug.

    rtsp_server.py PORT SESSION CODEC

Serves rtsp://127.0.0.1:PORT/liver: 160x120 grey pictures at 30 frames/s, each
with SESSION (8 bits) and its own number (16 bits) drawn as 24 blocks, white for
1, so that whoever sees a picture knows which one it is. CODEC is `jpeg` or
`h264`. Prints `ready` when it listens, then runs until it is killed.
Needs Debian's python3-gi and gir1.2-gst-rtsp-server-1.0.
"""
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401

WIDTH, HEIGHT, RATE = 160, 120, 30
BLOCK, COLUMNS = 20, 8
CODECS = {
    "jpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0",
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 threads=1"
    " ! rtph264pay name=pay0 config-interval=-1",
}


def picture(session: int, number: int) -> bytes:
    bits = [(session >> bit) & 1 for bit in range(8)]
    bits += [(number >> bit) & 1 for bit in range(16)]
    rows = []
    for first in range(0, len(bits), COLUMNS):
        row = b"".join((b"\xe0" if bit else b"\x20") * BLOCK for bit in bits[first : first + COLUMNS])
        rows.append(row * BLOCK)
    return b"".join(rows).ljust(WIDTH * HEIGHT, b"\x80")


class Scanner(GstRtspServer.RTSPMediaFactory):
    def __init__(self, session: int, codec: str):
        super().__init__()
        self.session = session
        self.set_shared(True)
        self.set_launch(
            "( appsrc name=pictures is-live=true format=time block=true max-buffers=4"
            f" caps=video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT},framerate={RATE}/1"
            f" ! videoconvert ! video/x-raw,format=I420 ! {CODECS[codec]} )"
        )

    def start_pictures(self, media):
        source = media.get_element().get_by_name_recurse_up("pictures")
        number = 0

        def push():
            nonlocal number
            buffer = Gst.Buffer.new_wrapped(picture(self.session, number))
            buffer.pts = number * Gst.SECOND // RATE
            buffer.duration = Gst.SECOND // RATE
            number += 1
            return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

        GLib.timeout_add(1000 // RATE, push)


def main():
    port, session, codec = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = Scanner(session, codec)
    factory.connect("media-configure", lambda _, media: factory.start_pictures(media))
    server.get_mount_points().add_factory("/liver", factory)
    loop = GLib.MainLoop()
    if server.attach(None) == 0:
        sys.exit(f"cannot listen on port {port}")
    print("ready", flush=True)
    loop.run()


main()
