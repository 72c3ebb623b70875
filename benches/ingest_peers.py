"""Decode, grey, resize to 112x112 with OpenCV and PyAV: frames a CPU-second of each
file named, one thread each. Printed as `NAME RATE FRAMES FILE`; `cargo bench --bench
ingest` runs it beside hepaflow on the same files when `--peers PYTHON` names an
interpreter that has both."""

import sys
import time

import av
import cv2
import numpy as np

SIZE = (112, 112)


def with_opencv(path):
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, one_thread)
    if not video.isOpened():
        raise RuntimeError(f"OpenCV cannot open {path}")
    frames = 0
    while True:
        found, picture = video.read()
        if not found:
            return frames
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        cv2.resize(grey, SIZE, interpolation=cv2.INTER_AREA)
        frames += 1


def with_pyav(path):
    frames = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            # The luma plane as it is: what hepaflow does, too.
            plane = frame.planes[0]
            grey = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            grey = grey[: frame.height, : frame.width]
            cv2.resize(grey, SIZE, interpolation=cv2.INTER_AREA)
            frames += 1
    return frames


cv2.setNumThreads(1)
for path in sys.argv[1:]:
    for name, read in [("OpenCV", with_opencv), ("PyAV", with_pyav)]:
        best, frames = 0.0, 0
        for _ in range(3):
            begin = time.process_time()
            frames = read(path)
            best = max(best, frames / (time.process_time() - begin))
        print(name, f"{best:.1f}", frames, path, flush=True)
