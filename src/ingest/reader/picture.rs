//! A decoded picture as GStreamer hands it over, borrowed without a copy.

use std::time::Duration;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use crate::domain::FrameSize;
use crate::ingest::preprocess::{Luma, Range};
use crate::ingest::view::{Chroma, Plane};

pub(super) type Mapped<'a> = gst_video::VideoFrameRef<&'a gst::BufferRef>;

/// The picture in `sample`, or `None` if it is not there or not to be trusted.
pub(super) fn mapped<'a>(
    sample: &'a gst::Sample,
    info: &gst_video::VideoInfo,
) -> Option<Mapped<'a>> {
    let buffer = sample.buffer()?;
    // The decoder lacked a reference picture and guessed.
    if buffer.flags().contains(gst::BufferFlags::CORRUPTED) {
        return None;
    }
    gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).ok()
}

fn is_limited(info: &gst_video::VideoInfo) -> bool {
    info.colorimetry().range() == gst_video::VideoColorRange::Range16_235
}

pub(super) fn luma<'a>(mapped: &'a Mapped<'_>, info: &gst_video::VideoInfo) -> Option<Luma<'a>> {
    Some(Luma {
        data: mapped.plane_data(0).ok()?,
        stride: usize::try_from(*mapped.plane_stride().first()?).ok()?,
        size: size_of(info),
        range: if is_limited(info) {
            Range::Limited
        } else {
            Range::Full
        },
    })
}

/// Cb and Cr, of pictures that have them.
pub(super) fn chroma<'a>(
    mapped: &'a Mapped<'_>,
    info: &gst_video::VideoInfo,
) -> Option<Chroma<'a>> {
    let format = info.format_info();
    let plane = |component: usize| {
        Some(Plane {
            data: mapped.comp_data(component as u32).ok()?,
            stride: usize::try_from(mapped.comp_stride(component as u32)).ok()?,
            step: usize::try_from(mapped.comp_pstride(component as u32)).ok()?,
            across: *format.w_sub().get(component)?,
            down: *format.h_sub().get(component)?,
        })
    };
    if format.n_components() < 3 {
        return None;
    }
    Some(Chroma {
        planes: [plane(1)?, plane(2)?],
        is_limited: is_limited(info),
    })
}

pub(super) fn video_info(sample: &gst::Sample) -> Option<gst_video::VideoInfo> {
    gst_video::VideoInfo::from_caps(sample.caps()?).ok()
}

pub(super) fn size_of(info: &gst_video::VideoInfo) -> FrameSize {
    FrameSize {
        height: info.height() as usize,
        width: info.width() as usize,
    }
}

/// The nominal interval; a rate of 0/1 means that it varies.
pub(super) fn interval_of(info: &gst_video::VideoInfo) -> Option<Duration> {
    let fps = info.fps();
    let (frames, seconds) = (
        u64::try_from(fps.numer()).ok()?,
        u64::try_from(fps.denom()).ok()?,
    );
    let nanoseconds = (seconds * 1_000_000_000).checked_div(frames)?;
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}
